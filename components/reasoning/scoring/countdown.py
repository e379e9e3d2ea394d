"""Countdown puzzles, such as the Game of 24: an expression of the given numbers, each used once, with a given value."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

_INTEGER = re.compile(r"\d+")
_MAX_CHARS = 200
_OPERATIONS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def solves(expression: str, numbers: str, goal: int = 24) -> bool:
    """Whether an expression ("(10 - 4) * (5 - 1)", perhaps followed by "= 24") takes each of the numbers ("1 4 5 10")
    once and has the value `goal`, exactly. It is read as a tree of + - * / and brackets, never run."""
    left = expression.partition("=")[0]
    if sorted(_INTEGER.findall(left)) != sorted(_INTEGER.findall(numbers)):
        return False
    return value_of(left) == goal


def value_of(expression: str) -> Fraction | None:
    """The value of sums, differences, products and quotients of whole numbers; None of anything else."""
    plain = expression.replace("×", "*").replace("÷", "/").replace("−", "-").strip()
    if len(plain) > _MAX_CHARS:
        return None
    try:
        return _value(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            return Fraction(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_value(left), _value(right))
    raise ValueError("no arithmetic")
