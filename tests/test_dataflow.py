"""The job graph that Dataflow would get: hints where models run and nowhere else, no session, no growth."""

import dataclasses
import importlib.util
from importlib import metadata
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions, SetupOptions, WorkerOptions
from apache_beam.portability.common_urns import resource_hints
from apache_beam.transforms import environments
from run_files import files_of

from ovseg_model.clip import ClipWeights
from ovseg_model.images import FetchOptions
from ovseg_model.proposals import on_device, resolve_generator
from ovseg_model.scorer import ClipScorerSpec
from pipelines.command_line import main
from pipelines.dataflow import accelerator_hints, check_accelerator, dataflow_arguments, default_image
from pipelines.engines import open_engine
from pipelines.extract_nouns import plan_extract_nouns
from pipelines.match_regions import MatchRegions
from pipelines.mine_pairs import parse, run_pipeline
from pipelines.options import AcceleratorOptions, MatchOptions, RunOptions
from pipelines.plan import Plan, generator_device, plan_run
from pipelines.propose_masks import ProposeMasks
from pipelines.transforms import define_pipeline
from pipelines.units import StoredTable, Units
from pipelines.write_tables import open_run_folder
from schemas import UserError

REPOSITORY = Path(__file__).parent.parent
L4 = AcceleratorOptions("nvidia-l4")
# pip freeze, which Beam would stage for its log, takes minutes on a busy machine.
GOOGLE = ["--project=my-project", "--region=us-central1", "--temp_location=gs://my-bucket/tmp", "--dry_run=True"]
GOOGLE += ["--experiments=disable_logging_submission_environment"]
HAS_CLIENTS = importlib.util.find_spec("apitools") is not None


@pytest.fixture
def google(monkeypatch):
    """Dataflow's arguments are completed as if Google's clients were installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == "apitools" else find_spec(name))


@pytest.fixture
def plan(tmp_path):
    """A composed run of four units; planned from specs, so that no model is opened."""
    run = open_run_folder(str(tmp_path / "run"))
    weights = ClipWeights("ViT-B-16/openai", "ViT-B-16", "openai", "/opt/w", "0" * 64, 600, False)
    scorer = ClipScorerSpec(weights, "cuda", "fp32", 32, "vild", 1.0, True, 1)
    generator = resolve_generator("felzenszwalb", {}, "cpu", run.url)
    return Plan(
        run,
        Units("hash", 4, 250, "0" * 64, {}),
        StoredTable(run, "read_captions", "captions"),
        plan_extract_nouns(run, "lexicon"),
        ProposeMasks(run, generator, FetchOptions()),
        MatchRegions(run, scorer, MatchOptions(), FetchOptions()),
    )


def root_of(arguments):
    """A pipeline for Dataflow; its options are a copy, in which Beam has settled what was not given."""
    return beam.Pipeline(options=PipelineOptions([*arguments, "--runner=DataflowRunner"]))


def job(plan, arguments, accelerator=L4):
    """The pipeline's options and proto, as DataflowRunner builds them before it asks Google for anything."""
    root = root_of(dataflow_arguments(arguments, accelerator))
    define_pipeline(root, plan, accelerator_hints(accelerator))
    options = root.options
    image = options.view_as(WorkerOptions).sdk_container_image
    artifacts = environments.python_sdk_dependencies(options)
    environment = environments.DockerEnvironment.from_container_image(image, artifacts=artifacts)
    return options, root.to_runner_api(default_environment=environment)


def hints_of(proto):
    """Each transform with an environment of its own, by its full name, and its hints."""
    components = proto.components
    return {
        each.unique_name: dict(components.environments[each.environment_id].resource_hints)
        for each in components.transforms.values()
        if each.environment_id
    }


GPU_HINTS = {resource_hints.ACCELERATOR.urn: b"type:nvidia-l4;count:1;install-nvidia-driver"}


def test_every_step_of_masks_and_scoring_asks_for_a_gpu_and_no_other(plan, google):
    hints = hints_of(job(plan, GOOGLE)[1])
    gpu = {name for name, found in hints.items() if found}
    assert gpu == {name for name in hints if name.split("/")[0] in ("ProposeMasks", "MatchRegions")}
    assert len(gpu) >= 4  # both composites, and the step in each
    assert all(hints[name] == GPU_HINTS for name in gpu)
    assert {name.split("/")[0] for name in hints} >= {"ListUnits", "ReadCaptions", "ExtractNouns", "EndPlan"}


def test_without_an_accelerator_nothing_is_hinted(plan, google):
    assert not any(hints_of(job(plan, GOOGLE, AcceleratorOptions())[1]).values())


def test_a_table_that_is_only_counted_needs_no_gpu(plan, google):
    stored = dataclasses.replace(plan, masks=StoredTable(plan.run, "propose_masks", "masks"))
    hints = hints_of(job(stored, GOOGLE)[1])
    assert {name.split("/")[0] for name, found in hints.items() if found} == {"MatchRegions"}


def staged(proto):
    return [each for environment in proto.components.environments.values() for each in environment.dependencies]


def test_no_main_session_is_pickled_and_nothing_is_staged(plan, google):
    options, proto = job(plan, GOOGLE)
    assert options.view_as(SetupOptions).save_main_session is False
    assert staged(proto) == []


def test_beam_alone_would_pickle_the_main_session():
    options = root_of(GOOGLE).options
    assert options.view_as(SetupOptions).save_main_session is True
    names = [artifact.role_payload for artifact in environments.python_sdk_dependencies(options)]
    assert any(b"pickled_main_session" in name for name in names)


@pytest.mark.parametrize("scheme", ["hash", "shards"])
def test_the_graph_of_a_million_images_is_small(plan, google, scheme):
    shards = tuple(f"gs://my-bucket/corpus/{number:05d}.tar" for number in range(100)) if scheme == "shards" else ()
    small = len(job(plan, GOOGLE)[1].SerializeToString())
    million = dataclasses.replace(plan, units=Units(scheme, 16_384, 1_000_000, "0" * 64, {}, shards))
    size = len(job(million, GOOGLE)[1].SerializeToString())
    assert size < 200_000  # the bound is a megabyte
    assert size - small < 2_000


def test_the_image_is_that_of_our_version_unless_another_is_named(plan, google):
    version = metadata.version("ovseg-mining")
    options, proto = job(plan, GOOGLE)
    image = options.view_as(WorkerOptions).sdk_container_image
    assert image == f"us-central1-docker.pkg.dev/my-project/ovseg/ovseg-mining:{version}"
    payloads = [environment.payload for environment in proto.components.environments.values()]
    assert len(payloads) == 2  # without hints, and with
    assert all(image.encode() in payload for payload in payloads)
    other, _ = job(plan, [*GOOGLE, "--sdk_container_image=gcr.io/mine/image:7"])
    assert other.view_as(WorkerOptions).sdk_container_image == "gcr.io/mine/image:7"


def test_a_project_of_a_domain_has_a_slash_in_addresses():
    assert default_image("example.com:p", "r").startswith("r-docker.pkg.dev/example.com/p/ovseg/")


def experiments(arguments, accelerator):
    options = PipelineOptions([*dataflow_arguments([*GOOGLE, *arguments], accelerator), "--runner=DataflowRunner"])
    return options.view_as(DebugOptions).experiments


def test_one_process_a_gpu_is_an_experiment_beside_the_users_own(google):
    assert "no_use_multiple_sdk_containers" in experiments([], L4)
    both = experiments(["--experiments=shuffle_mode=service"], L4)
    assert both[-2:] == ["shuffle_mode=service", "no_use_multiple_sdk_containers"]
    assert (
        experiments(["--experiments=a,no_use_multiple_sdk_containers"], L4).count("no_use_multiple_sdk_containers") == 1
    )
    for other in (AcceleratorOptions(), dataclasses.replace(L4, one_process_per_gpu=False)):
        assert "no_use_multiple_sdk_containers" not in experiments([], other)


def threads(arguments, accelerator):
    options = PipelineOptions([*dataflow_arguments([*GOOGLE, *arguments], accelerator), "--runner=DataflowRunner"])
    return options.view_as(DebugOptions).number_of_worker_harness_threads


def test_one_unit_at_a_time_is_on_a_gpu_unless_asked_otherwise(google):
    assert threads([], L4) == 1
    assert threads(["--number_of_worker_harness_threads=2"], L4) == 2
    for other in (AcceleratorOptions(), dataclasses.replace(L4, one_process_per_gpu=False)):
        assert threads([], other) is None


def test_the_driver_can_be_left_to_the_image():
    hints = accelerator_hints(AcceleratorOptions("nvidia-tesla-t4", 2, False, False))
    assert hints["accelerator"] == "type:nvidia-tesla-t4;count:2"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--region=r", "--temp_location=gs://b/t"], "--project is missing"),
        (["--project=p", "--temp_location=gs://b/t"], "--region is missing"),
        (["--project=p", "--region=r"], "--temp_location is missing"),
        ([*GOOGLE, "--dataflow_service_options=worker_accelerator=type:nvidia-l4"], "exclude each other"),
    ],
)
def test_what_dataflow_needs_is_said_before_google_is_asked(google, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        dataflow_arguments(arguments, L4)


def test_missing_clients_are_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="its extra gcp"):
        dataflow_arguments(GOOGLE, L4)


@pytest.mark.parametrize(
    ("accelerator", "run", "sentence"),
    [
        (L4, RunOptions(runner="plain"), "--device chooses a GPU of this machine"),
        (L4, RunOptions(runner="FnApiRunner"), "--device chooses a GPU of this machine"),
        (L4, RunOptions(runner="DataflowRunner", device="cpu"), "leave --device cpu away"),
        (AcceleratorOptions("type:nvidia-l4"), RunOptions(runner="DataflowRunner"), "wanted a GPU type"),
        (AcceleratorOptions("nvidia-l4", 2), RunOptions(runner="DataflowRunner"), "others would idle"),
        (AcceleratorOptions("nvidia-l4", 0), RunOptions(runner="DataflowRunner"), "wanted 1 or more"),
    ],
)
def test_gpus_that_nobody_gives_or_uses_are_refused(accelerator, run, sentence):
    with pytest.raises(UserError, match=sentence):
        check_accelerator(accelerator, run)


def mine(drawn, output, *arguments):
    captions = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images"), "--images-per-unit", "6"]
    few = ["--mask-option", "max_masks=4", "--torch-threads", "1"]
    given = ["mine", *captions, "--nouns", "lexicon", "--clip", "scenes", *few]
    return [*given, "--output", str(output), *arguments]


def test_hints_change_no_byte(drawn, tmp_path):
    assert main(mine(drawn, tmp_path / "plain", "--runner", "plain")) == 0
    options, _ = parse(mine(drawn, tmp_path / "hinted"))
    plan = plan_run(("nouns", "masks", "pairs"), options)
    run_pipeline(
        lambda root: define_pipeline(root, plan, accelerator_hints(L4)), "FnApiRunner", open_engine("FnApiRunner", [])
    )
    parts = {name for name in files_of(tmp_path / "plain") if name.endswith(".parquet")}
    assert len(parts) > 10
    pictures = {"examples.png"}  # drawn by the command, not by the pipeline
    whole = {name: sha256 for name, sha256 in files_of(tmp_path / "plain").items() if name not in pictures}
    assert whole == files_of(tmp_path / "hinted")


def test_models_are_planned_for_the_workers_gpu_on_a_machine_that_has_none(drawn, tmp_path):
    options, _ = parse(mine(drawn, tmp_path / "run", "--runner", "DataflowRunner", "--accelerator", "nvidia-l4"))
    plan = plan_run(("nouns", "masks", "pairs"), options)
    assert plan.pairs.scorer.device == "cuda"
    assert plan.pairs.fingerprint()["scorer"]["device"] == "cuda"
    assert plan.masks.generator.device == "cuda"


def test_a_generator_whose_masks_hang_on_the_device_says_so():
    spec = resolve_generator("fakes:HalvesGenerator", {}, "cpu", "")
    assert on_device(spec, "cuda").fingerprint() == spec.fingerprint()
    told = dataclasses.replace(spec, identity_json='{"device": "cpu", "version": 1}')
    assert on_device(told, "cuda").fingerprint()["device"] == "cuda"
    assert generator_device("felzenszwalb", "auto") == "auto"


def test_a_job_that_is_not_waited_for_is_no_failure(drawn, tmp_path, google, monkeypatch, capsys):
    monkeypatch.setattr("pipelines.mine_pairs.run_beam", lambda *_: None)
    submitted = [each for each in GOOGLE if not each.startswith("--dry_run")]
    assert main(mine(drawn, tmp_path / "run", "--runner", "DataflowRunner", *submitted)) == 0
    assert "not waited for" in capsys.readouterr().out
    assert not (tmp_path / "run" / "_SUCCESS").exists()


@pytest.mark.skipif(not HAS_CLIENTS, reason="Google's clients are not installed (extra gcp)")
def test_a_dry_run_of_the_runner_itself_builds_the_same_graph(plan):
    root = root_of(dataflow_arguments(GOOGLE, L4))
    define_pipeline(root, plan, accelerator_hints(L4))
    proto = root.run().job.proto_pipeline
    hints = hints_of(proto)
    gpu = {name.split("/")[0] for name, found in hints.items() if found}
    assert gpu == {"ProposeMasks", "MatchRegions"}
    assert all(found == GPU_HINTS for name, found in hints.items() if name.split("/")[0] in gpu)
    assert len(proto.SerializeToString()) < 1_000_000
    assert staged(proto) == []


@pytest.mark.skipif(not HAS_CLIENTS, reason="Google's clients are not installed (extra gcp)")
def test_a_dry_run_of_the_command_makes_nothing(drawn, tmp_path, capsys):
    gpu = ["--runner", "DataflowRunner", "--accelerator", "nvidia-l4"]
    assert main(mine(drawn, tmp_path / "run", *gpu, *GOOGLE)) == 0
    assert "nothing was submitted" in capsys.readouterr().out
    assert not (tmp_path / "run" / "pairs").exists()
