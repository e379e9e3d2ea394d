"""Short programs of arithmetic, evaluated exactly and never run: lines `name = expression`, fractions throughout."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from fractions import Fraction

_MAX_CHARS, _MAX_LINES, _MAX_POWER, _MAX_BITS = 4000, 100, 64, 2048


class NotArithmetic(ValueError):
    """What the program holds that is none of names, numbers and operations, or a value that is too large."""


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if abs(exponent) > _MAX_POWER or base.numerator.bit_length() > _MAX_BITS:
        raise NotArithmetic(f"a power of {exponent} is too large")
    if exponent.denominator == 1:
        return base ** int(exponent)
    if base < 0:
        raise NotArithmetic("a root of a negative number")
    return Fraction(float(base) ** float(exponent)).limit_denominator(10**12)


def _rounded(value: Fraction, digits: Fraction = Fraction(0)) -> Fraction:
    if abs(digits) > _MAX_POWER or digits.denominator != 1:
        raise NotArithmetic("round takes a small whole number of digits")
    return Fraction(round(value, int(digits)))


_OPERATIONS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: lambda a, b: a % b,
    ast.Pow: _power,
}
_FUNCTIONS: Mapping[str, Callable[..., Fraction]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "round": _rounded,
    "int": lambda x: Fraction(int(x)),
    "float": lambda x: x,
    "floor": lambda x: Fraction(math.floor(x)),
    "ceil": lambda x: Fraction(math.ceil(x)),
}


def value_of_program(program: str) -> Fraction:
    """What `answer` is after the last line, or what the last line sets, prints, returns or is.

    Comments and blank lines are passed over. Raises NotArithmetic for anything else, such as an import or an attribute.
    """
    if len(program) > _MAX_CHARS:
        raise NotArithmetic(f"the program has {len(program)} characters; at most {_MAX_CHARS} are read")
    try:
        lines = ast.parse(program.replace("−", "-").replace("×", "*").strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotArithmetic(f"it is no program: {error}") from None
    if not lines or len(lines) > _MAX_LINES:
        raise NotArithmetic(f"the program has {len(lines)} lines; it takes 1 to {_MAX_LINES}")
    names: dict[str, Fraction] = {}
    last = Fraction(0)
    for line in lines:
        match line:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = last = _value(value, names)
            case ast.AugAssign(target=ast.Name(id=name), op=op, value=value) if name in names:
                names[name] = last = _joined(op, names[name], _value(value, names))
            case ast.Expr(value=ast.Call(func=ast.Name(id="print"), args=[value], keywords=[])) | ast.Expr(value=value):
                last = _value(value, names)
            case _:
                raise NotArithmetic(f"line {line.lineno} is no line `name = expression`")
    return names.get("answer", last)


def _value(node: ast.expr, names: Mapping[str, Fraction]) -> Fraction:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as value) if math.isfinite(value):
            return _checked(Fraction(str(value)))
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Name(id=name):
            raise NotArithmetic(f"line {node.lineno}: {name} has no value yet")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, names)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, names)
        case ast.BinOp(left=left, op=op, right=right):
            return _joined(op, _value(left, names), _value(right, names))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            try:
                return _checked(Fraction(_FUNCTIONS[name](*(_value(arg, names) for arg in args))))
            except TypeError:
                raise NotArithmetic(f"line {node.lineno}: {name} with {len(args)} arguments") from None
    raise NotArithmetic(f"line {node.lineno}: {type(node).__name__} is no arithmetic")


def _joined(op: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    if type(op) not in _OPERATIONS:
        raise NotArithmetic(f"{type(op).__name__} is no operation of arithmetic")
    try:
        return _checked(_OPERATIONS[type(op)](left, right))
    except (ZeroDivisionError, OverflowError) as error:
        raise NotArithmetic(str(error)) from None


def _checked(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS * _MAX_POWER:
        raise NotArithmetic("a number is too large")
    return value
