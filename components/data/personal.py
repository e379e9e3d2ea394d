"""Masking of what identifies people: e-mail addresses, payment cards, IP addresses, phone numbers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.)+[A-Za-z]{2,24}(?![\w-])")
_CARD = re.compile(
    r"(?<![\d.,-])[2-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{1,7}(?![\d-])|(?<![\d.,-])3\d{3}[ -]?\d{6}[ -]?\d{5}(?![\d-])"
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:+){2,7}[0-9A-Fa-f]{1,4}(?![\w:])")
_PHONE = re.compile(
    r"(?<![\w.,$-])(?:"
    r"\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}"  # international: a plus sign and groups
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[.-]\d{4}"  # North American
    r")(?![\w-]|[.,]\d)"
)


def luhn(digits: str) -> bool:
    """Check digit of payment cards (ISO/IEC 7812-1, annex B): every second digit from the right doubled."""
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_card(found: str) -> bool:
    digits = re.sub(r"\D", "", found)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits)


def _is_address(found: str) -> bool:
    try:
        ipaddress.ip_address(found)
    except ValueError:
        return False
    return True


def _is_phone(found: str) -> bool:
    return 8 <= sum(map(str.isdigit, found)) <= 15  # at most 15: ITU-T E.164


# Kind, a cheap search that says whether the text is worth the careful one, that pattern, and its check.
_PERSONAL: tuple[tuple[str, re.Pattern[str], re.Pattern[str], Callable[[str], bool]], ...] = (
    ("email", re.compile("@"), _EMAIL, lambda found: True),
    ("card", re.compile(r"\d{4}[ -]?\d{4}[ -]?\d|\d{4}[ -]?\d{6}"), _CARD, _is_card),
    ("ip", re.compile(r"\.\d{1,3}\.\d"), _IPV4, _is_address),
    ("ip", re.compile(r":[0-9A-Fa-f]{0,4}:"), _IPV6, _is_address),
    ("phone", re.compile(r"\+\d|\d{3}[.-]\d{4}"), _PHONE, _is_phone),
)


def mask_personal(text: str) -> tuple[str, dict[str, int]]:
    """Replace e-mail addresses, card numbers (Luhn holds), IP addresses and phone numbers by ``[EMAIL]`` and the like.

    Returns the text and how many of each kind were masked. Numbers that don't pass their own check stay.
    """
    counts: dict[str, int] = {}

    for kind, hint, pattern, holds in _PERSONAL:
        if not hint.search(text):
            continue

        def replace(match: re.Match[str], kind: str = kind, holds: Callable[[str], bool] = holds) -> str:
            if not holds(match.group()):
                return match.group()
            counts[kind] = counts.get(kind, 0) + 1
            return f"[{kind.upper()}]"

        text = pattern.sub(replace, text)
    return text, counts
