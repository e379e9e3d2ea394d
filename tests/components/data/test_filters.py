from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.filters.language import check_languages, language_reasons, languages_of
from components.data.filters.quality import QualityConfig, quality_reasons
from components.data.filters.web_rules import C4Config, FineWebConfig, c4_lines, c4_reasons, fineweb_reasons
from components.data.filters.words import words_of
from components.data.normalise import normalise
from components.data.personal import luhn, mask_personal, may_hold_personal
from components.data.repair import repair

PROSE = (
    "When the old clock in the hall struck nine, the children were already asleep and the house was quiet. Their "
    "mother sat down beside the fire with a letter that had come in the morning, read it, and then spoke."
)


def quality_reason(text: str, config: QualityConfig, language: str = "en") -> str:
    return quality_reasons([text], config, [language])[0]


def language_reason(text: str, wanted: tuple[str, ...]) -> str:
    return language_reasons(languages_of([text]), wanted)[0]


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
        check_languages(("en", "english"))


GERMAN = "Als die alte Uhr im Flur neun schlug, schliefen die Kinder schon, und das Haus war still geworden. "


@pytest.mark.parametrize(
    "text", ["今日はいい天気です", "今天天气很好", "오늘은 날씨가 좋다", "Сегодня хорошая погода", "สวัสดีครับ"]
)
def test_a_short_line_of_another_script_is_not_english(text: str) -> None:
    assert language_reason(text, ("en",)).startswith("language ")


def test_a_banner_does_not_speak_for_what_follows() -> None:
    assert language_reason(PROSE + "\n" + GERMAN * 60, ("en",)) == "language de"
    assert language_reason(PROSE * 10 + GERMAN * 20, ("en", "de")) == "mixed languages"
    assert language_reason("12 34 5678", ("en",)) == ""  # nothing to tell it by


def test_many_texts_at_once_get_what_the_model_itself_says_of_each() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    texts = [PROSE, GERMAN, "C'est la vie.", "ENGLISH IN CAPITALS", "今天天气很好", "Dobrý den, jak se máte?", "a b"]
    found = languages_of(texts)
    for text, language in zip(texts, found, strict=True):
        code, score = model.classify(text)
        assert (language.code, language.score) == (code, pytest.approx(score, abs=1e-4))


def test_scripts_without_blanks_have_words_too() -> None:
    chinese = (
        "当大厅里的老钟敲响九点时孩子们已经睡着了房子里静悄悄的他们的"
        "母亲拿着早上寄来的一封信坐在火炉旁边读了一遍然后开口说话。"
    )
    thai = "เมื่อนาฬิกาเก่าในห้องโถงตีเก้าครั้งเด็กๆก็หลับไปแล้วและบ้านก็เงียบสงบแม่ของพวกเขานั่งลงข้างเตาไฟพร้อมกับจดหมายที่มาถึงในตอนเช้า"
    assert quality_reason(chinese, QualityConfig(), "zh") == "" == quality_reason(thai, QualityConfig(), "th")
    assert words_of("東京 2020 de") == ["東京", "2020", "de"]
    assert quality_reason("很好" * 60, QualityConfig(), "zh").startswith("repeated")


@given(st.lists(st.text(alphabet="1234567890 +().-/:@abcxAKIsghp_\u00e9", max_size=40), max_size=5))
@settings(max_examples=300, deadline=None)
def test_no_text_with_personal_data_is_passed_over(texts: list[str]) -> None:
    for text, shown in zip(texts, may_hold_personal(texts), strict=True):
        assert shown or mask_personal(text) == (text, {})


def _gopher_repetition(text: str, config: QualityConfig) -> str:
    """The rules as they are published, word by word and one text at a time."""
    words = text.split()
    total = sum(map(len, words))
    for size in range(2, 11):
        grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
        if size < 5:
            top, count = Counter(grams).most_common(1)[0] if grams else ((), 0)
            share = count * sum(map(len, top)) if count > 1 else 0
            most = getattr(config, f"max_top_{size}gram_chars")
        else:
            again = {i + k for i, gram in enumerate(grams) if gram in grams[:i] for k in range(size)}
            share = sum(len(words[i]) for i in again)
            most = getattr(config, f"max_duplicate_{size}gram_chars")
        if share > most * total:
            return f"repeated {size}-gram{'s' * (size > 4)}"
    return ""


_VOCABULARY = [first + second for first in "bcdfghjklmnp" for second in ("a", "eon", "irthen", "undertaking", "o,")]


@given(st.lists(st.lists(st.sampled_from(_VOCABULARY), min_size=20, max_size=70), min_size=1, max_size=8), st.data())
@settings(max_examples=150, deadline=None)
def test_repetitions_of_many_texts_at_once_are_those_of_each_alone(texts: list[list[str]], data: st.DataObject) -> None:
    config = QualityConfig(min_words=1, min_mean_word_length=1.0, min_stop_words=0, min_alphabetic_words=0.0)
    if data.draw(st.booleans()):  # else the most frequent n-gram speaks before the longer ones
        config = replace(config, max_top_2gram_chars=1.0, max_top_3gram_chars=1.0, max_top_4gram_chars=1.0)
    planted = []
    for words in texts:
        start, size = data.draw(st.integers(0, len(words) - 1)), data.draw(st.integers(2, 14))
        at = data.draw(st.integers(0, len(words)))
        planted.append(" ".join(words[:at] + words[start : start + size] * data.draw(st.integers(0, 3)) + words[at:]))
    assert quality_reasons(planted, config, ["en"] * len(planted)) == [
        _gopher_repetition(text, config) for text in planted
    ]


def test_thresholds_are_those_of_the_language() -> None:
    long_words = "Donaudampfschifffahrtsgesellschaft und Versicherungsgesellschaften der Bundesrepublik " * 4
    config = QualityConfig(by_language={"de": {"max_mean_word_length": 30.0, "max_top_2gram_chars": 1.0}})
    assert quality_reason(long_words, config, "en") == "mean word length"
    assert quality_reason(long_words, config, "de") != "mean word length"
    with pytest.raises(ValueError, match=r"by_language.de: there is no threshold 'max_word'"):
        QualityConfig(by_language={"de": {"max_word": 3}})
    assert quality_reason(GERMAN * 1, QualityConfig(min_words=10), "de") == ""
    assert quality_reason(GERMAN * 1, QualityConfig(min_words=10), "en") == "few stop words"


def test_c4_keeps_lines_that_end_a_sentence_and_pages_that_have_five() -> None:
    page = "\n".join(
        ["Home | About", PROSE, "We use cookies on this site.", "Enable javascript now, please.", "Too short."]
    )
    assert c4_lines([page], C4Config()) == [PROSE]
    sentences = " ".join(f"This is sentence number {i}." for i in range(5))
    texts = [sentences, PROSE, sentences + " {}", sentences + " Lorem ipsum."]
    assert c4_reasons(texts, C4Config(), ["en"] * 4) == ["", "few sentences", "curly bracket", "placeholder text"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, ""),
        ("\n".join(["a line that never ends with a mark of any kind at all"] * 9), "few punctuated lines"),
        ("\n".join([f"Short line {i}." for i in range(9)]), "short lines"),
        ((PROSE + "\n") * 2, "duplicate lines"),
        ("\n".join(f"Supercalifragilisticexpialidocious-{i} word." for i in range(9)), "lists"),
    ],
)
def test_each_fineweb_rule_rejects_by_its_own_name(text: str, reason: str) -> None:
    assert fineweb_reasons([text], FineWebConfig(), ["en"]) == [reason]


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("schÃ¶n und groÃŸ", "schön und groß"),
        ("He said â€œnoâ€\x9d to all", "He said “no” to all"),
        ("Fish &amp; chips", "Fish & chips"),
        ("ПриРІРµС‚", "Привет"),
        ("l’été à “Paris”", "l’été à “Paris”"),
        ("plain", "plain"),
    ],
)
def test_mojibake_is_undone_and_good_text_stays(broken: str, whole: str) -> None:
    assert repair(broken) == whole


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
        ("Version 10.0.1.5, +12 345 678 and 100-200-3000 stay", None),
        (
            "fax: 0494 92 82 32; in all countries of the world 699 956 915 people",
            "fax: [PHONE]; in all countries of the world 699 956 915 people",
        ),
        ("pay to GB82 WEST 1234 5698 7654 32 or DE89370400440532013000", "pay to [IBAN] or [IBAN]"),
        ("GB82 WEST 1234 5698 7654 33 fails the check", None),
        ("SSN 514-69-0360, not 000-12-3456", "SSN [SSN], not 000-12-3456"),
        ("AKIAIOSFODNN7EXAMPLE and sk-abcdefghijklmnopqrstuvwx0123", "[KEY] and [KEY]"),
    ],
)
def test_personal_data_is_masked_and_the_rest_stays(text: str, masked: str | None) -> None:
    result, counts = mask_personal(text)
    assert result == (masked or text)
    assert sum(counts.values()) == result.count("[")
    assert may_hold_personal([text])[0] or masked is None


@given(st.integers(10**11, 10**17))
def test_luhn_finds_any_changed_digit(number: int) -> None:
    digits = next(f"{number}{check}" for check in range(10) if luhn(f"{number}{check}"))
    for place in range(0, len(digits), 3):
        changed = digits[:place] + str((int(digits[place]) + 1) % 10) + digits[place + 1 :]
        assert not luhn(changed)
