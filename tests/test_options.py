"""The command line is derived from dataclasses, and every default stands once."""

import argparse
from dataclasses import dataclass

import pytest

from pipelines.options import MatchOptions, RunOptions, add_options, option, read_options, require_at_least
from schemas import UserError


@dataclass(frozen=True)
class Toy:
    """Toy options."""

    size_px: int = option(3, "a size; 50% is fine")
    name: str | None = option(None, "a name")
    deep: bool = option(False, "deep")
    parts: tuple[str, ...] = option((), "parts")
    kind: str = option("a", "a kind", choices=("a", "b"))


def parse(cls, *argv):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser, cls)
    return read_options(parser.parse_args(argv), cls)


def test_nothing_given_is_the_dataclass_itself():
    assert parse(Toy) == Toy()
    assert parse(MatchOptions) == MatchOptions()
    assert parse(RunOptions) == RunOptions()


def test_each_type_is_parsed():
    given = parse(Toy, "--size-px", "7", "--name", "x", "--deep", "--parts", "p", "q", "--parts", "r", "--kind", "b")
    assert given == Toy(7, "x", True, ("p", "q", "r"), "b")
    assert parse(Toy, "--no-deep").deep is False


@pytest.mark.parametrize("argv", [("--size-px", "big"), ("--kind", "c"), ("--size", "7")])
def test_wrong_values_and_abbreviations_are_refused(argv, capsys):
    with pytest.raises(SystemExit):
        parse(Toy, *argv)
    assert argv[0] in capsys.readouterr().err


def test_help_shows_default_and_reason():
    parser = argparse.ArgumentParser()
    add_options(parser, Toy)
    text = " ".join(parser.format_help().split())
    assert "a size; 50% is fine (default: 3)" in text
    assert "Toy options" in text


def test_a_value_below_its_least_is_named():
    require_at_least("region_batch", 1, 1)
    with pytest.raises(UserError, match="--region-batch: wanted 1 or more, got 0"):
        require_at_least("region_batch", 0, 1)
