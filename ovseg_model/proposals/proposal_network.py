"""OVSeg's own proposal network: a MaskFormer whose queries are classified by vectors of class names (section 3.1).

The class head is a two-layer perceptron into CLIP's space; a query's class is the softmax of 100 x cosine against the
class vectors and one learned "no object" vector. Array names end in their axes: L decoder layers, B images, N queries,
K classes, D dimensions of CLIP's space, H and W pixels, h and w the mask grid, a quarter of them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from ovseg_model.adapted_weights import whole_file
from ovseg_model.class_embeddings import templates_title
from ovseg_model.clip import file_sha256, misfit
from ovseg_model.proposals.network_input import InputSize
from ovseg_model.proposals.network_weights import (
    BACKBONE_TYPES,
    CONFIG_FILE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    OVSEG_TYPE,
    WEIGHT_FILES,
    NetworkWeights,
    read_json,
)
from ovseg_model.proposals.query_network import BATCH, QueryNetwork, load_transformers, quiet_transformers
from schemas.errors import UserError

FORMAT_VERSION = 1

TEMPERATURE = 100.0
"""Of the cosine, fixed (method of OVSeg's release; CLIP's own upper bound)."""

CLASS_VECTORS = "class_vectors_KD"
"""Name of the training classes' vectors among the weights: with them a network knows objects from nothing alone."""


CHECKED_NAMES, LEAST_COSINE = 8, 0.99
"""Training names that are embedded again before a network classifies, and how near they must come to their vectors:
half precision moves them by 0.001, other prompt templates or another text tower by far more."""


@dataclass(frozen=True)
class NetworkFacts:
    """What a saved network says of itself."""

    clip: str
    """Name of the CLIP whose text tower made the class vectors, as `ClipWeights.name`."""

    clip_sha256: str
    """Of its weights. CLIPs whose text towers are the same make the same vectors, whatever this says."""

    templates: tuple[str, ...]
    """Prompt templates of the class vectors."""

    classes: tuple[str, ...]
    """Names it was trained with, in the order of the vectors."""

    short_side_px: int
    max_side_px: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    meaningless: bool = False
    """Whether CLIP's weights were random."""

    made_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What decided the training."""


class ProposalModel(torch.nn.Module):
    """MaskFormer of transformers without its classes; queries get embeddings and masks."""

    def __init__(self, config: Mapping[str, Any], embed_dim: int, head_width: int = 1024, seed: int = 0) -> None:
        """config: of transformers' MaskFormer, as a dictionary. embed_dim: D. Weights are random, by the seed.

        BatchNorm of a ResNet keeps its statistics, as in fine-tuning of detectors: batches of a few images have none.
        """
        from transformers import MaskFormerConfig, MaskFormerForInstanceSegmentation

        super().__init__()
        self.config, self.embed_dim, self.head_width = json.loads(json.dumps(config)), embed_dim, head_width
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            whole = MaskFormerForInstanceSegmentation(MaskFormerConfig.from_dict(json.loads(json.dumps(config))))
            hidden = whole.config.decoder_config.hidden_size
            self.model, self.mask_embedder = whole.model, whole.mask_embedder
            self.class_embedder = torch.nn.Sequential(
                torch.nn.Linear(hidden, head_width), torch.nn.ReLU(), torch.nn.Linear(head_width, embed_dim)
            )
            self.no_object_D = torch.nn.Parameter(torch.randn(embed_dim))
        _freeze_unused(self.model.pixel_level_module.encoder)

    def train(self, mode: bool = True) -> ProposalModel:
        """As any module, but for BatchNorm, which stays as it is."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, pixels_B3HW: torch.Tensor, every_layer: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns embeddings (B, N, D), not normalised, and mask logits (B, N, h, w).

        every_layer: both for each decoder layer, the last one last, with a leading axis L, for deep supervision.
        """
        pixel = self.model.pixel_level_module(pixels_B3HW)
        states_LBNC = self._decode(pixel.encoder_last_hidden_state, every_layer)
        # The parts, one by one: transformers' own auxiliary outputs begin with the empty queries before any layer.
        embeddings_LBND = self.class_embedder(states_LBNC)
        masks_LBNhw = torch.einsum("lbnc,bchw->lbnhw", self.mask_embedder(states_LBNC), pixel.decoder_last_hidden_state)
        return (embeddings_LBND, masks_LBNhw) if every_layer else (embeddings_LBND[-1], masks_LBNhw[-1])

    def _decode(self, features_BChw: torch.Tensor, every_layer: bool) -> torch.Tensor:
        """States of the queries after the last layer, or each layer, under the decoder's closing LayerNorm."""
        decoder = self.model.transformer_module.decoder
        outputs: list[torch.Tensor] = []

        def keep(_: torch.nn.Module, __: Any, output: Any) -> None:
            outputs.append(output if isinstance(output, torch.Tensor) else output[0])

        hooks = [layer.register_forward_hook(keep) for layer in decoder.layers] if every_layer else []
        try:
            last_BNC = self.model.transformer_module(features_BChw).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([*map(decoder.layernorm, outputs[:-1]), last_BNC])

    def class_logits(self, embeddings: torch.Tensor, class_vectors_KD: torch.Tensor) -> torch.Tensor:
        """Returns 100 x cosine against the class vectors and, last, "no object": float32 (..., K + 1)."""
        vectors = torch.cat([class_vectors_KD, normalize(self.no_object_D, dim=0)[None]])
        return TEMPERATURE * normalize(embeddings.float(), dim=-1) @ vectors.T


def _freeze_unused(backbone: torch.nn.Module) -> None:
    """The closing LayerNorm of a Swin is not used by MaskFormer; DDP must not wait for its gradient."""
    closing = getattr(getattr(backbone, "model", None), "layernorm", None)
    if closing is not None:
        closing.requires_grad_(False)


class VectorClassifier:
    """OVSeg's classification of queries by class vectors; objectness is that against the training classes."""

    gives_probabilities = True

    def __init__(self, model: ProposalModel, class_vectors_KD: torch.Tensor, clip: str) -> None:
        """class_vectors_KD: of the training classes. clip: the name of their CLIP, for errors."""
        self._model, self._trained_KD, self._clip = model, class_vectors_KD, clip

    def objectness(self, heads_NX: torch.Tensor) -> torch.Tensor:
        """As `Classifier`."""
        vectors_KD = self._trained_KD.to(heads_NX.device)
        return 1 - self._model.class_logits(heads_NX, vectors_KD).softmax(dim=-1)[:, -1]

    def class_probability(self, heads_NX: torch.Tensor, class_vectors_KD: np.ndarray) -> torch.Tensor:
        """As `Classifier`: softmax over K + 1, without the last column. Raises UserError for another CLIP's D."""
        if class_vectors_KD.shape[1] != self._model.embed_dim:
            raise UserError(
                f"proposal network: was trained with class vectors of {self._model.embed_dim} dimensions, by "
                f"{self._clip}; got {class_vectors_KD.shape[1]}; classify its queries by that CLIP's text tower"
            )
        vectors_KD = torch.tensor(class_vectors_KD, device=heads_NX.device)
        return self._model.class_logits(heads_NX, vectors_KD).softmax(dim=-1)[:, :-1]


class OvsegNetwork(QueryNetwork):
    """OVSeg's proposal network, open; `facts` say which CLIP its class vectors must come from."""

    def __init__(
        self,
        model: ProposalModel,
        facts: NetworkFacts,
        class_vectors_KD: torch.Tensor,
        device: str = "cpu",
        precision: str = "auto",
        size: InputSize | None = None,
        batch: int = BATCH,
    ) -> None:
        """class_vectors_KD: of the training classes. size: None is the one it was trained at."""
        self.facts = facts
        classifier = VectorClassifier(model, class_vectors_KD, facts.clip)
        size = size or InputSize(facts.short_side_px, facts.max_side_px)
        super().__init__("ovseg-maskformer", model, classifier, (facts.mean, facts.std), size, device, precision, batch)
        self._trained_KD = class_vectors_KD.cpu().numpy()

    def check_vectors(self, embed: Callable[[Sequence[str]], np.ndarray]) -> None:
        """Refuses class vectors of another text tower, or by other templates, than the network was trained with.

        embed: unit vectors of names, float32 (K, D), as those that it will be given. Raises UserError.
        """
        facts = self.facts
        chosen = list(range(0, len(facts.classes), max(1, len(facts.classes) // CHECKED_NAMES)))[:CHECKED_NAMES]
        vectors_KD = embed([facts.classes[number] for number in chosen])
        if vectors_KD.shape[1] != self._trained_KD.shape[1]:
            raise UserError(
                f"{self._trained_by()}, of {self._trained_KD.shape[1]} dimensions; got {vectors_KD.shape[1]}"
            )
        cosine_K = (vectors_KD * self._trained_KD[chosen]).sum(axis=1)
        if cosine_K.min() < LEAST_COSINE:
            name = facts.classes[chosen[int(cosine_K.argmin())]]
            raise UserError(
                f"{self._trained_by()}; by --clip and --templates as they are now, {name!r} has cosine "
                f"{cosine_K.min():.2f} with its vector of then, wanted {LEAST_COSINE} or more; give those, or "
                "--clip-weight 1, which leaves the network's classes out"
            )

    def _trained_by(self) -> str:
        facts = self.facts
        by = f"CLIP {facts.clip} and {templates_title(facts.templates)}"
        return f"proposal network: was trained with class vectors by {by}"


# Files.


def save_network(folder: str | Path, model: ProposalModel, facts: NetworkFacts, class_vectors_KD: torch.Tensor) -> None:
    """Writes config.json and model.safetensors; the same network gives the same bytes.

    config.json comes last and names the weights' sha256: a folder that was cut short in writing is told at once.
    """
    import transformers

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights = os.path.join(folder, WEIGHT_FILES[0])
    with whole_file(weights) as part:
        save_file({**tensors, CLASS_VECTORS: class_vectors_KD.detach().cpu().float().contiguous()}, part)
    document = {
        "model_type": OVSEG_TYPE,
        "format_version": FORMAT_VERSION,
        "transformers_version": transformers.__version__,
        "weights_sha256": file_sha256(weights),
        "embed_dim": model.embed_dim,
        "head_width": model.head_width,
        "facts": dataclasses.asdict(facts),
        "maskformer": model.config,
    }
    with whole_file(os.path.join(folder, CONFIG_FILE)) as part:
        Path(part).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_model(weights: NetworkWeights) -> tuple[ProposalModel, NetworkFacts, torch.Tensor]:
    """Opens a saved network: model, facts, vectors of the training classes; on the CPU. Raises UserError."""
    config = os.path.join(weights.folder, CONFIG_FILE)
    document = read_json(config)
    if document.get("format_version") != FORMAT_VERSION or document.get("weights_sha256") != weights.sha256:
        raise UserError(
            f"{config}: does not belong to {weights.file} beside it, or is of another version of this tool; save the "
            "network again"
        )
    try:
        tensors = load_file(os.path.join(weights.folder, weights.file))
        vectors_KD = tensors.pop(CLASS_VECTORS)
        model = ProposalModel(document["maskformer"], document["embed_dim"], document["head_width"])
        model.load_state_dict(tensors)
    except (KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"proposal network {weights.folder}: {weights.file} does not fit ({misfit(error)}); it was saved under "
            f"transformers {document.get('transformers_version')}"
        ) from error
    return model, _facts(document["facts"]), vectors_KD


def _facts(values: Mapping[str, Any]) -> NetworkFacts:
    # JSON has no tuples.
    return NetworkFacts(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def load_network(
    weights: NetworkWeights,
    device: str = "cpu",
    precision: str = "auto",
    size: InputSize | None = None,
    batch: int = BATCH,
) -> OvsegNetwork:
    """Opens a saved network, ready to propose; as `query_network.open_network`."""
    return OvsegNetwork(*load_model(weights), device, precision, size, batch)


# Presets of the architecture.


def maskformer_config(
    backbone: Mapping[str, Any], queries: int, width: int, layers: int, heads: int, ffn_width: int, dropout: float
) -> dict[str, Any]:
    """Returns the configuration of a MaskFormer, as transformers reads it.

    backbone: configuration of its backbone. width: of the pixel decoder, the mask embeddings and the queries.
    """
    from transformers import MaskFormerConfig, MaskFormerDetrConfig

    decoder = MaskFormerDetrConfig(
        d_model=width,
        encoder_layers=0,
        decoder_layers=layers,
        decoder_attention_heads=heads,
        decoder_ffn_dim=ffn_width,
        num_queries=queries,
        dropout=dropout,
    )
    with quiet_transformers():
        config = MaskFormerConfig(
            backbone_config=dict(backbone),
            decoder_config=decoder,
            fpn_feature_size=width,
            mask_feature_size=width,
        )
    document = config.to_dict()
    # Versions do not decide the network, and would change its bytes.
    return json.loads(json.dumps(_without_versions(document)))


def _without_versions(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_versions(each) for name, each in value.items() if name != "transformers_version"}
    return value


STAGES = ["stage1", "stage2", "stage3", "stage4"]

BACKBONES: Mapping[str, Mapping[str, Any]] = {
    "swin-b": {
        "model_type": "swin",
        "embed_dim": 128,
        "depths": [2, 2, 18, 2],
        "num_heads": [4, 8, 16, 32],
        "window_size": 12,
        "image_size": 384,
        "drop_path_rate": 0.3,
        "out_features": STAGES,
    },
    "r101": {"model_type": "resnet", "depths": [3, 4, 23, 3], "out_features": STAGES},
    "tiny": {
        "model_type": "swin",
        "embed_dim": 24,
        "depths": [1, 1, 2, 1],
        "num_heads": [1, 2, 4, 8],
        "window_size": 4,
        "image_size": 64,
        "drop_path_rate": 0.0,
        "out_features": STAGES,
    },
}
"""Backbones of the paper's two networks, and one for scenes of 64 px. The paper's R101c has a deeper stem, which
transformers does not know."""


def preset_config(preset: str, queries: int) -> dict[str, Any]:
    """Returns the configuration of a preset's MaskFormer: the paper's two, or the tiny one."""
    if preset == "tiny":
        return maskformer_config(BACKBONES[preset], queries, 64, 2, 4, 128, 0.0)
    return maskformer_config(BACKBONES[preset], queries, 256, 6, 8, 2048, 0.1)


HEAD_WIDTHS: Mapping[str, int] = {"swin-b": 1024, "r101": 1024, "tiny": 128}


# What training begins with.

INITIAL_TYPES = ("maskformer", OVSEG_TYPE, *BACKBONE_TYPES)

MADE_HERE = ("hidden_states_norms", "relative_position_index", "num_batches_tracked", "model.layernorm")
"""Parts of names that a published backbone may lack: norms that MaskFormer adds, and what is computed anyway."""


def initialise(model: ProposalModel, weights: NetworkWeights) -> None:
    """Takes over weights, in place: a backbone's, or all of a MaskFormer but its class head. Raises UserError."""
    if weights.model_type in BACKBONE_TYPES:
        _initialise_backbone(model.model.pixel_level_module.encoder, weights)
        return
    if weights.model_type == OVSEG_TYPE:
        tensors = load_model(weights)[0].state_dict()
    else:
        tensors = load_transformers(weights).state_dict()
    kept = {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in ("model", "mask_embedder")}
    _load(model, kept, weights, may_lack=("class_embedder", "no_object_D"))


def _initialise_backbone(backbone: torch.nn.Module, weights: NetworkWeights) -> None:
    """By the names in the file: those are stable, while transformers renames modules from release to release."""
    path = os.path.join(weights.folder, weights.file)
    try:
        safe = path.endswith(".safetensors")
        tensors = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, SafetensorError, OSError) as error:
        raise UserError(f"{path}: is damaged, or holds more than tensors, and is not opened") from error
    prefix = "model." if weights.model_type == "swin" else ""
    named = {prefix + name.removeprefix(f"{weights.model_type}."): tensor for name, tensor in tensors.items()}
    known = backbone.state_dict().keys()
    _load(backbone, {name: tensor for name, tensor in named.items() if name in known}, weights, may_lack=MADE_HERE)


def _load(
    module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], weights: NetworkWeights, may_lack: tuple[str, ...]
) -> None:
    try:
        missing = module.load_state_dict(tensors, strict=False).missing_keys
    except RuntimeError as error:
        raise UserError(f"--init {weights.folder}: does not fit the preset: {misfit(error)}") from error
    lacking = [name for name in missing if not any(part in name for part in may_lack)]
    if lacking:
        raise UserError(f"--init {weights.folder}: does not fit the preset: it has no {lacking[0]}")
