"""`ovseg import-clip`: a checkpoint of OVSeg's release to adapted.safetensors, which every --clip takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.options import SentenceParser, add_options, option, read_options
from pipelines.write_tables import writing
from schemas import UserError


@dataclass(frozen=True)
class ImportOptions:
    """What is read, and where it goes."""

    checkpoint: str = option("", "file of OVSeg: its finetuned CLIP, or a full OVSeg model, of which only CLIP is read")
    architecture: str = option("ViT-L-14", "open_clip's name of it: ViT-L-14 or ViT-B-16 for the released ones")
    prompts: bool = option(True, "wanted are mask prompts; --no-prompts for a CLIP before mask prompt tuning")
    output: str = option("", "file that is written; it ends in .safetensors")


def main(argv: Sequence[str]) -> int:
    """Imports and prints; `argv` begins with the verb.

    Raises:
        UserError: an option is missing, or the file is none of OVSeg's layouts or does not fit.
    """
    from ovseg_model.adapted_weights import import_ovseg, save_adapted

    parser = SentenceParser("ovseg import-clip", description=__doc__, allow_abbrev=False)
    add_options(parser, ImportOptions)
    options = read_options(parser.parse_args(argv[1:]), ImportOptions)
    for name in ("checkpoint", "output"):
        if not getattr(options, name):
            raise UserError(f"--{name} is missing; give a file")
    model = import_ovseg(options.checkpoint, options.architecture, options.prompts)
    with writing(options.output):
        save_adapted(model, options.output)
    depth = f"mask prompts of depth {model.depth}" if model.depth else "no mask prompts"
    print(f"{model.name} with {depth}: {options.output}; use it as --clip {options.output}")
    return 0
