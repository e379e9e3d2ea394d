"""Documents in one of the wanted languages, identified with langid.py (Lui and Baldwin 2012) in its maintained fork."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

LANGUAGE_SAMPLE_CHARS = 600  # a fifth of a millisecond a document


@cache
def _identifier(languages: tuple[str, ...]) -> Any:
    """The identifier, which takes a second and some 4 MB to load. Raises ValueError for a language that it lacks."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if unknown := sorted(set(languages) - set(identifier.labels)):
        raise ValueError(
            f"unknown language {', '.join(map(repr, unknown))}; they are ISO 639-1 codes such as en, de, fr"
        )
    return identifier


def language_reason(text: str, wanted: Sequence[str], languages: Sequence[str] = ()) -> str:
    """Why the language isn't a wanted one, or an empty string; judged by the first characters.

    All languages of the identifier compete: restricted to the wanted ones, it could only ever answer with one of them.
    `languages` are the wanted ones again, as every filter is given them. Raises ValueError for an unknown code.
    """
    if not wanted or len(text) < 20:
        return ""  # any will do; or the text is too short to tell, and for the quality rules to judge
    language, _ = _identifier(tuple(wanted)).classify(text[:LANGUAGE_SAMPLE_CHARS])
    return "" if language in wanted else f"language {language}"
