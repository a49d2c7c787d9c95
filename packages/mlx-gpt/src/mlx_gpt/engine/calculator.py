"""The calculator that models call: arithmetic and `'text'.count('x')`, nothing else.

The expression comes from a model, so it may be anything. It is parsed, never executed: a walk over
the syntax tree knows numbers, seven operators and `count`. Length, depth and the size of every
number on the way are bounded, so it ends quickly in any thread, without a timer.
"""

import ast
import math
import operator
import re
from collections.abc import Callable

# Characters of an expression.
MAX_LENGTH = 500
# Parentheses, signs and powers: what may make the parser go deeper.
MAX_DEPTH = 100
# Bits of any whole number on the way: about 77 digits.
MAX_BITS = 256

Number = int | float

_LITERAL = re.compile(r"""('[^'\\\n]*'|"[^"\\\n]*")""")
_PLAIN = re.compile(r"[0-9+\-*/%(). ]*")
_COMMA_IN_NUMBER = re.compile(r"(?<=[0-9]),(?=[0-9])")
_DEEPER = re.compile(r"[(\-+]|\*\*")


class _Refused(ValueError):
    """What the calculator does not do."""


def calculate(expression: str) -> str | None:
    """Return what Python would print for an expression, or None if it is not one of ours.

    Whole and decimal numbers, `+ - * / // % **`, parentheses, and `count` of a string literal with
    one argument. Commas between digits are left out: "1,000 * 3" is "3000".
    """
    if len(expression) > MAX_LENGTH:
        return None
    parts = _LITERAL.split(expression.strip())
    # Every second part is a string literal.
    parts[::2] = [_COMMA_IN_NUMBER.sub("", part) for part in parts[::2]]
    rest = "".join(parts[::2])
    # The parser warns about some nonsense with letters, so none but these reach it.
    if not _PLAIN.fullmatch(rest.replace(".count(", "(")) or len(_DEEPER.findall(rest)) > MAX_DEPTH:
        return None
    try:
        result = _value(ast.parse("".join(parts), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None
    return str(result)


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
    raise _Refused(ast.dump(node))


def _power(base: Number, exponent: Number) -> Number:
    # The digits of 9 ** 9 ** 9 would fill memory before anyone could count them.
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1:  # noqa: SIM102
        if base.bit_length() * abs(exponent) > MAX_BITS:
            raise _Refused("too large a power")
    return base**exponent


def _bounded(value: Number) -> Number:
    """Return the value if it is a finite real number of bounded size."""
    if isinstance(value, int) and value.bit_length() <= MAX_BITS:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise _Refused("not a number, or too large")


_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
