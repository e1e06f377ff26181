"""Tiny MaskFormer, Mask2Former and proposal networks, seeded, as transformers and we save them."""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
)

from ovseg_model.proposals.proposal_network import NetworkFacts, ProposalModel, preset_config, save_network
from ovseg_model.proposals.query_network import quiet_transformers

QUERIES = 6


def write_maskformer(folder: Path) -> Path:
    """A MaskFormer of six queries and two classes, with a mean and deviation of its own."""
    with quiet_transformers(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskFormerForInstanceSegmentation(MaskFormerConfig.from_dict(preset_config("tiny", QUERIES)))
        model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    return folder


def write_mask2former(folder: Path) -> Path:
    """A Mask2Former of six queries and two classes."""
    config = Mask2FormerConfig(
        backbone_config=preset_config("tiny", QUERIES)["backbone_config"],
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=32,
        num_queries=QUERIES,
    )
    with quiet_transformers(), torch.random.fork_rng():
        torch.manual_seed(0)
        Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    return folder


FACTS = NetworkFacts("my-clip", "12ab", ("a photo of a {}.",), ("sky", "ball"), 64, 256)


def unit_vectors(count: int, seed: int = 0, dimensions: int = 16) -> np.ndarray:
    """Random unit vectors, float32."""
    vectors = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def tiny_model(seed: int = 0) -> ProposalModel:
    """OVSeg's network of six queries in 16 dimensions."""
    return ProposalModel(preset_config("tiny", QUERIES), 16, 32, seed)


def write_ovseg(folder: Path, seed: int = 0) -> Path:
    """OVSeg's network, saved."""
    save_network(folder, tiny_model(seed), FACTS, torch.tensor(unit_vectors(2)))
    return folder


class Rigged(torch.nn.Module):
    """Stands in for a network: one query a brightness, whose mask is where a quarter of the input has it.

    Pixels must come as they are (mean 0, deviation 1/255). Query n's logit is +4 where the input is (n + 1) * 50, and
    -4 elsewhere; class logits are (0, 0, -n), the last "no object".
    """

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.queries, self.batches = queries, []

    def forward(self, pixels_B3HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.batches.append(tuple(pixels_B3HW.shape))
        wanted_N = 50.0 * torch.arange(1, self.queries + 1)
        quarter_Bhw = pixels_B3HW[:, 0, 2::4, 2::4]
        masks_BNhw = torch.where((quarter_Bhw[:, None] - wanted_N[:, None, None]).abs() < 1, 4.0, -4.0)
        heads_N3 = torch.zeros(self.queries, 3)
        heads_N3[:, 2] = -torch.arange(self.queries)
        return heads_N3.expand(len(pixels_B3HW), -1, -1), masks_BNhw
