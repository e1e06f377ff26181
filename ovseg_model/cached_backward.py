"""Gradient accumulation for a loss that looks at the whole batch: GradCache (Gao et al., RepL4NLP 2021).

The usual accumulation adds up losses of micro-batches, each with fewer negatives: another loss. Here the features of
all micro-batches are computed first, without a graph; the loss is that of the whole batch, and its gradient by the
features is carried into the encoder one micro-batch at a time. One more forward pass buys the memory of a small batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

Batch = TypeVar("Batch")


def cached_backward(
    encode: Callable[[Batch], torch.Tensor],
    micro_batches: Sequence[Batch],
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    logit_scale: torch.nn.Parameter,
    no_sync: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> torch.Tensor:
    """Adds the gradients of one loss over all micro-batches to .grad; returns that loss, detached.

    encode: a micro-batch to features (b, D), autocast inside; it is called twice for each, with the same random
    state. micro_batches: their rows in order are the batch's. loss_of: features (B, D) and CLIP's logit_scale
    parameter to a scalar, which may gather features over processes and may be scaled against underflow. no_sync: the
    DDP module's, so that gradients are averaged once, with the last micro-batch; logit_scale's arrives with it.
    """
    states, features = [], []
    with torch.no_grad():
        for batch in micro_batches:
            states.append(_random_state())
            features.append(encode(batch))
    loss, gradients, scale_gradient = _gradients_by_features(features, loss_of, logit_scale)
    last = len(micro_batches) - 1
    for index, (batch, gradient) in enumerate(zip(micro_batches, gradients, strict=True)):
        with no_sync() if index < last else contextlib.nullcontext(), _from_random_state(states[index]):
            ends, end_gradients = [encode(batch)], [gradient]
            if index == last and scale_gradient is not None:
                # A view, so that the parameter's gradient arrives the way DDP listens for it.
                ends.append(logit_scale.view_as(logit_scale))
                end_gradients.append(scale_gradient)
            torch.autograd.backward(ends, end_gradients)
    return loss


def _gradients_by_features(
    features: Sequence[torch.Tensor],
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    logit_scale: torch.nn.Parameter,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor | None]:
    """The whole batch's loss, its gradient by each micro-batch's features, and by logit_scale if that trains."""
    features_BD = torch.cat(list(features)).requires_grad_()
    scale = logit_scale.detach().requires_grad_(logit_scale.requires_grad)
    with torch.enable_grad():
        loss = loss_of(features_BD, scale)
    loss.backward()
    return loss.detach(), features_BD.grad.split([len(part) for part in features]), scale.grad


def _random_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), gpu


@contextlib.contextmanager
def _from_random_state(state: tuple[torch.Tensor, list[torch.Tensor]]) -> Iterator[None]:
    """Runs the with block from a random state of before; the state of now comes back afterwards."""
    cpu, gpu = state
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if gpu else []):
        torch.set_rng_state(cpu)
        for each in gpu:
            torch.cuda.set_rng_state(each)
        yield
