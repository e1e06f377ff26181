"""Contrastive losses by hand, their gradients over processes, and accumulation that is the big batch exactly."""

import contextlib
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from ovseg_model.cached_backward import cached_backward
from ovseg_model.loss import gather_with_grad, gather_without_grad, multi_positive_info_nce, symmetric_info_nce

REPOSITORY = Path(__file__).parent.parent


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_papers_loss_is_two_cross_entropies():
    regions, texts = seeded(7, 5), seeded(7, 5, seed=1)
    logits = 20 * normalize(regions) @ normalize(texts).T
    wanted = (cross_entropy(logits, torch.arange(7)) + cross_entropy(logits.T, torch.arange(7))) / 2
    assert symmetric_info_nce(regions, texts, 20.0).item() == pytest.approx(wanted.item(), rel=1e-6)
    assert symmetric_info_nce(3 * regions, 0.1 * texts, torch.tensor(20.0)).item() == pytest.approx(wanted.item(), 1e-6)


def test_the_papers_loss_by_hand():
    """Two rows at right angles: each is told from the other by exp(2) against exp(0)."""
    loss = symmetric_info_nce(torch.eye(2), torch.eye(2), 2.0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)


def test_distinct_nouns_give_the_papers_loss_exactly():
    regions, texts = seeded(6, 4), seeded(6, 4, seed=1)
    ids = torch.tensor([9, 3, 7, 1, 0, 100])
    assert torch.equal(multi_positive_info_nce(regions, texts, 50.0, ids), symmetric_info_nce(regions, texts, 50.0))


def test_equal_nouns_by_hand():
    """Rows cat, cat, dog; the cats' regions are e0 and e1, their text e0, the dog's region and text e2; scale 1.

    Region to text: e0 sees (1, 1, 0): -log(e/(2e+1)); e1 sees (0, 0, 0): log 3; the dog sees (0, 0, 1).
    Text to region: both cat texts see (1, 0, 0), each half of it a positive; the dog's sees (0, 0, 1).
    """
    regions, texts = torch.eye(3), torch.eye(3)[[0, 0, 2]]
    e = math.e
    to_text = (math.log(2 + 1 / e) + math.log(3) + math.log(1 + 2 / e)) / 3
    cat = -0.5 * (math.log(e / (e + 2)) + math.log(1 / (e + 2)))
    to_region = (2 * cat + math.log((e + 2) / e)) / 3
    loss = multi_positive_info_nce(regions, texts, 1.0, torch.tensor([4, 4, 2]))
    assert loss.item() == pytest.approx((to_text + to_region) / 2, rel=1e-6)


def test_equal_nouns_against_a_loop():
    regions, texts = normalize(seeded(8, 5)), normalize(seeded(4, 5, seed=1))
    ids = torch.tensor([0, 1, 0, 2, 3, 1, 0, 3])
    logits = (10 * regions @ texts[ids].T).double()
    total = 0.0
    for table in (logits, logits.T):
        for i in range(8):
            positives = [p for p in range(8) if ids[p] == ids[i]]
            total -= sum((table[i, p] - table[i].logsumexp(0)).item() for p in positives) / len(positives)
    loss = multi_positive_info_nce(regions, texts[ids], 10.0, ids)
    assert loss.item() == pytest.approx(total / 16, rel=1e-5)


def test_a_noun_that_fills_the_batch_pushes_nothing():
    """All rows one noun: nothing to tell apart by text, and the loss is its floor, log of the rows."""
    regions = normalize(seeded(5, 3)).requires_grad_()
    texts = normalize(seeded(1, 3, seed=1)).expand(5, 3)
    loss = multi_positive_info_nce(regions, texts, 10.0, torch.zeros(5, dtype=torch.long))
    assert loss.item() >= math.log(5)
    same = regions[:1].expand(5, 3)
    floor = multi_positive_info_nce(same, texts, 10.0, torch.zeros(5, dtype=torch.long))
    assert floor.item() == pytest.approx(math.log(5), rel=1e-6)
    floor.backward()
    assert regions.grad.abs().max() < 1e-6


def test_frequent_nouns_gain_nothing_by_being_frequent():
    """Three cats, one dog, a region that could be any: the gradient pulls its cosines nowhere at log p/p(noun) = 0."""
    region = torch.tensor([0.0, 0.0, 1.0], requires_grad=True)
    texts = torch.eye(3)[[0, 0, 0, 1]]
    loss = multi_positive_info_nce(region.expand(4, 3), texts, 1.0, torch.tensor([0, 0, 0, 1]))
    loss.backward()
    assert region.grad.abs().max() < 1e-6


def test_hard_negatives_by_hand():
    """Row 0 has one extra text at cosine 1, row 1 none that counts; the direction text to region stays."""
    negatives = torch.eye(2)[[0, 0]][:, None]
    valid = torch.tensor([[True], [False]])
    loss = multi_positive_info_nce(torch.eye(2), torch.eye(2), 1.0, torch.tensor([0, 1]), negatives, valid)
    e = math.e
    without = math.log(1 + 1 / e)
    wanted = ((math.log((2 * e + 1) / e) + without) / 2 + without) / 2
    assert loss.item() == pytest.approx(wanted, rel=1e-6)


def test_hard_negatives_that_do_not_count_change_nothing():
    regions, texts, ids = seeded(4, 5).requires_grad_(), seeded(4, 5, seed=1), torch.tensor([0, 1, 1, 2])
    negatives, none = seeded(4, 3, 5, seed=2), torch.zeros(4, 3, dtype=torch.bool)
    loss = multi_positive_info_nce(regions, texts, 10.0, ids, negatives, none)
    assert loss.item() == pytest.approx(multi_positive_info_nce(regions, texts, 10.0, ids).item(), rel=1e-6)
    loss.backward()
    assert regions.grad.isfinite().all()
    every = multi_positive_info_nce(regions, texts, 10.0, ids, negatives)
    assert torch.equal(every, multi_positive_info_nce(regions, texts, 10.0, ids, negatives, ~none))
    assert every > loss


def test_the_loss_is_float32_whatever_autocast_says():
    regions, texts = seeded(6, 4).bfloat16(), seeded(6, 4, seed=1).bfloat16()
    wanted = symmetric_info_nce(regions.float(), texts.float(), 100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = symmetric_info_nce(regions, texts, 100.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts_BD": torch.ones(3, 5)}, r"texts: wanted \(4, 5\) beside regions \(4, 5\), got \(3, 5\)"),
        ({"noun_ids_B": torch.zeros(3)}, r"noun_ids: wanted \(4,\) beside"),
        ({"negatives_BHD": torch.ones(4, 2, 3)}, r"negatives: wanted \(4, 2, 5\) beside"),
        (
            {"negatives_BHD": torch.ones(4, 2, 5), "negatives_valid_BH": torch.ones(4, 1)},
            r"negatives_valid: wanted \(4, 2\)",
        ),
    ],
)
def test_shapes_that_differ_are_refused(change, message):
    rows = {"regions_BD": torch.ones(4, 5), "texts_BD": torch.ones(4, 5), "noun_ids_B": torch.zeros(4)}
    with pytest.raises(ValueError, match=message):
        multi_positive_info_nce(**{**rows, "logit_scale": 1.0, **change})


# Several processes.


def test_one_process_gathers_itself():
    rows = seeded(3, 2).requires_grad_()
    assert gather_with_grad(rows) is rows
    assert gather_without_grad(rows) is rows


TWO_RANKS = """
import contextlib, sys, torch
import torch.distributed as dist
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel
from ovseg_model.cached_backward import cached_backward
from ovseg_model.loss import gather_with_grad, gather_without_grad, multi_positive_info_nce

torch.set_num_threads(1)
rank, store = int(sys.argv[1]), sys.argv[2]
IDS = torch.tensor([0, 1, 1, 2, 0, 3, 4, 1])
draw = torch.Generator().manual_seed(0)
PIXELS, TEXTS = torch.randn(8, 6, generator=draw), torch.randn(5, 4, generator=draw)[IDS]
HARD, VALID = torch.randn(8, 2, 4, generator=draw), torch.rand(8, 2, generator=draw) > 0.3


class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))
        self.layers = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4))
        for index, weight in enumerate(self.layers.parameters()):
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(index))

    def forward(self, pixels):
        return self.layers(pixels)


def gradients(model):
    return {name.removeprefix("module."): weight.grad for name, weight in model.named_parameters()}


alone = Tower()
loss = multi_positive_info_nce(alone(PIXELS), TEXTS, alone.logit_scale.exp(), IDS, HARD, VALID)
loss.backward()
wanted = gradients(alone)

dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
own = slice(4 * rank, 4 * rank + 4)
rest = [gather_without_grad(rows[own]) for rows in (TEXTS, IDS, HARD, VALID)]
assert all(torch.equal(ours, theirs) for ours, theirs in zip(rest, (TEXTS, IDS, HARD, VALID)))


def whole_loss(regions, log_scale, gather):
    texts, ids, hard, valid = rest
    return multi_positive_info_nce(gather(regions), texts, log_scale.exp(), ids, hard, valid)


def check(model, ours, share):
    torch.testing.assert_close(ours, loss.detach(), rtol=1e-6, atol=0)
    for name, gradient in gradients(model).items():
        by = 1 if name == "logit_scale" else share
        torch.testing.assert_close(gradient, by * wanted[name], rtol=1e-5, atol=1e-7, msg=name)


for gather, share in ((gather_with_grad, 1), (gather_without_grad, 1 / 2)):
    model = DistributedDataParallel(Tower())
    ours = whole_loss(model(PIXELS[own]), model.module.logit_scale, gather)
    ours.backward()
    check(model, ours.detach(), share)

    model = DistributedDataParallel(Tower())
    for step in range(2):  # DDP finds out about a broken first step in the second
        model.zero_grad()
        ours = cached_backward(
            model,
            PIXELS[own].split(1),
            lambda regions, log_scale: whole_loss(regions, log_scale, gather),
            model.module.logit_scale,
            model.no_sync,
        )
        check(model, ours, share)
dist.destroy_process_group()
print("equal", rank)
"""


def test_two_processes_are_one_with_the_whole_batch(tmp_path):
    """Loss and gradients, with hard negatives, with and without cached_backward; the paper's gather halves them."""
    command = [sys.executable, "-c", TWO_RANKS]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with contextlib.ExitStack() as stack:
        ranks = []
        for rank in range(2):
            arguments = [*command, str(rank), str(tmp_path / "store")]
            ranks.append(stack.enter_context(subprocess.Popen(arguments, cwd=REPOSITORY, **output)))
            stack.callback(ranks[-1].kill)
        for rank, process in enumerate(ranks):
            said, _ = process.communicate(timeout=600)
            assert f"equal {rank}" in said, said


# Accumulation.


class Tower(torch.nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 8), torch.nn.Linear(8, 4)
        self.dropout = torch.nn.Dropout(dropout)
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))
        for index, weight in enumerate((self.first.weight, self.second.weight)):
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(index))

    def forward(self, pixels):
        return self.second(self.dropout(self.first(pixels).tanh()))


def loss_of(regions, log_scale):
    ids = torch.tensor([0, 1, 2, 1, 0, 3, 4, 1, 5])
    return multi_positive_info_nce(regions, seeded(6, 4, seed=5)[ids], log_scale.exp(), ids)


def gradients_of(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("rows", [1, 2, 4, 9])
def test_accumulation_equals_one_big_batch(rows):
    model, pixels = Tower(), seeded(9, 6)
    wanted_loss = loss_of(model(pixels), model.logit_scale)
    wanted_loss.backward()
    wanted = gradients_of(model)
    model.zero_grad()
    loss = cached_backward(model, pixels.split(rows), loss_of, model.logit_scale)
    assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-6)
    assert not loss.requires_grad
    ours = gradients_of(model)
    assert ours.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(ours[name], wanted[name], rtol=1e-5, atol=1e-6)


def test_accumulation_adds_to_gradients_and_leaves_a_frozen_temperature():
    model, pixels = Tower(), seeded(9, 6)
    model.logit_scale.requires_grad_(False)
    cached_backward(model, pixels.split(4), loss_of, model.logit_scale)
    once = gradients_of(model)
    assert "logit_scale" not in once
    cached_backward(model, pixels.split(4), loss_of, model.logit_scale)
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradient, 2 * once[name])


def test_both_passes_draw_the_same_random_numbers():
    model, pixels = Tower(dropout=0.5), seeded(9, 6)
    seen = []
    model.second.register_forward_hook(lambda layer, inputs, output: seen.append(output.detach()))
    torch.manual_seed(0)
    cached_backward(model, pixels.split(3), loss_of, model.logit_scale)
    assert all(torch.equal(first, second) for first, second in zip(seen[:3], seen[3:], strict=True))
    # The state goes on as after one forward pass.
    after = torch.rand(1)
    torch.manual_seed(0)
    for part in pixels.split(3):
        model(part)
    assert torch.equal(after, torch.rand(1))
