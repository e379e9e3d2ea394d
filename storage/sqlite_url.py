"""Where a SQLite file lies, as SQLAlchemy takes it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote


def sqlite_url(file: Path, driver: str = "pysqlite") -> str:
    """`sqlite:///path`; for a path with a question mark, which would end it, the form that SQLite unquotes itself.

    driver: of SQLAlchemy, for that form. MLflow makes the folder of a URL without one, taking its text for a path.
    """
    if "?" not in str(file):
        plain = "" if driver == "pysqlite" else f"+{driver}"
        return f"sqlite{plain}:///{file}"
    return f"sqlite+{driver}:///file:{quote(str(file))}?uri=true"
