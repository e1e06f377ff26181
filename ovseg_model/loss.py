"""Contrastive losses between regions and nouns, and how features of several processes come together for them.

Array names end in their axes: B rows of the batch (all processes' rows, once gathered), H extra texts of a row, D
dimensions of the shared space. Everything is computed in float32, whatever autocast is on.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import log_softmax, normalize


def symmetric_info_nce(
    regions_BD: torch.Tensor, texts_BD: torch.Tensor, logit_scale: torch.Tensor | float
) -> torch.Tensor:
    """Returns the paper's loss, a scalar: row i's text is region i's only positive, and region i that text's.

    With s = logit_scale and r, t the features at unit length:
    L = -1/(2B) Σ_i [log softmax_j(s r_i·t_j) at j = i  +  log softmax_j(s r_j·t_i) at j = i].
    Radford et al., ICML 2021, figure 3, as OVSeg trains by it (Liang et al., CVPR 2023, section 3.2): equal nouns in
    a batch push each other's regions away.

    regions_BD, texts_BD: features of any length above 0. logit_scale: the factor itself, exp of CLIP's parameter.
    """
    own_ids_B = torch.arange(len(regions_BD), device=regions_BD.device)
    return multi_positive_info_nce(regions_BD, texts_BD, logit_scale, own_ids_B)


def multi_positive_info_nce(
    regions_BD: torch.Tensor,
    texts_BD: torch.Tensor,
    logit_scale: torch.Tensor | float,
    noun_ids_B: torch.Tensor,
    negatives_BHD: torch.Tensor | None = None,
    negatives_valid_BH: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the default loss, a scalar: all rows of one noun are positives of each other.

    With P(i) the rows whose noun is that of row i, itself among them:
    L = -1/(2B) Σ_i 1/|P(i)| Σ_{p in P(i)} [log softmax_j(s r_i·t_j) at p  +  log softmax_j(s r_j·t_i) at p].
    Yang et al. (UniCL), CVPR 2022, equations 2 to 4, but the mean over rows and halves instead of their sum; each half
    has the form of L_out of Khosla et al. (SupCon), NeurIPS 2020, equation 2. With all nouns distinct it is
    `symmetric_info_nce`.

    The softmax runs over rows, not over distinct nouns: a noun that the batch holds n times stands n times in the
    denominator. Like CLIP's own loss, this settles where s r·t is log p(noun | region) / p(noun), so that frequent
    nouns gain nothing by being frequent; over distinct nouns they would be pulled up by all their rows and pushed
    down by one column. The price is a constant: with n_i rows of its noun, no row falls below log n_i.

    noun_ids_B: integers, equal for equal nouns. negatives_BHD, negatives_valid_BH: hard negatives, features of H more
    texts for each row and, bool, which of them count; they join row i's softmax over texts and nothing else, and none
    of them may be row i's own noun. Other arguments as in `symmetric_info_nce`. Raises ValueError when shapes differ.
    """
    _check_rows(regions_BD, texts_BD, noun_ids_B, negatives_BHD, negatives_valid_BH)
    with torch.autocast(regions_BD.device.type, enabled=False):
        regions_BD = normalize(regions_BD.float(), dim=-1)
        logits_BB = logit_scale * (regions_BD @ normalize(texts_BD.float(), dim=-1).T)
        targets_BB = _positive_shares(noun_ids_B)
        extra_BH = _negative_logits(regions_BD, logit_scale, negatives_BHD, negatives_valid_BH)
        region_to_text = _cross_entropy(logits_BB, targets_BB, extra_BH)
        text_to_region = _cross_entropy(logits_BB.T, targets_BB)
        return (region_to_text + text_to_region) / 2


def _positive_shares(noun_ids_B: torch.Tensor) -> torch.Tensor:
    """1/|P(i)| where rows i and j share a noun, else 0: float32 (B, B), symmetric."""
    same_BB = (noun_ids_B[:, None] == noun_ids_B[None]).float()
    return same_BB / same_BB.sum(dim=1, keepdim=True)


def _negative_logits(
    regions_BD: torch.Tensor,
    logit_scale: torch.Tensor | float,
    negatives_BHD: torch.Tensor | None,
    valid_BH: torch.Tensor | None,
) -> torch.Tensor | None:
    """Logits of each row's own hard negatives, (B, H); -inf, which a softmax leaves out, where there is none."""
    if negatives_BHD is None:
        return None
    logits_BH = logit_scale * torch.einsum("bd,bhd->bh", regions_BD, normalize(negatives_BHD.float(), dim=-1))
    return logits_BH if valid_BH is None else logits_BH.masked_fill(~valid_BH, -torch.inf)


def _cross_entropy(
    logits_BB: torch.Tensor, targets_BB: torch.Tensor, extra_BH: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over rows of the cross entropy with target shares; extra columns count in the denominator alone."""
    width = logits_BB.shape[1]
    all_logits = logits_BB if extra_BH is None else torch.cat([logits_BB, extra_BH], dim=1)
    # Cut before the product: 0 times -inf is not a number.
    return -(targets_BB * log_softmax(all_logits, dim=1)[:, :width]).sum(dim=1).mean()


def _check_rows(
    regions_BD: torch.Tensor,
    texts_BD: torch.Tensor,
    noun_ids_B: torch.Tensor,
    negatives_BHD: torch.Tensor | None,
    valid_BH: torch.Tensor | None,
) -> None:
    rows, dimensions = regions_BD.shape
    wanted: dict[str, tuple[torch.Tensor | None, tuple[int, ...]]] = {
        "texts": (texts_BD, (rows, dimensions)),
        "noun_ids": (noun_ids_B, (rows,)),
    }
    if negatives_BHD is not None:
        extra = negatives_BHD.shape[1]
        wanted["negatives"] = negatives_BHD, (rows, extra, dimensions)
        wanted["negatives_valid"] = valid_BH, (rows, extra)
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: wanted {shape} beside regions {(rows, dimensions)}, got {tuple(tensor.shape)}")


# Features of several processes. Every process computes the loss of all rows, and DDP averages their gradients.


def gather_with_grad(rows: torch.Tensor) -> torch.Tensor:
    """Returns all processes' rows, (ranks · B, …) in rank order, so that gradients flow back to every process.

    rows: (B, …), of the same shape everywhere. The gradient of a process's own rows is the sum of what all processes'
    losses say of them. Each of R processes computes the whole loss, hence R times its gradient, and DDP's mean over
    processes makes that the gradient of one process with the whole batch. Without a process group: the rows.
    """
    return _GatherWithGrad.apply(rows) if _ranks() > 1 else rows


def gather_without_grad(rows: torch.Tensor) -> torch.Tensor:
    """Returns all processes' rows in rank order; only a process's own rows keep their gradient, the paper's way.

    Each process then has the whole loss's gradient by its own rows, once. DDP's mean over R processes leaves 1/R of
    the gradient of one process with the whole batch, while logit_scale, which every process sees whole, gets all of
    its own. Adam forgives a constant factor but for its eps; clipping by norm does not. For frozen texts and noun
    ids, which have no gradient, this is the cheaper of the two.
    """
    if _ranks() == 1:
        return rows
    shards = _all_shards(rows)
    shards[dist.get_rank()] = rows
    return torch.cat(shards)


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _all_shards(rows: torch.Tensor) -> list[torch.Tensor]:
    """Copies of every process's rows, without gradient."""
    own = rows.detach().contiguous()
    shards = [torch.empty_like(own) for _ in range(_ranks())]
    dist.all_gather(shards, own)
    return shards


class _GatherWithGrad(torch.autograd.Function):
    """All-gather forwards; backwards each process gets the sum of all processes' gradients by its rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.rows = len(rows)
        return torch.cat(_all_shards(rows))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        # Features are small; reduce_scatter would halve the traffic, but not every backend has it.
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        start = dist.get_rank() * ctx.rows
        return summed[start : start + ctx.rows]
