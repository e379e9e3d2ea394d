from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))  # workers import the toy stages by name

from storage.home import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LIFESPAN_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.fixture
def console() -> Console:
    """Collects what a run prints where there is no terminal: `console.file.getvalue()`."""
    return Console(file=StringIO(), width=200)
