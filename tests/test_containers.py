"""The image cannot be built here, but what it would be built from must agree with the project."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipelines.fetch_weights import fetch_folder
from pipelines.flex_template import command_of, main, option_types, template_metadata
from pipelines.mine_pairs import TAKES, parse
from schemas import UserError

REPOSITORY = Path(__file__).parent.parent
CONTAINERS = REPOSITORY / "containers"
DOCKERFILE = (CONTAINERS / "Dockerfile").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
METADATA = json.loads((CONTAINERS / "flex_template.json").read_text())


def instructions(text):
    """(instruction, rest) pairs of a Dockerfile, comments left out and continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines()]


STEPS = instructions(DOCKERFILE)
ARGUMENTS = dict(rest.split("=", 1) for name, rest in STEPS if name == "ARG" and "=" in rest)
ENVIRONMENT = dict(pair.split("=", 1) for name, rest in STEPS if name == "ENV" for pair in rest.split())


def locked(path):
    """Version and hashes' presence of every package of a lock."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.MULTILINE))


LOCK = locked(CONTAINERS / "requirements.lock")


def test_python_is_the_projects_own_everywhere():
    minor = PROJECT["requires-python"].removeprefix(">=")
    assert ARGUMENTS["PYTHON"] == minor == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"python{minor.replace('.', '')}-template-launcher-base" in ARGUMENTS["LAUNCHER"]
    bases = [rest for name, rest in STEPS if name == "FROM"]
    assert bases == [
        "apache/beam_python${PYTHON}_sdk:${BEAM} AS beam",
        "${LAUNCHER} AS launcher",
        "python:${PYTHON}-slim",
    ]


def test_versions_are_those_of_project_and_lock():
    assert ARGUMENTS["BEAM"] == LOCK["apache-beam"] == locked(REPOSITORY / "requirements.lock")["apache-beam"]
    assert ARGUMENTS["VERSION"] == PROJECT["version"]
    assert f"IMAGE:{PROJECT['version']}" in DOCKERFILE


def test_the_images_lock_holds_the_versions_that_are_tested():
    tested = locked(REPOSITORY / "requirements.lock")
    shared = LOCK.keys() & tested.keys()
    assert {name: LOCK[name] for name in shared} == {name: tested[name] for name in shared}
    wanted = {re.split(r"[\[<>=]", each)[0].lower().replace("_", "-") for each in PROJECT["dependencies"]}
    assert wanted - LOCK.keys() == set()
    assert {"gcsfs", "google-cloud-storage", "google-apitools", "transformers"} <= LOCK.keys()
    text = (CONTAINERS / "requirements.lock").read_text()
    assert "://" not in text
    assert text.count("--hash=sha256:") > len(LOCK)


def test_every_build_argument_is_documented():
    assert set(ARGUMENTS) == set(re.findall(r"^#   ([A-Z_]+) ", DOCKERFILE, re.MULTILINE))
    page = (REPOSITORY / "docs" / "dataflow.md").read_text()
    assert {name for name in ARGUMENTS if f"`{name}`" not in page and f"{name}=" not in page} == set()


def test_what_is_copied_is_there_and_complete():
    copied = [rest.split()[:-1] for name, rest in STEPS if name == "COPY" and not rest.startswith("--from")]
    sources = {source for each in copied for source in each}
    assert all((REPOSITORY / source).exists() for source in sources)
    packages = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {name.split(".")[0] for name in packages} <= sources
    ignored = (CONTAINERS / "Dockerfile.dockerignore").read_text().split()
    assert sources & set(ignored) == set()


def test_beams_boot_comes_last_and_the_launcher_is_found():
    assert STEPS[-1] == ("ENTRYPOINT", '["/opt/ovseg/boot"]')
    assert (CONTAINERS / "boot").read_text().splitlines()[-1] == 'exec /opt/apache/beam/boot "$@"'
    assert os.access(CONTAINERS / "boot", os.X_OK)
    assert ENVIRONMENT["FLEX_TEMPLATE_PYTHON_PY_FILE"] == "/opt/ovseg/launcher.py"
    assert ("WORKDIR", "/opt/ovseg") in STEPS
    assert ("COPY", "containers/boot containers/launcher.py ./") in STEPS


def test_workers_find_nltks_data_and_ask_no_hub():
    from pipelines.noun_rules.nltk_packages import PACKAGES

    assert ENVIRONMENT["NLTK_DATA"] == "/opt/nltk_data"
    assert ENVIRONMENT["HF_HUB_OFFLINE"] == "1"
    download = next(rest for name, rest in STEPS if name == "RUN" and "nltk.downloader" in rest)
    assert all(package in download for package in PACKAGES)


DOCUMENTED = {"name", "label", "helpText", "isOptional", "regexes", "paramType", "customMetadata", "groupName"}
DOCUMENTED |= {"parentName", "parentTriggerValues", "enumOptions", "defaultValue", "hiddenUi"}
"""Fields of Dataflow's ParameterMetadata."""


def test_the_metadata_are_valid():
    assert METADATA.keys() <= {"name", "description", "parameters", "streaming"}
    for each in METADATA["parameters"]:
        assert each.keys() <= DOCUMENTED
        assert {"name", "label", "helpText"} <= each.keys()
        assert re.fullmatch(r"[a-z][a-z0-9_]*", each["name"])
        assert each["paramType"] in ("TEXT", "BOOLEAN", "ENUM", "NUMBER")
        assert all(isinstance(each[name], str) and each[name] for name in ("label", "helpText"))
        assert isinstance(each.get("defaultValue", ""), str)
        assert (each["paramType"] == "ENUM") == ("enumOptions" in each)
        if "enumOptions" in each and "defaultValue" in each:
            assert each["defaultValue"] in [choice["value"] for choice in each["enumOptions"]]
    assert [each["name"] for each in METADATA["parameters"] if not each["isOptional"]] == ["output"]


def test_the_parameters_are_our_options():
    assert template_metadata() == METADATA, "run: python -m pipelines.flex_template > containers/flex_template.json"
    names = [each["name"] for each in METADATA["parameters"]]
    assert names == ["verb", *dict(option_types())]
    assert {"captions", "output", "clip", "accelerator", "one_process_per_gpu", "threads"} <= set(names)


def test_the_defaults_of_the_metadata_are_the_defaults():
    given = [f"--{each['name']}={each['defaultValue']}" for each in METADATA["parameters"] if "defaultValue" in each]
    bare = ["mine", "--captions", "c.json", "--output", "gs://b/run", "--runner", "DataflowRunner"]
    assert parse(command_of(["--captions=c.json", "--output=gs://b/run", *given]))[0] == parse(bare)[0]


def test_parameters_become_a_command():
    parameters = ["--captions=gs://b/a.json gs://b/c d.json", "--crops=true", "--antialias=False", "--verb=match"]
    command = command_of([*parameters, "--region_batch=64", "--project=p", "--x"])
    assert command == [
        *("match", "--captions", "gs://b/a.json", "gs://b/c", "d.json", "--crops", "--no-antialias"),
        *("--region-batch=64", "--project=p", "--x", "--runner=DataflowRunner"),
    ]
    assert command_of(["--runner=plain"]) == ["mine", "--runner=plain"]
    with pytest.raises(UserError, match="parameter crops: wanted true or false, got 'maybe'"):
        command_of(["--crops=maybe"])


def test_the_launcher_says_a_mistake_in_one_sentence(monkeypatch, capsys):
    monkeypatch.delenv("OVSEG_WEIGHTS_URL", raising=False)
    assert main(["--crops=maybe"]) == 2
    assert main(["--verb=minr"]) == 2
    assert "did you mean mine?" in capsys.readouterr().err
    assert set(TAKES) == {each["value"] for each in METADATA["parameters"][0]["enumOptions"]}


def test_the_launcher_script_runs_as_google_runs_it(tmp_path):
    command = [sys.executable, str(CONTAINERS / "launcher.py"), "--output=gs://b/run", "--images_per_unit=0"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ovseg mine: --images-per-unit: wanted 1 or more, got 0\n"


def test_weights_come_from_a_bucket_whole_or_not_at_all(tmp_path):
    import fsspec

    bucket = fsspec.filesystem("memory")
    bucket.pipe({"/weights/a.safetensors": b"aa", "/weights/mask/config.json": b"{}"})
    target = tmp_path / "opt" / "weights"
    target.parent.mkdir()
    fetch_folder("memory://weights", str(target))
    assert (target / "a.safetensors").read_bytes() == b"aa"
    assert (target / "mask" / "config.json").read_bytes() == b"{}"
    assert [path.name for path in target.parent.iterdir()] == ["weights"]
    bucket.pipe("/weights/a.safetensors", b"new")
    fetch_folder("memory://weights", str(target))
    assert (target / "a.safetensors").read_bytes() == b"aa"
    with pytest.raises(UserError, match="weights at memory://none cannot be fetched"):
        fetch_folder("memory://none", str(tmp_path / "other"))
    assert [path.name for path in tmp_path.iterdir()] == ["opt"]


def test_boot_fetches_and_then_hands_over(tmp_path):
    """The script with stand-ins for Python and for Beam's boot."""
    beam = tmp_path / "beam_boot"
    beam.write_text('#!/bin/sh\necho "boot $@"\n')
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "python $@"\n')
    script = tmp_path / "boot"
    script.write_text((CONTAINERS / "boot").read_text().replace("/opt/apache/beam/boot", str(beam)))
    for each in (beam, python, script):
        each.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([str(script), "--id=1", "a b"], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "python -m pipelines.fetch_weights\nboot --id=1 a b\n"
