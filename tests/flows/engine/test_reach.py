"""A key covers all code of ours that its stage reaches, found here in another way than `storage/code.py` does it: from
the bytecode of the imported functions instead of the syntax trees of the files."""

from __future__ import annotations

import ast
import dis
import functools
import importlib
import inspect
import pkgutil
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flows.stages
from flows.engine.stage import Stage
from storage.code import CANNOT_CHANGE_A_RESULT, code_fingerprint, forget_sources

ROOT = Path(__file__).parents[3]
OURS = {folder.name for folder in ROOT.iterdir() if next(folder.glob("*.py"), None) and folder.name != "tests"}


def all_stages() -> dict[str, Stage]:
    names = [info.name for info in pkgutil.walk_packages(flows.stages.__path__, "flows.stages.")]
    found = [one for name in names for one in vars(importlib.import_module(name)).values()]
    return {one.name: one for one in found if isinstance(one, Stage)}


STAGES = all_stages()


# -- what a function reaches, by its bytecode --------------------------------------------------------------------------


def reached(function: Any) -> set[tuple[str, str]]:
    """Module and name of every function and class of ours that a function may come to, itself included; what cannot
    change a result is named, but not gone through."""
    found: set[tuple[str, str]] = set()
    done: set[int] = set()
    waiting: list[Any] = [function]
    kept = []  # so that no id is given twice
    while waiting:
        thing = waiting.pop()
        if id(thing) in done:
            continue
        done.add(id(thing))
        kept.append(thing)
        if isinstance(thing, (dict, list, tuple, set, frozenset)):  # a registry
            waiting += [*thing.values(), *thing] if isinstance(thing, dict) else [*thing]
        elif isinstance(thing, (staticmethod, classmethod)):
            waiting.append(thing.__func__)
        elif isinstance(thing, property):
            waiting += [part for part in (thing.fget, thing.fset) if part]
        elif isinstance(thing, functools.cached_property):
            waiting.append(thing.func)
        elif isinstance(thing, functools.partial):
            waiting += [thing.func, thing.args, thing.keywords]
        elif hasattr(thing, "__wrapped__") and not isinstance(thing, type):
            waiting.append(inspect.unwrap(thing))
        elif is_ours(thing):
            if not thing.__qualname__.startswith("<"):
                found.add((thing.__module__, thing.__qualname__.split(".")[0]))
            if left_out(thing.__module__, thing.__qualname__):
                continue
            if isinstance(thing, type):
                waiting += [*vars(thing).values(), *thing.__bases__]
            else:
                waiting += [*used(thing), *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
    return found


@functools.cache
def reached_by(stage: str) -> set[tuple[str, str]]:
    return reached(STAGES[stage].fn)


def is_ours(thing: Any) -> bool:
    named = isinstance(thing, (types.FunctionType, type))
    return named and str(thing.__module__).split(".")[0] in OURS and "__create_fn__" not in thing.__qualname__


def used(function: types.FunctionType) -> Iterator[Any]:
    """The objects that a function's code loads by name or imports."""
    codes, imported = [function.__code__], ""
    for code in codes:
        codes += [one for one in code.co_consts if isinstance(one, types.CodeType)]
        steps = list(dis.get_instructions(code))
        attributes = {step.argval for step in steps if step.opname in ("LOAD_ATTR", "LOAD_METHOD")}
        for step in steps:
            thing = None
            if step.opname == "IMPORT_NAME":
                imported = step.argval
                thing = importlib.import_module(imported) if imported.split(".")[0] in OURS else None
            elif step.opname == "IMPORT_FROM" and imported.split(".")[0] in OURS:
                module, inner = importlib.import_module(imported), f"{imported}.{step.argval}"
                thing = getattr(module, step.argval, None) or importlib.import_module(inner)
            elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                thing = function.__globals__.get(step.argval)
            if isinstance(thing, types.ModuleType):
                if thing.__name__.split(".")[0] in OURS:
                    yield from (getattr(thing, name) for name in attributes if hasattr(thing, name))
            elif thing is not None:
                yield thing


def left_out(module: str, definition: str) -> bool:
    """True for what is on the list of what cannot change a result, by itself or as a part of what is."""
    return any(f"{module}:{definition}.".startswith((f"{name}.", f"{name}:")) for name in CANNOT_CHANGE_A_RESULT)


# -- the tests ---------------------------------------------------------------------------------------------------------


def test_the_walk_finds_what_is_plain_to_see() -> None:
    names = {name for _, name in reached_by("ppo")}
    assert {"ppo", "chat_prompts", "answer_text", "load_model", "Transformer", "Tokenizer", "PPOState"} <= names
    assert {"flows", "components", "storage", "dashboards"} <= OURS
    assert len(STAGES) > 25


@pytest.mark.parametrize("name", STAGES)
def test_every_function_that_a_stage_reaches_is_in_its_key_or_cannot_change_a_result(name: str) -> None:
    code = code_fingerprint(STAGES[name].fn)
    missing = {
        f"{module}:{definition}"
        for module, definition in reached_by(name)
        if module not in code and f"{module}:{definition}" not in code and not left_out(module, definition)
    }
    assert missing == set()


def test_what_is_left_out_of_the_keys_is_there_is_reached_and_has_a_reason() -> None:
    everything = {f"{module}:{definition}." for name in STAGES for module, definition in reached_by(name)}
    hints = {hint for stage in STAGES.values() for hint in stage.hints.values() if isinstance(hint, type)}
    everything |= {f"{hint.__module__}:{hint.__qualname__}." for hint in hints}
    for name, reason in CANNOT_CHANGE_A_RESULT.items():
        assert any(one.startswith((f"{name}.", f"{name}:")) for one in everything), f"{name}: no stage reaches it"
        assert len(reason.split()) >= 5, name


def test_no_stage_has_another_stages_function_in_its_key() -> None:
    for name, stage in STAGES.items():
        others = {f"{other.fn.__module__}:{other.name}" for other in STAGES.values() if other is not stage}
        whole = {other.fn.__module__ for other in STAGES.values()}
        assert not (others | whole) & code_fingerprint(stage.fn).keys(), name


def place_of(definition: str) -> Path:
    """The file of ours that has this definition at its top level."""
    files = [file for folder in ("flows", "components") for file in (ROOT / folder).rglob("*.py")]
    (place,) = [file for file in files if f"\ndef {definition}(" in file.read_text(encoding="utf-8")]
    return place


@pytest.mark.parametrize(
    ("definition", "stages"),
    [
        ("answer_text", {"ppo", "dpo", "best_of_n", "grpo"}),
        ("follow", {"pretrain", "finetune", "train_architecture", "specialize_experts"}),
        ("ppo", {"ppo"}),
    ],
)
def test_an_edit_changes_the_keys_of_what_reaches_it(
    definition: str, stages: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, read = (
        place_of(definition) if definition in ("answer_text", "follow") else file_of(definition),
        Path.read_bytes,
    )
    before = {name: code_fingerprint(stage.fn) for name, stage in STAGES.items()}
    edited = with_a_longer_end(read(file), definition)
    monkeypatch.setattr(Path, "read_bytes", lambda path: edited if path == file else read(path))
    forget_sources()
    try:
        changed = {name for name, stage in STAGES.items() if code_fingerprint(stage.fn) != before[name]}
    finally:
        forget_sources()
    if definition in STAGES:
        assert changed == stages  # and no neighbour in its file
    else:
        assert changed >= stages
        assert "train_tokenizer" not in changed


def file_of(stage: str) -> Path:
    return Path(STAGES[stage].fn.__code__.co_filename)


def with_a_longer_end(source: bytes, definition: str) -> bytes:
    """A file with one more statement on the last line of a definition: all else keeps its line."""
    (found,) = [item for item in ast.parse(source).body if getattr(item, "name", None) == definition]
    lines = source.splitlines()
    assert found.end_lineno
    lines[found.end_lineno - 1] += b"; edited = 1"
    return b"\n".join(lines) + b"\n"
