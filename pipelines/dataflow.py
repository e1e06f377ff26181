"""What Dataflow needs to be told beside our options: the image of this version, GPUs, one process for each.

Free of Beam: all of it is arguments and hints, decided before work starts.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Sequence
from importlib import metadata

from pipelines.options import AcceleratorOptions, RunOptions, require_at_least
from schemas import UserError

DATAFLOW = "DataflowRunner"
ONE_PROCESS = "no_use_multiple_sdk_containers"
"""The experiment by which a worker machine runs one SDK process, instead of one a vCPU."""

NEEDED = ("project", "region")
"""Beam asks Google for what is missing of them, for minutes, where it cannot."""

GPU_TYPE = re.compile(r"[a-z0-9][a-z0-9-]*")


def default_image(project: str, region: str) -> str:
    """Where docs/dataflow.md puts the image of this version: in the project's own Artifact Registry."""
    version = metadata.version("ovseg-mining")
    # A project of an old domain is called domain:name, which stands as domain/name in addresses.
    return f"{region}-docker.pkg.dev/{project.replace(':', '/')}/ovseg/ovseg-mining:{version}"


def accelerator_hints(options: AcceleratorOptions) -> dict[str, str]:
    """Beam's resource hints for steps that run models; none where no GPU is asked for."""
    if not options.accelerator:
        return {}
    driver = ";install-nvidia-driver" if options.install_driver else ""
    return {"accelerator": f"type:{options.accelerator};count:{options.accelerator_count}{driver}"}


def check_accelerator(options: AcceleratorOptions, run: RunOptions) -> None:
    """Refuses GPUs that nobody would give, or that would idle.

    Raises:
        UserError: naming the option, what is wanted and what was given.
    """
    require_at_least("accelerator_count", options.accelerator_count, 1)
    if not options.accelerator:
        return
    if run.runner in ("plain", "FnApiRunner"):
        raise UserError(
            f"--accelerator asks an engine for workers with GPUs, --runner {run.runner} has no such workers; leave it "
            "away: --device chooses a GPU of this machine"
        )
    if not GPU_TYPE.fullmatch(options.accelerator):
        raise UserError(f"--accelerator: wanted a GPU type such as nvidia-l4, got {options.accelerator!r}")
    if run.device not in ("auto", "cuda"):
        raise UserError(f"--accelerator {options.accelerator}: models go to that GPU; leave --device {run.device} away")
    if options.one_process_per_gpu and options.accelerator_count > 1:
        raise UserError(
            f"--accelerator-count {options.accelerator_count}: one process a worker uses one GPU and the others would "
            "idle; take workers of one GPU, or give --no-one-process-per-gpu"
        )


def dataflow_arguments(arguments: Sequence[str], options: AcceleratorOptions) -> list[str]:
    """The arguments for Beam with what Dataflow needs and the user did not say.

    The image of this version, which holds all code (nothing is staged, no main session pickled), and one SDK process
    a GPU.

    Raises:
        UserError: project or region is missing, Google's clients are not installed, or GPUs are asked for twice.
    """
    given = _parse(arguments)
    for name in NEEDED:
        if not getattr(given, name):
            raise UserError(f"--runner {DATAFLOW}: --{name} is missing; see docs/dataflow.md")
    if not given.temp_location and not given.staging_location:
        raise UserError(f"--runner {DATAFLOW}: --temp_location is missing; give a folder of a bucket, gs://BUCKET/tmp")
    if importlib.util.find_spec("apitools") is None:
        raise UserError(f"--runner {DATAFLOW} needs Google's clients: install ovseg-mining with its extra gcp")
    if options.accelerator and "worker_accelerator" in " ".join(given.dataflow_service_options):
        raise UserError("--accelerator and the service option worker_accelerator exclude each other; leave one away")
    return [*arguments, *_not_given(given, options)]


def _not_given(given: argparse.Namespace, options: AcceleratorOptions) -> list[str]:
    added = []
    if not given.sdk_container_image:
        added.append(f"--sdk_container_image={default_image(given.project, given.region)}")
    if not given.sdk_location:
        added.append("--sdk_location=container")
    if not given.save_main_session:
        added.append("--no_save_main_session")
    if options.accelerator and options.one_process_per_gpu:
        added += _one_process(given)
    return added


def _one_process(given: argparse.Namespace) -> list[str]:
    """One process and, unless asked otherwise, one thread: units at once would add up on the GPU.

    Beam's hint of bundles at once does not do: it is summed, not kept, each time that a graph is read again.
    """
    experiment = [] if ONE_PROCESS in given.experiments else [f"--experiments={ONE_PROCESS}"]
    return experiment + ([] if given.number_of_worker_harness_threads else ["--number_of_worker_harness_threads=1"])


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Those of Beam's options that decide what is added, by their names in Beam."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in (*NEEDED, "temp_location", "staging_location", "sdk_location", "number_of_worker_harness_threads"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--sdk_container_image", "--worker_harness_container_image")
    parser.add_argument("--save_main_session", action="store_true")
    parser.add_argument("--experiments", "--experiment", action="append", default=[])
    parser.add_argument("--dataflow_service_options", "--dataflow_service_option", action="append", default=[])
    given = parser.parse_known_args(list(arguments))[0]
    given.experiments = [name for names in given.experiments for name in names.split(",")]
    return given
