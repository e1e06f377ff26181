"""A filter over a table's columns, from one line of text to a pyarrow expression.

    cosine > 0.25 and area_px > 0.01 * height * width and not abstract
    0.2 < cosine <= 0.3 and noun in ["dog", "cat"] and margin is not null

The text is parsed as a Python expression and translated node by node; nothing of it is ever evaluated, and what is not
listed here is refused: columns, numbers, quoted strings, true and false, comparisons (chained too), `in` and `not in`
with a list, `is null` and `is not null`, and, or, not, brackets, and + - * / between numbers. As in SQL, a comparison
with null holds neither way: neither `margin > 0.1` nor `not margin > 0.1` keeps a row whose margin is null.
"""

from __future__ import annotations

import ast
import difflib
import functools
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import UserError
from schemas.table import Table

EXAMPLE = "cosine > 0.25 and area_px > 1024 and not abstract"

SHOWN_CHARACTERS = 200
"""Of a text in an error's sentence."""

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}

ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
"""Of two numbers, of which none is a column."""

COLUMN_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    # Arrow's own operators raise at a division by zero, in the middle of a table; these give inf or nan.
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: pc.divide,
}

WORDS = {"true": True, "false": False, "null": None}
"""SQL's spellings, beside Python's own True, False and None."""


@dataclass(frozen=True)
class Condition:
    """One condition of a filter as the user wrote it, and what it means."""

    text: str
    expression: pc.Expression


@dataclass(frozen=True)
class RowFilter:
    """Which rows of a table are kept: those for which every condition holds. Picklable.

    `columns` are the columns it reads, in the table's order; `expression` also serves `pyarrow.dataset`.
    """

    text: str
    columns: tuple[str, ...]
    expression: pc.Expression
    conditions: tuple[Condition, ...]


def parse_filter(text: str, table: Table, option: str = "--where") -> RowFilter:
    """The filter that a line of text means for a table.

    Raises:
        UserError: the text is no expression, names an unknown column, compares what cannot be compared, or uses what a
            filter does not have; the sentence names `option`.
    """
    compiler = _Compiler(table, " ".join(text.split("\n")).strip(), option)
    try:
        return compiler.row_filter()
    except (RecursionError, MemoryError):
        compiler.refuse("is nested too deeply; write fewer brackets")
    except UnicodeError as error:
        compiler.refuse(f"holds a string that is no text ({error})")


@dataclass(frozen=True)
class _Operand:
    """One side of a comparison: number, text or boolean; a bare column or a literal says so."""

    kind: str
    expression: pc.Expression
    column: pa.Field | None = None
    literal: Any = None
    has_column: bool = True


class _Compiler:
    """Translates one text; remembers the columns it has met."""

    def __init__(self, table: Table, text: str, option: str) -> None:
        self.table = table
        self.text = text
        self.option = option
        self.columns: set[str] = set()

    def refuse(self, problem: str) -> NoReturn:
        shown = self.text if len(self.text) <= SHOWN_CHARACTERS else f"{self.text[:SHOWN_CHARACTERS]} …"
        raise UserError(f"{self.option} {shown!r}: {problem}")

    def source(self, node: ast.AST) -> str:
        return ast.get_source_segment(self.text, node) or ast.unparse(node)

    def row_filter(self) -> RowFilter:
        root = self.parse()
        parts = root.values if isinstance(root, ast.BoolOp) and isinstance(root.op, ast.And) else [root]
        conditions = tuple(Condition(self.source(part), self.condition(part)) for part in parts)
        columns = tuple(name for name in self.table.schema.names if name in self.columns)
        expression = functools.reduce(operator.and_, (each.expression for each in conditions))
        return RowFilter(self.text, columns, expression, conditions)

    def parse(self) -> ast.expr:
        if not self.text:
            self.refuse(f"is empty; wanted a condition over the columns of {self.table.name}, such as {EXAMPLE!r}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an odd escape in a string is the user's business
                return ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError) as error:
            self.refuse(f"is no condition ({_complaint(error)}){self.spelling()}; wanted one such as {EXAMPLE!r}")

    def spelling(self) -> str:
        words = set(self.text.split())
        if words & {"AND", "OR", "NOT", "IN", "IS", "NULL"}:
            return "; and, or, not, in and is null are written in lower case"
        if words & {"&&", "||", "!"}:
            return "; wanted the words and, or, not"
        return "; equality is written ==" if "=" in words else ""

    def condition(self, node: ast.expr) -> pc.Expression:
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                return functools.reduce(operator.and_, map(self.condition, values))
            case ast.BoolOp(op=ast.Or(), values=values):
                return functools.reduce(operator.or_, map(self.condition, values))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.condition(operand)
            case ast.Compare():
                return self.comparison(node)
            case ast.Name(id=name) if name not in WORDS:
                return self.flag(name)
        self.refuse(f"{self.source(node)!r} is no condition; wanted a comparison such as cosine > 0.25")

    def flag(self, name: str) -> pc.Expression:
        field = self.field(name)
        if not pa.types.is_boolean(field.type):
            self.refuse(f"the column {name} is no yes or no; compare it with a value")
        return pc.field(name)

    def comparison(self, node: ast.Compare) -> pc.Expression:
        sides = [node.left, *node.comparators]
        pairs = zip(sides, node.ops, sides[1:], strict=False)
        return functools.reduce(operator.and_, (self.compared(*pair) for pair in pairs))

    def compared(self, left: ast.expr, relation: ast.cmpop, right: ast.expr) -> pc.Expression:
        match relation:
            case ast.Is() | ast.IsNot():
                is_null = self.null_check(left, right)
                return ~is_null if isinstance(relation, ast.IsNot) else is_null
            case ast.In():
                return self.membership(left, right)
            case ast.NotIn():
                # isin says false of null; a null is in no list and out of none.
                return ~self.membership(left, right) & self.operand(left).expression.is_valid()
        return self.ordered(left, relation, right)

    def null_check(self, left: ast.expr, right: ast.expr) -> pc.Expression:
        if not _is_null(right) or not isinstance(left, ast.Name) or left.id in WORDS:
            self.refuse(f"wanted COLUMN is null or COLUMN is not null, got {self.source(left)} is {self.source(right)}")
        self.field(left.id)
        return pc.field(left.id).is_null()

    def membership(self, left: ast.expr, right: ast.expr) -> pc.Expression:
        if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
            self.refuse(f"in wants a list such as noun in ['dog', 'cat'], got {self.source(right)}")
        member, values = self.operand(left), [self.operand(element) for element in right.elts]
        for value, element in zip(values, right.elts, strict=True):
            if value.has_column:
                self.refuse(f"a list holds numbers or strings, got {self.source(element)}")
            self.require_same_kind(left, member, element, value)
        type_ = member.column.type if member.column is not None else pa.float64()
        if pa.types.is_integer(type_):
            # So that a list with a fraction is no error: it just equals nothing.
            type_, member = pa.float64(), _as_float64(member)
        return member.expression.isin(pa.array([value.literal for value in values], type_))

    def ordered(self, left: ast.expr, relation: ast.cmpop, right: ast.expr) -> pc.Expression:
        for side in (left, right):
            if _is_null(side):
                self.refuse("nothing equals null; write COLUMN is null or COLUMN is not null")
        a, b = self.operand(left), self.operand(right)
        self.require_same_kind(left, a, right, b)
        if a.kind == "boolean" and not isinstance(relation, ast.Eq | ast.NotEq):
            self.refuse(f"{self.source(left)} and {self.source(right)} are yes or no; compare them with == or !=")
        if not (a.has_column or b.has_column):
            self.refuse(f"{self.source(left)} and {self.source(right)} name no column of {self.table.name}")
        return COMPARISONS[type(relation)](_beside(a, b), _beside(b, a))

    def require_same_kind(self, left: ast.expr, a: _Operand, right: ast.expr, b: _Operand) -> None:
        if a.kind != b.kind:
            self.refuse(f"cannot compare {self.source(left)} ({a.kind}) with {self.source(right)} ({b.kind})")

    def operand(self, node: ast.expr) -> _Operand:
        match node:
            case ast.Name(id=("true" | "false") as word):
                return _literal(WORDS[word])
            case ast.Name(id=name) if name not in WORDS:
                return self.column(name)
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return _literal(value)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=inner):
                return self.signed(node, inner)
            case ast.BinOp() if type(node.op) in ARITHMETIC:
                return self.arithmetic(node)
        self.refuse(f"{self.source(node)!r} is no column, number, 'string', true or false")

    def column(self, name: str) -> _Operand:
        field = self.field(name)
        kind = _kind(field.type)
        if kind is None:
            self.refuse(f"the column {name} is a {field.type}, which only is null and is not null can ask about")
        return _Operand(kind, pc.field(name), field)

    def signed(self, node: ast.UnaryOp, inner: ast.expr) -> _Operand:
        number = self.number(inner)
        if isinstance(node.op, ast.UAdd):
            return number
        if not number.has_column:
            return _literal(-number.literal)
        return _Operand("number", pc.negate(_as_float64(number).expression))

    def arithmetic(self, node: ast.BinOp) -> _Operand:
        """In float64: a product of two int32 columns must not wrap around."""
        left, right = self.number(node.left), self.number(node.right)
        if left.has_column or right.has_column:
            combine = COLUMN_ARITHMETIC[type(node.op)]
            return _Operand("number", combine(_as_float64(left).expression, _as_float64(right).expression))
        try:
            return _literal(ARITHMETIC[type(node.op)](left.literal, right.literal))
        except ArithmeticError as error:
            self.refuse(f"{self.source(node)}: {error}")

    def number(self, node: ast.expr) -> _Operand:
        operand = self.operand(node)
        if operand.kind != "number":
            self.refuse(f"{self.source(node)} is no number ({operand.kind})")
        return operand

    def field(self, name: str) -> pa.Field:
        names = self.table.schema.names
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"its columns are {', '.join(names)}"
            self.refuse(f"{self.table.name} has no column {name}; {hint}")
        self.columns.add(name)
        return self.table.schema.field(name)


def _complaint(error: Exception) -> str:
    place = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
    return f"{getattr(error, 'msg', None) or error}{place}"


def _is_null(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id == "null") or (isinstance(node, ast.Constant) and node.value is None)


def _kind(type_: pa.DataType) -> str | None:
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "number"
    return "text" if pa.types.is_string(type_) else None


def _literal(value: Any) -> _Operand:
    if isinstance(value, bool):
        return _Operand("boolean", pc.scalar(value), literal=value, has_column=False)
    if isinstance(value, str):
        return _Operand("text", pc.scalar(value), literal=value, has_column=False)
    # An integer beyond 64 bits has no Arrow type; as a float it still compares as it should.
    number = value if isinstance(value, float) or abs(value) < 1 << 62 else _huge(value)
    return _Operand("number", pc.scalar(number), literal=number, has_column=False)


def _huge(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _as_float64(number: _Operand) -> _Operand:
    if not number.has_column:
        return _literal(float(number.literal))
    return _Operand("number", number.expression.cast(pa.float64()))


def _beside(side: _Operand, other: _Operand) -> pc.Expression:
    """The side's expression as it compares with the other.

    A number beside a float32 column is rounded to it, so that `cosine == 0.3` can hold; integers compare as such; else
    it is float64, as Arrow would make an int32 column float32.
    """
    if side.kind != "number" or (_is_integer(side) and _is_integer(other)):
        return side.expression
    if not side.has_column and other.column is not None and pa.types.is_floating(other.column.type):
        return pc.scalar(pa.scalar(float(side.literal), other.column.type))
    if side.column is not None and not other.has_column and pa.types.is_floating(side.column.type):
        return side.expression
    return _as_float64(side).expression


def _is_integer(side: _Operand) -> bool:
    return isinstance(side.literal, int) or (side.column is not None and pa.types.is_integer(side.column.type))
