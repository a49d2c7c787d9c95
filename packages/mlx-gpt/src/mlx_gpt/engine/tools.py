"""Tool use: calls in a stream of tokens, answered by a calculator.

A model writes `<|python_start|>12*7<|python_end|>`. The next tokens are not sampled but forced:
`<|output_start|>84<|output_end|>`; then the model continues.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_gpt.tokenizer import AnyTokenizer

# Limits of the calculator.
MAX_LENGTH = 500  # characters
MAX_DEPTH = 100  # parentheses, signs and powers, which nest in the parser
MAX_BITS = 256  # of integer results, final or intermediate: about 77 digits

Number = int | float

_LITERAL = re.compile(r"""('[^'\\\n]*'|"[^"\\\n]*")""")
_PLAIN = re.compile(r"[0-9+\-*/%(). ]*")
_COMMA_IN_NUMBER = re.compile(r"(?<=[0-9]),(?=[0-9])")
_DEEPER = re.compile(r"[(\-+]|\*\*")


@dataclass(frozen=True)
class Markers:
    """Ids of the special tokens around calls and around results."""

    python_start: int
    python_end: int
    output_start: int
    output_end: int

    @staticmethod
    def of(tokenizer: AnyTokenizer) -> Markers | None:
        """Return a tokenizer's markers, None if it has none."""
        names = ("python_start", "python_end", "output_start", "output_end")
        try:
            return Markers(*(tokenizer.special(f"<|{name}|>") for name in names))
        except KeyError:
            return None


class ToolUse:
    """Answers the calls in the tokens of one row."""

    def __init__(self, tokenizer: AnyTokenizer, markers: Markers):
        self._tokenizer = tokenizer
        self._markers = markers
        self._call: list[int] | None = None  # tokens of the current call

    def accept(self, token: int) -> list[int]:
        """Add the row's next token; if it ends a valid call, return the tokens to force next."""
        if token == self._markers.python_start:
            self._call = []
        elif token == self._markers.python_end and self._call is not None:
            result = calculate(self._tokenizer.decode(self._call))
            self._call = None
            if result is not None:
                markers = self._markers
                return [markers.output_start, *self._tokenizer.encode(result), markers.output_end]
        elif self._call is not None:
            self._call.append(token)
        return []


def content_parts(tokenizer: AnyTokenizer, ids: Iterable[int]) -> list[dict[str, str]]:
    """Return the tokens of an answer as the content of a message, incomplete calls included.

    Each part is `{"type": "text" | "python" | "python_output", "text": ...}`.
    """
    markers = Markers.of(tokenizer)
    if markers is None:
        text = tokenizer.decode(list(ids))
        return [{"type": "text", "text": text}] if text else []
    opens = {markers.python_start: "python", markers.output_start: "python_output"}
    closes = {markers.python_end, markers.output_end}
    parts: list[tuple[str, list[int]]] = [("text", [])]
    for token in ids:
        if token in opens:
            parts.append((opens[token], []))
        elif token in closes:
            parts.append(("text", []))
        else:
            parts[-1][1].append(token)
    return [{"type": kind, "text": tokenizer.decode(held)} for kind, held in parts if held]


def calculate(expression: str) -> str | None:
    """Return the value of an expression as Python prints it, None if it is not supported.

    Supported are integers and decimal numbers, `+ - * / // % **`, parentheses, and
    `'text'.count('x')`. Commas between digits are removed: "1,000 * 3" is "3000".

    Models write the expressions, so they are untrusted. They are parsed, never executed. Length,
    depth and the size of every intermediate result are limited, so the time is bounded without a
    timer.
    """
    if len(expression) > MAX_LENGTH:
        return None
    parts = _LITERAL.split(expression.strip())
    # Parts alternate between code and string literals.
    parts[::2] = [_COMMA_IN_NUMBER.sub("", part) for part in parts[::2]]
    rest = "".join(parts[::2])
    # The parser warns about some invalid code with letters: only `count` may reach it.
    if not _PLAIN.fullmatch(rest.replace(".count(", "(")) or len(_DEEPER.findall(rest)) > MAX_DEPTH:
        return None
    try:
        result = _value(ast.parse("".join(parts), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None
    return str(result)


class _UnsupportedError(ValueError):
    """An expression that the calculator does not support."""


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _bounded(_OPERATORS[type(op)](_value(left), _value(right)))
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str() as text), attr="count"),
            args=[ast.Constant(value=str() as part)],
            keywords=[],
        ):
            return text.count(part)
    raise _UnsupportedError(ast.dump(node))


def _power(base: Number, exponent: Number) -> Number:
    # 9 ** 9 ** 9 would not fit in memory.
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1:  # noqa: SIM102
        if base.bit_length() * abs(exponent) > MAX_BITS:
            raise _UnsupportedError("too large a power")
    return base**exponent


def _bounded(value: Number) -> Number:
    """Return the value; raise unless it is a finite real number of limited size."""
    if isinstance(value, int) and value.bit_length() <= MAX_BITS:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise _UnsupportedError("not a number, or too large")


_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
