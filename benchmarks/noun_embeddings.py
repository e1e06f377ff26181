"""Vectors of the nouns of 1,000 real captions: a text forward a noun token, beside `ClassEmbeddings`.

    NLTK_DATA=FOLDER python -m benchmarks.noun_embeddings --data FOLDER --output docs/noun_embedding_speed.md

"one by one" is what one writes without this project: each noun token of each caption is put into the prompt, tokenised
and run through the text tower alone, at the context of 77 tokens that open_clip's tokenizer pads to. "ours" embeds each
distinct noun once, nouns of like length together and cut behind their end token. Both use one prompt, "a photo of a
{}."; with OVSeg's 14 both take 14 times as long. FOLDER holds captions_val2017.json (COCO Captions).

One by one is timed on 200 captions and scaled by noun tokens to 1,000: a fifth of the 200 in each of five turns, and
ours whole in each. The vectors that the turns made are compared before anything is said: those of the 200 captions may
differ by 1e-4, else the run fails. Ratios are of medians of CPU seconds; a ratio below the bar exits with 1 and writes
nothing. "noise" is one by one beside itself: tokens at even and at odd places, timed apart.

The last row is a second worker, or a second run: it reads what the first has left in a folder (`--noun-cache`), the
same bytes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.nouns import read_captions
from benchmarks.pages import PAGE_WIDTH, write_page
from benchmarks.results import note
from benchmarks.timing import Times, require
from ovseg_model.class_embeddings import ClassEmbeddings, prompt_templates
from ovseg_model.clip import Clip, load_clip, resolve_clip
from ovseg_model.noun_vectors import KeptVectors, LocalFolder
from pipelines.noun_rules import open_rule

CAPTIONS, TIMED = 1000, 200
BAR, GOAL = 30.0, 50
LARGEST_DIFFERENCE = 1e-4
TEMPLATES = prompt_templates("photo")


def embed_one_by_one(clip: Clip, nouns: Sequence[str]) -> np.ndarray:
    """Unit vectors, float32 (N, D), a forward a noun at the whole context."""
    vectors = []
    with torch.inference_mode():
        for noun in nouns:
            tokens_1L = clip._tokenizer([TEMPLATES[0].replace("{}", noun)])
            vectors.append(torch.nn.functional.normalize(clip.model.encode_text(tokens_1L), dim=-1))
    return torch.cat(vectors).numpy() if vectors else np.zeros((0, clip.embed_dim), np.float32)


def embed(clip: Clip, nouns: Sequence[str], folder: Path | None = None) -> np.ndarray:
    """Unit vectors, float32 (N, D), by a worker that knows no noun yet."""
    kept = KeptVectors(LocalFolder(folder), clip, TEMPLATES) if folder else None
    vectors_ND = ClassEmbeddings(clip, TEMPLATES, kept).embed(nouns)
    if kept:
        kept.save()
    return vectors_ND


@dataclass(frozen=True)
class Nouns:
    """Noun tokens of all captions, and of those that one by one is timed on, a list a turn."""

    all: list[str]
    turns: list[list[str]]


def read_nouns(data: Path, captions: int, timed: int, repeats: int) -> Nouns:
    """The noun tokens of the first captions of COCO, by the rule `nouns`."""
    coco = next(iter(read_captions(data).values()))[:captions]
    of_caption = [[noun.noun for noun in nouns] for nouns in open_rule("nouns").extract(coco)]
    joined = [noun for nouns in of_caption for noun in nouns]
    cuts = np.linspace(0, timed, repeats + 1).round().astype(int).tolist()
    turns = [of_caption[start:end] for start, end in itertools.pairwise(cuts)]
    return Nouns(joined, [[noun for nouns in turn for noun in nouns] for turn in turns])


def check_equal(nouns: Nouns, ours_ND: np.ndarray, alone: Sequence[tuple[Sequence[str], np.ndarray]]) -> str:
    """What was compared: our vectors of all tokens with those made one by one of some. Exits where the ways differ."""
    ours = dict(zip(nouns.all, ours_ND, strict=True))
    difference = max(np.abs([ours[noun] for noun in tokens] - each_TD).max() for tokens, each_TD in alone if tokens)
    require(difference <= LARGEST_DIFFERENCE, f"vectors differ by {difference:.1e}")
    distinct = {noun for tokens, _ in alone for noun in tokens}
    return f"the vectors of {len(distinct):,} distinct nouns differ by {difference:.1e} at most"


HEADER = """| way | noun tokens | texts run | CPU s | wall s | ratio |
|---|---:|---:|---:|---:|---:|"""


def table_row(way: str, nouns: Nouns, texts: int, seconds: tuple[float, float], slowest: float) -> str:
    """One row of the table; `seconds` are CPU and wall."""
    ratio = slowest / seconds[0]
    return f"| {way} | {len(nouns.all):,} | {texts:,} | {seconds[0]:.3f} | {seconds[1]:.3f} | {ratio:,.1f} |"


def measure(clip: Clip, nouns: Nouns) -> tuple[str, float]:
    """The Markdown body, and the ratio that the bar is on."""
    halves, ours, read = (Times(), Times()), Times(), Times()
    alone: list[tuple[Sequence[str], np.ndarray]] = []
    made: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as folder:
        made.append(embed(clip, nouns.all, Path(folder)))
        for turn in nouns.turns:
            for place, half in enumerate(halves):
                half.run(lambda tokens=turn[place::2]: alone.append((tokens, embed_one_by_one(clip, tokens))))
            ours.run(lambda: made.append(embed(clip, nouns.all)))
            read.run(lambda: made.append(embed(clip, nouns.all, Path(folder))))
    require(len({each.tobytes() for each in made}) == 1, "vectors from the folder are other bytes")
    checked = check_equal(nouns, made[0], alone)
    scaled, noise = scale(nouns, halves)
    seconds = [(each.cpu_median, each.wall_median) for each in (ours, read)]
    distinct = len(set(nouns.all))
    rows = [
        table_row("one by one, scaled", nouns, len(nouns.all), scaled, scaled[0]),
        table_row("ours", nouns, distinct, seconds[0], scaled[0]),
        table_row("ours, from the folder", nouns, 0, seconds[1], scaled[0]),
    ]
    ratio = scaled[0] / ours.cpu_median
    said = (
        f"{clip.weights.name}, {clip.precision}, {torch.get_num_threads()} threads; {checked}; bytes from the folder "
        f"are equal. One by one was timed on {sum(map(len, nouns.turns)):,} noun tokens. Noise: one by one beside "
        f"itself {noise:.2f}. Bar {BAR:g}, goal {GOAL}: {ratio:.1f} is measured."
    )
    return "\n\n".join([textwrap.fill(said, PAGE_WIDTH), "\n".join([HEADER, *rows])]), ratio


def scale(nouns: Nouns, halves: tuple[Times, Times]) -> tuple[tuple[float, float], float]:
    """CPU and wall seconds of one by one for all tokens, from medians a token; and its even tokens beside its odd."""
    counts = [[len(turn[place::2]) for turn in nouns.turns] for place in range(2)]
    cpu, wall = (
        [
            [seconds / max(1, count) for seconds, count in zip(times, of_half, strict=True)]
            for times, of_half in zip(lists, counts, strict=True)
        ]
        for lists in ([half.cpu for half in halves], [half.wall for half in halves])
    )
    medians = [len(nouns.all) * statistics.median([*each[0], *each[1]]) for each in (cpu, wall)]
    return (medians[0], medians[1]), statistics.median(cpu[0]) / statistics.median(cpu[1])


def main(argv: Sequence[str] | None = None) -> None:
    """Checks, times, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with captions_val2017.json")
    parser.add_argument("--clip", default="ViT-B-32/random")
    parser.add_argument("--captions", type=int, default=CAPTIONS, help="captions whose nouns ours embeds")
    parser.add_argument("--timed", type=int, default=TIMED, help="captions that one by one is timed on")
    parser.add_argument("--repeats", type=int, default=5, help="turns; the median counts")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--output", type=Path, help="file for the Markdown page")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    clip = load_clip(resolve_clip(arguments.clip))
    nouns = read_nouns(arguments.data, arguments.captions, arguments.timed, arguments.repeats)
    body, ratio = measure(clip, nouns)
    print(body)
    note(f"noun vectors, {arguments.captions:,} captions", "a text forward a noun token", ratio, BAR, GOAL, "scaled")
    require(ratio >= BAR, f"wanted {BAR:g}x one by one or more, got {ratio:.1f}x")
    if arguments.output:
        packages = ("numpy", "open_clip_torch", "torch")
        write_page(arguments.output, "Speed of noun vectors", __doc__, [body], packages, arguments.threads)


if __name__ == "__main__":
    main()
