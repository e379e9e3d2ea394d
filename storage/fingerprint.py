"""Identity: the same stage, config, inputs and code give the same key, on every machine and in every process.

Nothing is guessed: what has no deterministic form raises and is named.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from storage.code import code_fingerprint as code_fingerprint
from storage.redaction import masked_addresses

if TYPE_CHECKING:
    from storage.artifacts import Record

# Part of every key: raise it when the meaning of a key changes, so that old artifacts are not mistaken for new ones.
_KEY_FORMAT = 1


def canonical_json(obj: Any, name: str = "config") -> str:
    """`obj` as JSON with one spelling only: sorted names, no spaces, ASCII, floats by their shortest repr.

    Takes None, bool, int, float, str, enums (by value), lists and tuples, mappings with string names, and dataclasses
    (as the mapping of their fields, whatever the class is called). 1 and 1.0 differ. Credentials in addresses are
    masked: with another password it is the same data.

    Args:
        obj: what to serialise.
        name: what error messages call it.

    Raises:
        TypeError: naming the field that holds a set, a path, a function, or anything else.
        ValueError: naming the field that holds NaN or an infinity.
    """
    return "".join(_spell(obj, name))


def _spell(obj: Any, where: str) -> Iterator[str]:
    if isinstance(obj, enum.Enum):
        yield from _spell(obj.value, where)
    elif isinstance(obj, str):
        yield json.dumps(masked_addresses(obj))
    elif obj is None or isinstance(obj, bool):
        yield json.dumps(obj)
    elif isinstance(obj, int):
        yield int.__repr__(obj)
    elif isinstance(obj, float):
        if not math.isfinite(obj):
            raise ValueError(f"{where}: {obj} cannot be part of an identity; use None for 'no limit' or 'not set'")
        yield float.__repr__(obj)
    elif isinstance(obj, (list, tuple)):
        yield "["
        for index, item in enumerate(obj):
            yield "," if index else ""
            yield from _spell(item, f"{where}[{index}]")
        yield "]"
    elif isinstance(obj, Mapping) or (dataclasses.is_dataclass(obj) and not isinstance(obj, type)):
        items = obj if isinstance(obj, Mapping) else {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)}
        for key in items:
            if not isinstance(key, str) or isinstance(key, enum.Enum):
                raise TypeError(f"{where}: the name {key!r} is of type {type(key).__name__}; names must be strings")
        yield "{"
        for index, key in enumerate(sorted(items)):
            yield ("," if index else "") + json.dumps(key) + ":"
            yield from _spell(items[key], f"{where}.{key}")
        yield "}"
    else:
        raise TypeError(f"{where}: a {type(obj).__name__} has no canonical form; {_advice(obj)}")


def _advice(obj: Any) -> str:
    if isinstance(obj, (set, frozenset)):
        return "its order is not fixed, use a sorted tuple"
    if hasattr(obj, "__fspath__"):
        return "the same path can hold anything: pass a digest of the content, or str() if the name itself is meant"
    if isinstance(obj, (bytes, bytearray)):
        return "use a string or a digest"
    if hasattr(obj, "item") and getattr(obj, "shape", None) == ():
        return "use .item() for the plain number"
    return "use numbers, strings, bools, None, tuples, mappings, or dataclasses of these"


def plain(obj: Any, name: str = "config") -> Any:
    """`obj` as plain JSON values, as a record keeps them; raises as `canonical_json` does."""
    return json.loads(canonical_json(obj, name))


def digest(obj: Any, name: str = "config") -> str:
    """SHA-256 of `canonical_json(obj)`, 64 hex digits."""
    return hashlib.sha256(canonical_json(obj, name).encode()).hexdigest()


def artifact_key(stage: str, config: Any, inputs: Mapping[str, str | list[str]], code: Mapping[str, str]) -> str:
    """Key of what `stage` makes from this identity config, these input keys, and this code. 64 hex digits.

    Args:
        stage: name of the stage.
        config: identity config only: what cannot change the result does not belong here.
        inputs: keys of the input artifacts by argument name; the order of a list counts.
        code: from `code_fingerprint`.
    """
    return Identity(stage, plain(config), dict(inputs), dict(code)).key


@dataclass(frozen=True)
class Identity:
    """What a key is made of. `config` may hold dataclasses; it is compared as plain JSON."""

    stage: str
    config: Any = field(hash=False)
    inputs: Mapping[str, str | list[str]] = field(hash=False)
    code: Mapping[str, str] = field(hash=False)

    @property
    def key(self) -> str:
        parts = (canonical_json(self.stage), canonical_json(self.config), canonical_json(self.inputs, "inputs"))
        text = "\n".join((str(_KEY_FORMAT), *parts, canonical_json(self.code, "code")))
        return hashlib.sha256(text.encode()).hexdigest()


def explain(old: Record | None, new: Identity, causes: Mapping[str, str] | None = None) -> list[str]:
    """Why `new` is not what `old` made: one line per reason, config first, then inputs, then code.

    Args:
        old: an earlier record of the stage (`nearest` finds the best to compare with), or None.
        new: what would run now.
        causes: by key of an input: why that input is new (what `explain` said of its stage), to be told along.

    Returns:
        An empty list when nothing differs: then the artifact itself is gone or damaged.
    """
    if old is None:
        return ["it never ran before"]
    reasons = [f"{path}: {change}" for path, change in _config_changes(old.config, plain(new.config), "")]
    reasons += _input_changes(old.inputs, new.inputs, causes or {})
    for module in sorted({*old.code, *new.code}):
        if module not in old.code:
            reasons.append(f"code: {module} is used now")
        elif module not in new.code:
            reasons.append(f"code: {module} is no longer used")
        elif old.code[module] != new.code[module]:
            reasons.append(f"code: {module} changed")
    return reasons


def nearest(records: Iterable[Record], new: Identity) -> Record | None:
    """The record of the same stage with the fewest differences to `new`, the newest of equals; None without any.

    A sweep runs one stage many times: the newest record may be another point of it, which explains nothing.
    """
    own = [record for record in records if record.stage == new.stage]
    fewest_first = sorted(own, key=lambda record: record.created, reverse=True)
    return min(fewest_first, key=lambda record: len(explain(record, new)), default=None)


_ABSENT = object()


def _config_changes(old: Any, new: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from _config_changes(old.get(name, _ABSENT), new.get(name, _ABSENT), f"{path}.{name}".lstrip("."))
    elif old is _ABSENT:
        yield path, f"new setting, {_short(new)}"
    elif new is _ABSENT:
        yield path, f"setting is gone, was {_short(old)}"
    elif canonical_json(old) != canonical_json(new):
        yield path or "config", f"{_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _input_changes(
    old: Mapping[str, str | list[str]], new: Mapping[str, str | list[str]], causes: Mapping[str, str]
) -> Iterator[str]:
    for name in sorted({*old, *new}):
        if name not in old:
            yield f"input {name}: is new"
        elif name not in new:
            yield f"input {name}: is gone"
        elif old[name] != new[name]:
            before, after = ([keys] if isinstance(keys, str) else list(keys) for keys in (old[name], new[name]))
            told = [causes[key] for key in after if key not in before and key in causes]
            if told:
                yield f"input {name}: {'; '.join(dict.fromkeys(told))}"
            elif len(before) != len(after):
                yield f"input {name}: {len(before)} artifacts -> {len(after)}"
            elif sorted(before) == sorted(after):
                yield f"input {name}: another order"
            else:
                pairs = [(b, a) for b, a in zip(before, after, strict=True) if b != a]
                more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
                yield f"input {name}: changed ({pairs[0][0][:8]} -> {pairs[0][1][:8]}{more})"
