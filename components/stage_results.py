"""What a stage found out: a frozen dataclass for whoever writes and reads it, JSON facts in the record of its artifact.

A field is the fact of that name, and a nested dataclass is a JSON object, with two exceptions that keep facts flat, so
that SQL and MLflow can take them one by one:

    gold: Annotated[Interval, Spread("n")]      # the facts gold, gold_low, gold_high, and n
    guard: Annotated[GuardCounts, INLINE]       # the facts that GuardCounts has, beside the others

An optional field whose default is None is left out of the facts where it is None; other fields are always written. JSON
has no NaN: a number that is not finite is written as null, and null is read back as NaN where the type is `float`, as
None where it is `float | None`.

Result classes lie in `results` modules beside the science that they belong to, and import neither torch nor flows, so
that pages can read them. A module holds what one kind of stage returns: a field added there re-runs no other.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union

from components.statistics import Interval

Result = TypeVar("Result")


class OtherFacts(ValueError):
    """The facts are not those of the dataclass: another version of the stage wrote them."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """Marks an `Interval` whose value, low and high are the facts `name`, `name_low`, `name_high`, and whose n is the
    fact `count`, by default `name_n`."""

    count: str = ""

    def names(self, name: str) -> dict[str, str]:
        """Part of the interval -> name of its fact."""
        return {"value": name, "low": f"{name}_low", "high": f"{name}_high", "n": self.count or f"{name}_n"}


@dataclasses.dataclass(frozen=True)
class _Inline:
    pass


INLINE = _Inline()  # marks a dataclass whose fields stand beside the others


@dataclasses.dataclass(frozen=True)
class _Field:
    name: str
    hint: Any  # without its marker and without `| None` where there is a marker
    marker: Spread | _Inline | None
    has_default: bool
    default: Any

    def told(self, facts: Mapping[str, Any]) -> bool:
        """Whether the facts hold a value of the field; a count that several intervals share is none of one alone."""
        shared = {self.marker.names(self.name)["n"]} if isinstance(self.marker, Spread) else set()
        return any(facts.get(name) is not None for name in self.facts - shared)

    @property
    def facts(self) -> frozenset[str]:
        """Names of the facts that the field is written as."""
        if isinstance(self.marker, Spread):
            return frozenset(self.marker.names(self.name).values())
        if self.marker is INLINE:
            return fact_names(self.hint)
        return frozenset({self.name})


def _fields(kind: Any) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for field in dataclasses.fields(kind):
        hint, marker = hints[field.name], None
        if typing.get_origin(hint) is Annotated:
            hint, marker = typing.get_args(hint)
            hint = next((part for part in typing.get_args(hint) if part is not type(None)), hint)
        has_default = field.default is not dataclasses.MISSING
        found.append(_Field(field.name, hint, marker, has_default, field.default if has_default else None))
    return tuple(found)


def fact_names(kind: Any) -> frozenset[str]:
    """All names that the facts of a result may have."""
    return frozenset().union(*(field.facts for field in _fields(kind)))


def to_facts(result: Any) -> dict[str, Any]:
    """A result as JSON values, in the order of its fields."""
    facts: dict[str, Any] = {}
    for field in _fields(type(result)):
        value = getattr(result, field.name)
        if value is None and field.has_default:
            continue
        if isinstance(field.marker, Spread):
            facts |= {name: _plain(getattr(value, part)) for part, name in field.marker.names(field.name).items()}
        elif field.marker is INLINE:
            facts |= to_facts(value)
        else:
            facts[field.name] = _plain(value)
    return facts


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_facts(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_facts(kind: type[Result], facts: Mapping[str, Any]) -> Result:
    """The inverse of `to_facts`. Facts of other names (`usage`) are passed over.

    Raises OtherFacts, which names the first fact that is missing or of another type.
    """
    return _record(kind, facts, "")


def _record(kind: type[Result], facts: Mapping[str, Any], place: str) -> Result:
    values: dict[str, Any] = {}
    for field in _fields(kind):
        if field.has_default and field.default is None and not field.told(facts):
            values[field.name] = None
        elif isinstance(field.marker, Spread):
            parts = {part: _fact(facts, name, place) for part, name in field.marker.names(field.name).items()}
            values[field.name] = _record(Interval, parts, f"{place}{field.name}.")
        elif field.marker is INLINE:
            values[field.name] = _record(field.hint, facts, place)
        elif field.name in facts or not field.has_default:
            values[field.name] = _value(field.hint, _fact(facts, field.name, place), place + field.name)
    return kind(**values)


def _fact(facts: Mapping[str, Any], name: str, place: str) -> Any:
    if name not in facts:
        raise OtherFacts(f"{place}{name} is missing")
    return facts[name]


def _value(hint: Any, value: Any, place: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(part for part in arguments if part is not type(None)), value, place)
    if hint is float:
        if value is None:
            return math.nan
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint in (bool, str):
        if isinstance(value, hint):
            return value
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple:
        if isinstance(value, list):
            kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
            if len(kinds) == len(value):
                return tuple(
                    _value(k, item, f"{place}[{i}]") for i, (k, item) in enumerate(zip(kinds, value, strict=True))
                )
    elif isinstance(value, Mapping):
        if dataclasses.is_dataclass(hint):
            return _record(typing.cast(type, hint), value, f"{place}.")
        return {name: _value(arguments[1], item, f"{place}.{name}") for name, item in value.items()}
    raise OtherFacts(f"{place} is {str(value)[:40]!r}, where {getattr(hint, '__name__', hint)} is expected")
