"""Editing code re-runs what depends on it; a comment, a docstring, a type annotation's import re-run nothing.

`science` and `parts` lie in a folder that `storage/code.py` does not know: what is unknown is covered.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import storage
from storage.code import code_fingerprint, forget_sources

FILES = {
    "science/__init__.py": "",
    "science/data/__init__.py": '"""Re-exports."""\nfrom science.data.clean import clean\n__all__ = ["clean"]\n',
    "science/data/clean.py": """
        from __future__ import annotations
        from typing import TYPE_CHECKING
        from .rules import RULES
        if TYPE_CHECKING:
            from science.typing_only import Text

        def clean(text: Text) -> Text:
            '''Clean it.'''
            return text.strip(RULES)
        """,
    "science/data/rules.py": "RULES = ' '\n",
    "science/late.py": "def late():\n    from science import deep\n    return deep.VALUE\n",
    "science/deep.py": "VALUE = 1\n",
    "science/unused.py": "VALUE = 1\n",
    "science/typing_only.py": "Text = str\n",
    "science/loud/__init__.py": "from science.deep import VALUE\nREGISTRY = {}\nREGISTRY['x'] = VALUE\n",
    "science/loud/quiet.py": "VALUE = 2\n",
    "science/named.py": "VALUE = 3\n",
    "science/cycle_a.py": "import science.cycle_b\n",
    "science/cycle_b.py": "from science import cycle_a\n",
    "parts.py": """
        import importlib
        import json
        import math as m
        import science.cycle_a
        from other import helper
        from science.data.clean import clean as scrub
        from science.late import late
        from science.loud.quiet import VALUE
        from science.unused import VALUE as UNUSED

        LIMIT = 3
        TABLE = {}
        TABLE["a"] = LIMIT
        ALONE = UNUSED

        def stage(**options):
            return lambda function: function

        def _helper(x):
            # a comment
            return scrub(x) + str(LIMIT)

        @stage(group="data", produces="corpus")
        def corpus(x):
            \"\"\"Make it.\"\"\"
            return _helper(x)

        @stage(group="data")
        def lazy():
            return late()

        @stage(group="data")
        def plain(x):
            return TABLE[x] + m.pi

        @stage(group="data")
        def loud():
            return VALUE

        @stage(group="data")
        def by_name():
            return importlib.import_module("science.named")

        @stage(group="data")
        def round_about():
            return science.cycle_a

        def outer():
            def nested(x):
                return late()
            return nested
        """,
    "other.py": "def helper(): ...\n",
}


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    forget_sources()
    yield tmp_path
    for name in ("parts", "other", *(name for name in sys.modules if name.split(".")[0] == "science")):
        sys.modules.pop(name, None)
    forget_sources()


def _function(name: str) -> Callable[..., Any]:
    for module in ("parts", "other", *(m for m in list(sys.modules) if m.split(".")[0] == "science")):
        sys.modules.pop(module, None)
    forget_sources()
    return getattr(importlib.import_module("parts"), name)  # type: ignore[no-any-return]


def _print(name: str) -> dict[str, str]:
    return code_fingerprint(_function(name))


def _edit(house: Path, file: str, old: str, new: str) -> None:
    text = (house / file).read_text()
    assert old in text
    (house / file).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("function", "reached"),
    [
        ("corpus", ["parts:LIMIT", "parts:_helper", "parts:corpus", "science.data.clean", "science.data.rules"]),
        ("lazy", ["parts:lazy", "science", "science.deep", "science.late"]),
        ("plain", ["parts:LIMIT", "parts:TABLE", "parts:plain"]),
        ("loud", ["parts:VALUE", "parts:loud"]),
        ("by_name", ["parts:by_name", "science.named"]),
        ("round_about", ["parts:round_about", "science", "science.cycle_a", "science.cycle_b"]),
    ],
)
def test_reach(house: Path, function: str, reached: list[str]) -> None:
    if function == "loud":  # its package's __init__ does more than import, so it and what it imports count
        reached = ["parts:loud", "science.deep", "science.loud", "science.loud.quiet"]
    assert list(_print(function)) == reached


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("parts.py", "# a comment", "# another"),
        ("parts.py", '"""Make it."""', '"""Make it well."""'),
        ("parts.py", "def _helper(x):", "\n\n\ndef _helper(\n    x,\n):"),
        ("parts.py", 'group="data", produces', 'group="pretraining", produces'),
        ("parts.py", "return late()", "return late() + 1"),
        ("parts.py", "ALONE = UNUSED", "ALONE = UNUSED + 1"),
        ("science/data/clean.py", "'''Clean it.'''", "'''Clean it all.'''"),
        ("science/data/clean.py", "import Text", "import Text, Other"),
        ("science/unused.py", "1", "2"),
        ("science/typing_only.py", "str", "bytes"),
        ("science/data/__init__.py", "Re-exports", "Exports"),
        ("other.py", "...", "return 1"),
    ],
)
def test_edits_that_re_run_nothing(house: Path, file: str, old: str, new: str) -> None:
    before = _print("corpus")
    _edit(house, file, old, new)
    assert _print("corpus") == before


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("parts.py", "LIMIT = 3", "LIMIT = 4", "parts:LIMIT"),
        ("parts.py", "return scrub(x)", "return scrub(x) * 2", "parts:_helper"),
        ("parts.py", "return _helper(x)", "return _helper(x) + ''", "parts:corpus"),
        ("science/data/clean.py", "text.strip", "text.lstrip", "science.data.clean"),
        ("science/data/rules.py", "' '", "'  '", "science.data.rules"),
    ],
)
def test_edits_that_count(house: Path, file: str, old: str, new: str, changed: str) -> None:
    before = _print("corpus")
    _edit(house, file, old, new)
    after = _print("corpus")
    assert {name for name in before if after[name] != before[name]} == {changed}


def test_a_change_to_a_constant_by_item_counts(house: Path) -> None:
    before = _print("plain")
    _edit(house, "parts.py", 'TABLE["a"] = LIMIT', 'TABLE["b"] = LIMIT')
    assert _print("plain") != before


def test_nothing_is_imported_to_find_out(house: Path) -> None:
    function = _function("by_name")
    (house / "science/named.py").write_text("raise RuntimeError('imported')\n")
    assert "science.named" in code_fingerprint(function)
    assert "science.named" not in sys.modules


def test_a_nested_function_counts_as_what_it_lies_in(house: Path) -> None:
    nested = _function("outer")()
    assert list(code_fingerprint(nested)) == ["parts:outer", "science", "science.deep", "science.late"]


def test_wrappers_are_seen_through(house: Path) -> None:
    import functools

    function = _function("corpus")

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    assert code_fingerprint(wrapper) == code_fingerprint(function)


def test_what_has_no_source_is_refused() -> None:
    with pytest.raises(TypeError, match="source file"):
        code_fingerprint(len)
    with pytest.raises(TypeError, match="source file"):
        code_fingerprint(eval("lambda: 1"))


def test_python_itself_and_installed_packages_are_not_followed(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (house / "env" / "peer-1.0.dist-info").mkdir(parents=True)
    (house / "env" / "peer.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(house / "env"))
    (house / "parts.py").write_text("import json\nfrom peer import VALUE\ndef corpus(): return json, VALUE\n")
    assert list(_print("corpus")) == ["parts:corpus"]


def test_a_file_beside_a_module_that_names_it_counts(house: Path) -> None:
    (house / "science/rules.h").write_text("int rules;\n")
    (house / "science/other.c").write_text("int other;\n")
    (house / "science/deep.py").write_text('VALUE = "rules.h", "rules.c"\n')
    before = _print("lazy")
    _edit(house, "science/other.c", "other", "another")
    assert _print("lazy") == before
    _edit(house, "science/rules.h", "int", "long")
    changed = _print("lazy")
    assert {name for name in before if changed[name] != before[name]} == {"science.deep"}
    (house / "science/deep.py").write_text('VALUE = "*.c"\n')
    before = _print("lazy")
    _edit(house, "science/other.c", "another", "other")
    assert _print("lazy") != before


def test_what_a_module_does_when_it_is_imported_counts(house: Path) -> None:
    before = _print("lazy")
    (house / "parts.py").write_text((house / "parts.py").read_text() + "\nm.trunc(LIMIT)\n")
    assert _print("lazy").keys() - before.keys() == {"parts:(on import)", "parts:LIMIT"}


ORCHESTRATION = {
    "flows/__init__.py": "",
    "flows/work.py": "class Work: ...\n",
    "flows/shared.py": """
        from flows.limits import *
        from flows.limits import LIMIT
        from flows.work import Work

        def said(text): return text[:LIMIT]
        def follow(work: Work): return _pace()
        def _pace(): return 1
        def other(): return 2
        """,
    "flows/limits.py": "LIMIT = 3\nMORE = 4\n",
    "flows/first.py": """
        from flows.shared import follow, said as heard
        def ppo(): return heard("x")
        def dpo(): return follow()
        """,
    "flows/second.py": """
        from flows import shared
        def best(): return shared.other()
        """,
}


def test_orchestration_is_followed_by_definition_across_modules(house: Path) -> None:
    for name, text in ORCHESTRATION.items():
        (house / name).parent.mkdir(exist_ok=True)
        (house / name).write_text(textwrap.dedent(text))
    script = (
        "import json; from storage.code import code_fingerprint; from flows.first import ppo, dpo; "
        "from flows.second import best; print(json.dumps([list(code_fingerprint(f)) for f in (ppo, dpo, best)]))"
    )
    shutil.copytree(Path(storage.__file__).parent, house / "storage", ignore=shutil.ignore_patterns("__pycache__"))
    code = (house / "storage/code.py").read_text()
    (house / "storage/code.py").write_text(code.replace('"flows.engine.work":', '"flows.work":'))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=house)
    ppo, dpo, best = json.loads(done.stdout)
    assert ppo == ["flows.first:ppo", "flows.limits", "flows.limits:LIMIT", "flows.shared:said"]
    assert dpo == ["flows.first:dpo", "flows.limits", "flows.shared:_pace", "flows.shared:follow"]
    # A module that is handed about counts as a whole.
    assert best == ["flows.limits", "flows.limits:LIMIT", "flows.second:best", "flows.shared"]
