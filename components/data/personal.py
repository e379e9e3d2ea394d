"""Masking of what identifies people or opens doors: e-mail addresses, payment cards, IBANs, US social security numbers,
IP addresses, phone numbers, keys of services.

What has a check of its own (cards, IBANs, North American and international phone numbers) has to pass it. A phone
number of any other country looks like any number: it is taken where a word such as "phone", "call" or "fax" stands
beside it. Every pattern is bounded, so that the time is linear in the length of the text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,8}[A-Za-z]{2,24}(?![\w-])")
_CARD = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){11,18}(?![\d-])")
_IBAN = re.compile(
    r"(?<!\w)(?:[A-Za-z]{2}\d{2}[A-Za-z0-9]{11,30}|[A-Z]{2}\d{2}(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?!\w)"
)
_SSN = re.compile(r"(?<![\w.-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-]|\.\d)")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:{1,2}){2,7}[0-9A-Fa-f]{1,4}(?![\w:])")
_PHONE = re.compile(
    r"(?<![\w.$€£/+-])(?<!\d,)(?:\+ ?|\(\+?)?\d[\d ().-]{5,22}\d(?: ?(?:x|ext\.?) ?\d{1,6})?(?!\w|[.,/-]\d|[ ]?[%$€£])"
)
_KEYS = {  # what a kind of key begins with, and all of it
    "AKIA": re.compile(r"(?<!\w)AKIA[0-9A-Z]{16}(?!\w)"),
    "ASIA": re.compile(r"(?<!\w)ASIA[0-9A-Z]{16}(?!\w)"),
    "sk-": re.compile(r"(?<![\w-])sk-[A-Za-z0-9_-]{20,200}(?![\w-])"),
    **{f"gh{kind}_": re.compile(rf"(?<!\w)gh{kind}_[A-Za-z0-9]{{36,251}}(?!\w)") for kind in "pousr"},
    "github_pat_": re.compile(r"(?<!\w)github_pat_[A-Za-z0-9_]{22,255}(?!\w)"),
    "glpat-": re.compile(r"(?<!\w)glpat-[A-Za-z0-9_-]{20,64}(?![\w-])"),
    "hf_": re.compile(r"(?<!\w)hf_[A-Za-z]{30,64}(?!\w)"),
    "xox": re.compile(r"(?<!\w)xox[abeoprs]-[A-Za-z0-9-]{10,250}(?![\w-])"),
    "AIza": re.compile(r"(?<!\w)AIza[0-9A-Za-z_-]{35}(?![\w-])"),
    "_live_": re.compile(r"(?<!\w)[rs]k_live_[0-9A-Za-z]{16,250}(?!\w)"),
    "eyJ": re.compile(r"(?<![\w-])eyJ[\w-]{8,2000}\.eyJ[\w-]{8,4000}\.[\w-]{8,2000}"),
    "PRIVATE KEY-----": re.compile(
        r"-----BEGIN [A-Z ]{0,26}PRIVATE KEY-----[A-Za-z0-9+/=\s:,]{0,8000}-----END [A-Z ]{0,26}PRIVATE KEY-----"
    ),
}
# What a text has to hold for any of the patterns to match: one search of RE2 over many texts.
_MAY_HOLD = "|".join(
    ["@", "[0-9][0-9 ().-]{5}[0-9]", r"\pL.?[0-9][0-9] ?[A-Za-z0-9]{4}|\pL[0-9][0-9] ?[A-Za-z0-9]{4}"]
    + [":[0-9A-Fa-f]{0,4}:"]
    + [re.escape(sign) for sign in _KEYS]
)
# Most texts have nothing of seven digits, no two digits behind letters, no two colons with only hexadecimal digits
# between.
_DIGITS = re.compile(r"[0-9][0-9 ().-]{5}[0-9]")
_IBAN_DIGITS = re.compile(r"[0-9][0-9] ?[A-Za-z0-9]{4}")
_COLONS = re.compile(":[0-9A-Fa-f]{0,4}:")

# Length of an IBAN by country (ISO 13616, the registry of SWIFT).
_IBAN_LENGTHS = {
    code: int(length)
    for length, codes in {
        "15": "NO", "16": "BE", "18": "DK FI FO GL NL SD", "19": "MK SI", "20": "AT BA EE KZ LT LU XK MN",
        "21": "CH CR HR LI LV", "22": "BG BH DE GB GE IE ME RS VA", "23": "AE GI IL IQ TL SO OM",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG", "25": "PT LY ST", "26": "IS TR", "27": "FR GR IT MC MR SM DJ BI",
        "28": "AL AZ BY CY DO GT HU LB PL SV NI", "29": "BR EG PS QA UA", "30": "JO KW MU", "31": "MT SC", "32": "LC",
        "33": "RU",
    }.items()
    for code in codes.split()
}  # fmt: skip

_BEFORE, _BEHIND = 40, 12  # characters beside a number in which a word may say that it is one of a phone
_SAYS_PHONE = re.compile(
    r"\b(?:tele)?(?:phones?|fax|mobile|cell(?:phone)?|tel|call(?:s|ed|ing)?|dial|texts?|sms|whatsapp|hotline|pager|"
    r"desk|office|messages?|reach|contact|answering|ring|voicemail)\b",
    re.IGNORECASE,
)
_SAYS_VERSION = re.compile(
    r"(?:\b(?:versions?|v|ver|release|build|firmware|section|chapter|clause)[\s.:#]{0,3}|§ ?)$", re.IGNORECASE
)
_YEARS = re.compile(r"(?:1[5-9]|20)\d\d ?[- ] ?(?:1[5-9]|20)\d\d")
_DATE = re.compile(
    r"(?:1[5-9]|20)\d\d[-. ](?:0?[1-9]|1[0-2])[-. ](?:[0-2]?\d|3[01])(?!\d)|"
    r"[0-3]?\d[-. ][0-3]?\d[-. ](?:1[5-9]|20)\d\d(?!\d)"
)
_GROUPS = re.compile(r"(?:\+ ?|\(\+?)?\d+\)?(?:[ .-]?\(?\d+\)?){0,6}(?: ?(?:x|ext\.?) ?\d+)?")


def luhn(digits: str) -> bool:
    """Check digit of payment cards (ISO/IEC 7812-1, annex B): every second digit from the right doubled."""
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_card(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[0])
    return _issued(digits) and len(set(digits)) > 1 and luhn(digits)


def _issued(digits: str) -> bool:
    """Whether an issuer has numbers that begin so and are so long."""
    two, three, four, size = int(digits[:2]), int(digits[:3]), int(digits[:4]), len(digits)
    if digits[0] == "4":
        return size in (13, 16, 19)  # Visa
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return size == 16  # Mastercard
    if two in (34, 37) or four in (1800, 2131):
        return size == 15  # American Express, older JCB
    if 300 <= three <= 305 or two in (36, 38, 39):
        return 14 <= size <= 19  # Diners Club
    if two == 35:
        return 16 <= size <= 19  # JCB
    if two in (50, 56, 57, 58) or digits[0] == "6":
        return 12 <= size <= 19  # Maestro, Discover, UnionPay
    return 2200 <= four <= 2204 and 16 <= size <= 19  # Mir


def _is_iban(match: re.Match[str]) -> bool:
    """Length by country, and the check of ISO 7064 (MOD 97-10)."""
    plain = match[0].replace(" ", "").upper()
    if len(plain) != _IBAN_LENGTHS.get(plain[:2]):
        return False
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def _is_address(match: re.Match[str]) -> bool:
    try:
        ipaddress.ip_address(match[0])
    except ValueError:
        return False
    return not _SAYS_VERSION.search(match.string, max(match.start() - 16, 0), match.start())


def _is_phone(match: re.Match[str]) -> bool:
    found = match[0]
    digits = sum(map(str.isdigit, re.split("x|ext", found)[0]))
    if not 7 <= digits <= 15 or not _GROUPS.fullmatch(found):  # at most 15: ITU-T E.164
        return False
    if _DATE.match(found) or _YEARS.fullmatch(found):
        return False
    if _valid(found):
        return True
    text, start, end = match.string, match.start(), match.end()
    return bool(
        found[0] != "+"
        and (_SAYS_PHONE.search(text, max(start - _BEFORE, 0), start) or _SAYS_PHONE.search(text, end, end + _BEHIND))
    )


def _valid(found: str) -> bool:
    """Whether a numbering plan has the number: of any country behind a plus, else the North American where it is
    written as people there write it."""
    import phonenumbers

    international = found.lstrip("(").startswith("+")
    if not international and not re.match(r"(?:00)?1?[ .-]?\(?\d{3}[). -]{1,2}\d{3}[ .-]\d{4}", found):
        return False
    try:
        number = phonenumbers.parse(found, None if international else "US")
    except phonenumbers.NumberParseException:
        return False
    # A plan's ranges change faster than texts do: of international numbers the length has to be right.
    if international:
        return phonenumbers.is_possible_number_with_reason(number) == phonenumbers.ValidationResult.IS_POSSIBLE
    return phonenumbers.is_valid_number(number)


_NUMBERS: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    ("card", _CARD, _is_card),
    ("ssn", _SSN, lambda found: True),
    ("ip", _IPV4, _is_address),
    ("phone", _PHONE, _is_phone),
)


def may_hold_personal(texts: Sequence[str]) -> list[bool]:
    """Which texts `mask_personal` may change; the others need not be shown to it."""
    return pc.match_substring_regex(pa.array(texts, pa.string()), _MAY_HOLD).to_pylist()


def mask_personal(text: str) -> tuple[str, dict[str, int]]:
    """Replace what is found by ``[EMAIL]``, ``[CARD]``, ``[IBAN]``, ``[SSN]``, ``[IP]``, ``[PHONE]`` and ``[KEY]``.

    Returns the text and how many of each kind were masked. Numbers that don't pass their own check stay.
    """
    counts: dict[str, int] = {}

    def masked(text: str, kind: str, pattern: re.Pattern[str], holds: Callable[[re.Match[str]], bool]) -> str:
        def replace(match: re.Match[str]) -> str:
            if not holds(match):
                return match[0]
            counts[kind] = counts.get(kind, 0) + 1
            return f"[{kind.upper()}]"

        return pattern.sub(replace, text)

    for sign, pattern in _KEYS.items():
        if sign in text:
            text = masked(text, "key", pattern, lambda found: True)
    if "@" in text:
        text = masked(text, "email", _EMAIL, lambda found: True)
    if any(text[max(found.start() - 2, 0) : found.start()].isalpha() for found in _IBAN_DIGITS.finditer(text)):
        text = masked(text, "iban", _IBAN, _is_iban)
    if _DIGITS.search(text):
        for kind, pattern, holds in _NUMBERS:
            text = masked(text, kind, pattern, holds)
    if _COLONS.search(text):
        text = masked(text, "ip", _IPV6, _is_address)
    return text, counts
