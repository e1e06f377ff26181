"""Beam's engines on this machine: where `make engines` put them, and what Beam has to be told to use them.

Prism is a program built from its Go module, the Flink job server one jar with the engine embedded (docs/engines.md).
Beam itself would fetch either while a run starts; nothing is fetched here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from schemas import UserError

FOLDER = ".engines"
PRISM = "prism-*"
PRISM_OPTION = "--prism_location"
FLINK_JAR = "beam-runners-flink-*-job-server-*.jar"
FLINK_OPTION = "--flink_job_server_jar"
EXPERIMENTS = "--experiments"

POOL_RUNNERS = ("FnApiRunner", "FlinkRunner")
"""Runners that can have several worker processes on one machine; Prism asks for one, whatever it is told."""

LOST_WORKER = (
    "Channel closed prematurely",
    "StatusCode.UNAVAILABLE",
    "Socket closed",
    "Stream removed",
    "Connection refused",
    "SDK worker",
    "worker failed to connect",
    "failed in state FAILED: unknown error",
)
"""What Beam says when a worker or an engine is gone, with its runner in the launching process or in another."""

OpenEngine = AbstractContextManager[tuple[Any, list[str]]]
"""A runner, or None where the arguments name it, and the arguments of a pipeline."""


@contextlib.contextmanager
def open_engine(
    runner: str, beam_arguments: Sequence[str], workers: int = 0, engines: str | None = None
) -> Iterator[tuple[Any, list[str]]]:
    """What `beam.Pipeline` is to be given: a runner, or None where the arguments name it, and the arguments.

    Args:
        runner: a runner's name.
        beam_arguments: the user's; none of them is overridden.
        workers: worker processes on this machine; 0 leaves it to the runner.
        engines: folder of the engines; None looks in the places of `engine_folders`.

    Raises:
        UserError: the engine is not there, or cannot have so many workers.
    """
    arguments = [*beam_arguments, *engine_arguments(runner, beam_arguments, workers, engines)]
    # It warns whenever it ends the engine that it started.
    logging.getLogger("apache_beam.utils.subprocess_server").setLevel(logging.ERROR)
    if workers:
        let_workers_find_us()
    if not workers or runner != "FnApiRunner":
        yield None, [*arguments, f"--runner={runner}"]
        return
    with worker_pool() as address:
        yield fn_api_runner(address), arguments


def engine_arguments(runner: str, given: Sequence[str], workers: int, engines: str | None) -> list[str]:
    """The arguments that make Beam use an installed engine, apart from those that the user gave.

    Raises:
        UserError: the engine is not there, or cannot have so many workers.
    """
    if workers and runner not in POOL_RUNNERS:
        raise UserError(f"--workers {workers}: wanted one of --runner {', '.join(POOL_RUNNERS)}, got {runner}")
    wanted = {"--direct_num_workers": str(workers)} if runner == "FnApiRunner" and workers else {}
    if not is_given("--job_endpoint", given):  # else the engine runs already, and is not ours to find
        if runner == "PrismRunner" and not is_given(PRISM_OPTION, given):
            wanted |= {PRISM_OPTION: find_engine("Prism", PRISM, PRISM_OPTION, engines), "--prism_log_level": "warn"}
        if runner == "FlinkRunner":
            wanted |= flink_arguments(given, workers, engines)
    # Experiments add up; every other option of the user's stands.
    return [f"{name}={value}" for name, value in wanted.items() if name == EXPERIMENTS or not is_given(name, given)]


def flink_arguments(given: Sequence[str], workers: int, engines: str | None) -> dict[str, str]:
    """What FlinkRunner is told: the jar, the engine inside it unless a cluster is named, and the workers."""
    wanted = {"--flink_master": "[local]", "--parallelism": str(max(1, workers))}
    if not is_given(FLINK_OPTION, given):
        wanted[FLINK_OPTION] = find_engine("Flink's job server", FLINK_JAR, FLINK_OPTION, engines)
    if workers:
        wanted |= {"--sdk_worker_parallelism": str(workers), EXPERIMENTS: "use_loopback_process_worker"}
    return wanted


def is_given(name: str, arguments: Sequence[str]) -> bool:
    """Whether an option is among the arguments, as `--name value` or `--name=value`."""
    return any(argument == name or argument.startswith(f"{name}=") for argument in arguments)


def find_engine(title: str, pattern: str, option: str, engines: str | None) -> str:
    """The path of an installed engine's file.

    Raises:
        UserError: there is none.
    """
    folders = [Path(engines)] if engines else engine_folders()
    found = [str(path.resolve()) for folder in folders for path in sorted(folder.glob(pattern))]
    if not found:
        places = " and ".join(dict.fromkeys(str(folder) for folder in folders))
        target = "engines" if pattern == PRISM else "engine-flink"
        raise UserError(
            f"{title} is not in {places}; `make {target}` installs it, --engines names the folder that has it, "
            f"or {option} the file"
        )
    return found[0]


def engine_folders() -> list[Path]:
    """Where engines are looked for: in the folder of the command, then in that of the project."""
    return [Path.cwd() / FOLDER, Path(__file__).resolve().parent.parent / FOLDER]


def let_workers_find_us() -> None:
    """Beam starts its workers as `python` from PATH: this Python, with the modules that are found here."""
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)


@contextlib.contextmanager
def worker_pool() -> Iterator[str]:
    """The address of a pool that starts worker processes when asked to; on leaving it, they end."""
    from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

    logging.getLogger("apache_beam.runners.worker.worker_pool_main").setLevel(logging.ERROR)
    address, server = BeamFnExternalWorkerPoolServicer.start(use_process=True)
    try:
        yield address
    finally:
        server.stop(1).wait()


def fn_api_runner(pool_address: str) -> Any:
    """Beam's own runner, whose workers are processes of a pool.

    Its `multi_processing` mode waits for ever for a worker that died; this one fails at once.
    """
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import ExternalEnvironment

    # It warns that several workers want another mode; they have a pool.
    logging.getLogger("apache_beam.runners.portability.fn_api_runner.fn_runner").setLevel(logging.ERROR)
    return FnApiRunner(default_environment=ExternalEnvironment(pool_address))


def sentence_of_engine(runner: str, text: str) -> str | None:
    """One sentence where an engine's error says that a worker or the engine itself is gone; None for other errors."""
    if not any(sign in text for sign in LOST_WORKER) or "Traceback (most recent call last)" in text:
        return None
    return (
        f"{runner} lost a worker process, or itself died; parts that were made stay, and the same command goes on "
        "where it was"
    )
