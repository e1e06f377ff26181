"""Markdown pages of benchmarks: what was measured, where, and what came out."""

from __future__ import annotations

import os
import platform
import textwrap
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

PAGE_WIDTH = 120


def write_page(
    path: Path, title: str, about: str, sections: Sequence[str], packages: Sequence[str], threads: int = 0
) -> None:
    """Writes a page. about: the benchmark's docstring; packages, threads: as of `place`."""
    paragraph = textwrap.fill(place(packages, threads), PAGE_WIDTH)
    path.write_text("\n\n".join([f"# {title}", about.strip(), paragraph, *sections]) + "\n", encoding="utf-8")


def place(packages: Sequence[str], threads: int = 0) -> str:
    """Where something was measured: processor, versions of packages, threads of torch (0: it has no part), and load."""
    libraries = "".join(f", {name} {metadata.version(name)}" for name in packages)
    words = f"{threads} thread{'s' * (threads != 1)} on " if threads else ""
    cores = f"{words}{os.cpu_count()} processors"
    load = f"load average {os.getloadavg()[0]:.1f} at the end, other programs included"
    return f"Measured on {processor_name()} with Python {platform.python_version()}{libraries}, on {cores}; {load}."


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's kind, with its model where the system tells it."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} ({models[0]})" if models and models[0] else platform.machine()
