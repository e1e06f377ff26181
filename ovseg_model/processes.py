"""The processes of a training run: one, or those that torchrun started, each with its device."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ovseg_model.clip import resolve_device
from schemas.errors import UserError

Summed = TypeVar("Summed")

LONGEST_WAIT = timedelta(hours=6)
"""For a process that measures, embeds or writes while the others wait; NCCL's own limit is ten minutes."""


@dataclass(frozen=True)
class Processes:
    """One process among those of the run."""

    rank: int
    count: int
    device: str
    """Such as "cpu" or "cuda:1"."""

    @property
    def kind(self) -> str:
        """The device without its number: "cpu" or "cuda"."""
        return self.device.split(":")[0]

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def wrap(self, model: torch.nn.Module, compile_: bool) -> torch.nn.Module:
        """The model as steps call it: compiled if asked for, and with its gradients averaged over processes."""
        called = torch.compile(model) if compile_ else model
        if self.count == 1:
            return called
        devices = [self.device] if self.kind == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(called, device_ids=devices)

    def no_sync(self, encoder: torch.nn.Module) -> Callable[[], contextlib.AbstractContextManager[Any]]:
        """Where gradients are not averaged yet."""
        return encoder.no_sync if self.count > 1 else contextlib.nullcontext

    def maximum(self, value: int) -> int:
        """The largest value of all processes."""
        if self.count == 1:
            return value
        tensor = torch.tensor(value, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def total(self, value: float) -> float:
        """The sum of the values of all processes, in float64."""
        if self.count == 1:
            return value
        # NCCL lives on the GPU; float64 there is slow, but this is one number.
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.item()

    def sum_of(self, value: Summed, zero: Summed) -> Summed:
        """The sum of a small picklable value of all processes, in the order of their ranks."""
        if self.count == 1:
            return value
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return sum(values, zero)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()


@contextlib.contextmanager
def open_processes(device: str) -> Iterator[Processes]:
    """Joins the processes that torchrun started, if it did: gloo on CPUs, NCCL on GPUs, one GPU a process.

    device: as `resolve_device` takes it. Raises UserError for a device that is not there.
    """
    count, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    resolved = resolve_device(device)
    if count == 1:
        yield Processes(0, 1, resolved)
        return
    if resolved.startswith("cuda"):
        if ":" in resolved:
            raise UserError(f"--device {device}: torchrun gives each process a GPU of its own; give --device cuda")
        resolved = resolve_device(f"cuda:{local}")
        torch.cuda.set_device(resolved)
    dist.init_process_group("nccl" if resolved.startswith("cuda") else "gloo", timeout=LONGEST_WAIT)
    try:
        yield Processes(dist.get_rank(), count, resolved)
    finally:
        dist.destroy_process_group()
