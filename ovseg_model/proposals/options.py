"""Options of a mask generator: a frozen dataclass, its fields with unit, help and limits, read from words."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping, Sequence

from schemas.errors import UserError

OptionValue = str | int | float | bool | tuple[float, ...]


def option(
    default: object = dataclasses.MISSING,
    *,
    help: str,
    unit: str = "",
    minimum: float = -math.inf,
    maximum: float = math.inf,
    choices: Sequence[str] = (),
) -> typing.Any:
    """Declare one option: a field that carries help, unit and limits; without a default it is required."""
    metadata = {"help": help, "unit": unit, "minimum": minimum, "maximum": maximum, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=metadata)


def parse_options(owner: str, options_class: type, given: Mapping[str, object]) -> typing.Any:
    """Make an options object of values, or of the words of a command line.

    Raises UserError for an unknown name, a missing option, or a value of the wrong type or outside its
    limits.
    """
    fields = {field.name: field for field in dataclasses.fields(options_class)}
    for name in given:
        if name not in fields:
            raise UserError(f"{owner}: unknown option {name!r}; {closest_of(name, fields)}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in given:
            raise UserError(f"{owner}: option {name} is missing ({field.metadata['help']}); give {name}=VALUE")
    types = typing.get_type_hints(options_class)
    return options_class(**{name: _parse(owner, fields[name], types[name], given[name]) for name in given})


def closest_of(word: str, known: typing.Iterable[str]) -> str:
    """Say which names there are, and which one the word most resembles."""
    names = sorted(known)
    match = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {match[0]}? " if match else ""
    return f"{hint}known: {', '.join(names) or 'none'}"


def _parse(owner: str, field: dataclasses.Field, wanted: typing.Any, value: object) -> OptionValue:
    try:
        parsed = _PARSERS[wanted](value)
    except (TypeError, ValueError):
        parsed = None
    if parsed is None or not _within_limits(field, parsed):
        raise UserError(f"{owner}: option {field.name} wants {_wish(field, wanted)}; got {value!r}")
    return parsed


def _within_limits(field: dataclasses.Field, value: OptionValue) -> bool:
    limits = field.metadata
    if limits["choices"] and value not in limits["choices"]:
        return False
    numbers = value if isinstance(value, tuple) else (value,)
    return all(limits["minimum"] <= x <= limits["maximum"] for x in numbers if not isinstance(x, str))


def _wish(field: dataclasses.Field, wanted: typing.Any) -> str:
    limits = field.metadata
    if limits["choices"]:
        return "one of " + ", ".join(limits["choices"])
    low = f", {limits['minimum']:g} or more" if limits["minimum"] > -math.inf else ""
    high = f", {limits['maximum']:g} or less" if limits["maximum"] < math.inf else ""
    return _TYPE_NAMES[wanted] + low + high


def _to_bool(value: object) -> bool:
    return ("false", "true").index(str(value).lower()) == 1


def _to_int(value: object) -> int:
    number = int(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError
    return number


def _to_float(value: object) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise TypeError
    return number


def _to_str(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _to_numbers(value: object, parse: typing.Callable[[object], float]) -> tuple[float, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(parse(part) for part in parts if part != "")


_PARSERS: dict[typing.Any, typing.Callable[[object], OptionValue]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_str,
    tuple[float, ...]: lambda value: _to_numbers(value, _to_float),
    tuple[int, ...]: lambda value: _to_numbers(value, _to_int),
}

_TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple[float, ...]: "numbers with commas between",
    tuple[int, ...]: "whole numbers with commas between",
}
