"""Groups and learning rates as the paper states them."""

import math

import pytest
import torch

from ovseg_model.optimizers import BETAS, EPS, adamw, decays, learning_rate_share, weight_groups


def parameters(**shapes):
    return {name: torch.nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}


def test_biases_layer_norms_temperature_and_prompts_do_not_decay():
    named = parameters(weight=(2, 2), bias=(2,), ln=(2,), logit_scale=(), prompts=(1, 2, 2))
    assert {name for name, parameter in named.items() if decays(name, parameter)} == {"weight"}
    groups = weight_groups(named.items(), 1e-3, 0.2)
    assert [(len(group["params"]), group["lr"], group["weight_decay"]) for group in groups] == [
        (1, 1e-3, 0.2),
        (4, 1e-3, 0),
    ]


def test_what_is_frozen_is_in_no_group_and_empty_groups_are_left_out():
    named = parameters(weight=(2, 2), bias=(2,))
    named["weight"].requires_grad_(False)
    groups = weight_groups(named.items(), 1e-3, 0.2)
    assert [[id(each) for each in group["params"]] for group in groups] == [[id(named["bias"])]]


def test_the_optimiser_is_the_papers():
    groups = weight_groups(parameters(weight=(2, 2)).items(), 1e-3, 0.2)
    optimizer = adamw(groups, "cpu")
    assert optimizer.defaults["betas"] == BETAS == (0.9, 0.98)
    assert optimizer.defaults["eps"] == EPS == 1e-6
    assert optimizer.defaults["fused"]


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (0, 0.25),
        (1, 0.5),
        (3, 1.0),
        (4, 1.0),
        (7, 0.5 * (1 + math.cos(math.pi / 2))),
        (9, 0.5 * (1 + math.cos(math.pi * 5 / 6))),
    ],
)
def test_linear_warm_up_then_half_a_cosine(step, share):
    assert learning_rate_share(step, 10, 4) == pytest.approx(share)


def test_no_warm_up_starts_at_the_peak_and_a_long_one_is_all_there_is():
    assert learning_rate_share(0, 10, 0) == 1
    assert [learning_rate_share(step, 2, 4) for step in (0, 1)] == [0.25, 0.5]
