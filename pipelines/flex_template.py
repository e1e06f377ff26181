"""The launcher of Dataflow's Flex Template, and the metadata of its parameters: docs/dataflow.md.

Google's launcher runs containers/launcher.py, and so `main`, with `--name=value` for every parameter and with Beam's
own options. `python -m pipelines.flex_template` prints the metadata that stand in containers/flex_template.json.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.dataflow import DATAFLOW
from pipelines.fetch_weights import fetch_configured_weights
from pipelines.mine_pairs import TAKES
from schemas import UserError

VERB = "verb"
FIXED = ("runner", "devices", "workers", "engines", "shard_count", "shard_index", "finish")
"""Options that are no parameters: a template runs on Dataflow, not on this machine or without an engine."""

Parameter = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Launches the verb that the parameters name; returns the exit status, 2 for a user's mistake."""
    from pipelines.command_line import main as run_verb

    try:
        fetch_configured_weights()
        command = command_of(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"ovseg: {error}", file=sys.stderr)
        return 2
    return run_verb(command)


def command_of(arguments: Sequence[str]) -> list[str]:
    """The command line of `ovseg` that `--name=value` parameters stand for; other arguments pass through to Beam.

    The runner is Dataflow's unless one is named.

    Raises:
        UserError: a switch is neither true nor false.
    """
    types, verb, command = dict(option_types()), "mine", []
    for argument in arguments:
        name, separator, value = argument.removeprefix("--").partition("=")
        if name == VERB:
            verb = value
        elif name in types and separator:
            command += option_of(name, value, types[name])
        else:
            command.append(argument)
    named = any(argument.partition("=")[0] == "--runner" for argument in command)
    return [verb, *command, *([] if named else [f"--runner={DATAFLOW}"])]


def option_of(name: str, value: str, type_: Any) -> list[str]:
    """One of our options as the command line takes it; a parameter of several values has them as words."""
    flag = name.replace("_", "-")
    if type_ is bool:
        if value.lower() not in ("true", "false"):
            raise UserError(f"parameter {name}: wanted true or false, got {value!r}")
        return [f"--{flag}" if value.lower() == "true" else f"--no-{flag}"]
    if typing.get_origin(type_) is tuple:
        return [f"--{flag}", *shlex.split(value)]
    return [f"--{flag}={value}"]


def option_types() -> Iterator[tuple[str, Any]]:
    """Name and type of every option that is a parameter: those of `ovseg mine`, which has all."""
    for group in TAKES["mine"]:
        hints = typing.get_type_hints(group)
        for each in dataclasses.fields(group):
            if not each.metadata.get("hidden") and each.name not in FIXED:
                yield each.name, hints[each.name]


def template_metadata() -> dict[str, Any]:
    """Dataflow's TemplateMetadata of the template."""
    options = [each for group in TAKES["mine"] for each in dataclasses.fields(group)]
    types = dict(option_types())
    parameters = [parameter(each, types[each.name]) for each in options if each.name in types]
    return {
        "name": "OVSeg mining",
        "description": "Captions and images in, (masked region, noun) pairs in Parquet out.",
        "streaming": False,
        "parameters": [verb_parameter(), *parameters],
    }


def verb_parameter() -> Parameter:
    """Which verb is run."""
    return {
        "name": VERB,
        "label": VERB,
        "helpText": "what to make: all tables (mine), or one of them (an option of another verb is refused)",
        "isOptional": True,
        "paramType": "ENUM",
        "enumOptions": [{"value": verb, "label": verb} for verb in TAKES],
        "defaultValue": "mine",
    }


def parameter(each: dataclasses.Field[Any], type_: Any) -> Parameter:
    """Dataflow's ParameterMetadata of one option."""
    choices = each.metadata.get("choices") or ()
    kind = "ENUM" if choices else "BOOLEAN" if type_ is bool else "NUMBER" if type_ in (int, float) else "TEXT"
    described: Parameter = {
        "name": each.name,
        "label": each.name.replace("_", " "),
        "helpText": each.metadata["help"],
        "isOptional": each.name != "output",
        "paramType": kind,
    }
    if choices:
        described["enumOptions"] = [{"value": choice, "label": choice} for choice in choices]
    if each.name == "output":
        described["regexes"] = ["^gs://.+$"]
    default = shown_default(each.default)
    return {**described, "defaultValue": default} if default else described


def shown_default(value: Any) -> str:
    """A default as a parameter's value; nothing for none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return shlex.join(value)
    return "" if value is None or value is dataclasses.MISSING else str(value)


if __name__ == "__main__":
    print(json.dumps(template_metadata(), indent=2, ensure_ascii=False))
