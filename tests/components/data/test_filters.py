from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.filters.language import language_reason
from components.data.filters.quality import QualityConfig, quality_reason
from components.data.normalise import normalise
from components.data.personal import luhn, mask_personal

PROSE = (
    "When the old clock in the hall struck nine, the children were already asleep and the house was quiet. Their "
    "mother sat down beside the fire with a letter that had come in the morning, read it, and then spoke."
)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("a\x00b\x1b[0m\x07", "ab[0m"),
        ("zero\u200bwidth\ufeff soft\u00adhyphen", "zerowidth softhyphen"),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("a\u200db", "ab"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("one   two\u00a0\u00a0three \t \n    indented  ", "one two three\n    indented"),
        ("a\n\n\n\n b", "a\n\n b"),
        ("lone \ud800 half", "lone \ufffd half"),
    ],
)
def test_normalise_by_example(raw: str, clean: str) -> None:
    assert normalise(raw) == clean


@given(
    st.text(
        alphabet=st.characters() | st.sampled_from("\u200b\u200c\u200d\u0301\u0338e\n\r \t\u00a0\u2028\ud800\u00ad")
    )
)
@settings(max_examples=300, deadline=None)
def test_normalise_is_idempotent_nfc_and_encodable(text: str) -> None:
    clean = normalise(text)
    assert normalise(clean) == clean
    assert unicodedata.is_normalized("NFC", clean)
    clean.encode()
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in clean)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, ""),
        ("Too short.", "too few words"),
        ("a b c d e f " * 10, "mean word length"),
        (PROSE + " # # # # # # #", "symbols"),
        ("12 345 6789 the of 1,000 and " * 6, "few alphabetic words"),
        (PROSE + " Lorem ipsum dolor.", "placeholder text"),
        (
            "alpha beta gamma delta epsilon zeta theta iota kappa lambda sigma omega upsilon omicron " * 2,
            "few stop words",
        ),
        ("\n".join(f"- another tremendous item number {i} of the list and more" for i in range(10)), "bullet lines"),
        ("\n".join(f"and this goes on with the sentence number {i} of them..." for i in range(12)), "ellipsis lines"),
        ("the house of the rising sun\n" * 6 + PROSE, "duplicate lines"),
        ("click here " * 20 + "to get the prize and be happy with it", "repeated 2-gram"),
        (PROSE + " " + PROSE, "repeated 5-grams"),
    ],
)
def test_each_quality_rule_rejects_by_its_own_name(text: str, reason: str) -> None:
    assert quality_reason(text, QualityConfig()) == reason


def test_the_share_of_the_top_bigram_is_counted_in_characters() -> None:
    # 20 words of 5 letters: a bigram that occurs twice covers 20 of 100 characters, three times 30; 0.20 is the most.
    quiet = QualityConfig(min_stop_words=0, min_alphabetic_words=0)
    words = [f"w{i:04d}" for i in range(20)]
    words[0:2] = words[8:10] = "xxxxx", "yyyyy"
    assert quality_reason(" ".join(words), quiet) == ""
    words[14:16] = "xxxxx", "yyyyy"
    assert quality_reason(" ".join(words), quiet) == "repeated 2-gram"


def test_language_is_judged_and_named() -> None:
    german = "Als die alte Uhr im Flur neun schlug, schliefen die Kinder schon, und das Haus war still geworden."
    assert language_reason(PROSE, ("en",)) == ""
    assert language_reason(german, ("en",)) == "language de"
    assert language_reason(german, ("en", "de")) == "" == language_reason(german, ())
    with pytest.raises(ValueError, match="unknown language 'english'"):
        language_reason(PROSE, ("en", "english"))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to jane.doe+x@mail.example.org.", "write to [EMAIL]."),
        ("no.at.sign and @handle stay", None),
        ("card 4111 1111 1111 1111 or 378282246310005", "card [CARD] or [CARD]"),
        ("order 4111 1111 1111 1112 fails the check", None),
        ("at 192.168.0.1 and 2001:db8::ff00:42:8329", "at [IP] and [IP]"),
        ("section 1.2.3.4.5, 999.1.1.1, at 12:30:45", None),
        ("call (555) 123-4567, 555-123-4567 or +44 20 7946 0958", "call [PHONE], [PHONE] or [PHONE]"),
        ("$1,234,567 in 1990-1995, 12345678 votes, 3.1415926535", None),
    ],
)
def test_personal_data_is_masked_and_the_rest_stays(text: str, masked: str | None) -> None:
    result, counts = mask_personal(text)
    assert result == (masked or text)
    assert sum(counts.values()) == result.count("[")


@given(st.integers(10**11, 10**17))
def test_luhn_finds_any_changed_digit(number: int) -> None:
    digits = next(f"{number}{check}" for check in range(10) if luhn(f"{number}{check}"))
    for place in range(0, len(digits), 3):
        changed = digits[:place] + str((int(digits[place]) + 1) % 10) + digits[place + 1 :]
        assert not luhn(changed)
