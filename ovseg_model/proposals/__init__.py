"""Class-agnostic mask proposals: one protocol, generators by name, and plug-ins by import path."""

from ovseg_model.proposals.generator import (
    GeneratorKind,
    GeneratorSpec,
    ImageInput,
    MaskGenerator,
    MaskProposals,
    ProposalError,
    ProposalReason,
    Resolution,
    on_device,
    open_generator,
    packages_of,
    propose_in_batches,
    resolve_generator,
)

__all__ = [
    "GeneratorKind",
    "GeneratorSpec",
    "ImageInput",
    "MaskGenerator",
    "MaskProposals",
    "ProposalError",
    "ProposalReason",
    "Resolution",
    "on_device",
    "open_generator",
    "packages_of",
    "propose_in_batches",
    "resolve_generator",
]
