from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.chat_template import ChatTemplate
from components.data.tokenizer import LONE_SYMBOLS, MIN_VOCAB_SIZE, SPECIAL_TOKENS, Tokenizer

TEXTS = [
    "Sam has 12 apples and gives 5 to Mia, so 12-5=7 apples are left.\n",
    "The old dog went home; the sun was warm | (and the day was long): 3*4=12 > 11 + 0 / 2\n",
] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 400)


anything = st.text() | st.text(alphabet="0123456789+-*/=();:>| \n\tabc'<endbos_é日") | st.sampled_from(SPECIAL_TOKENS)


@given(st.lists(anything, max_size=4).map("".join))
@settings(max_examples=300, deadline=None)
def test_every_text_comes_back_exactly_and_never_holds_a_special_token(text: str) -> None:
    tokenizer = TRAINED
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & tokenizer.special_ids
    assert tokenizer.bytes_of(ids) == len(text.encode())
    assert tokenizer.encode_batch([text, "x"])[0] == ids


@given(st.text(alphabet="0123456789+-*/=();:>|\n ab"))
@settings(max_examples=200, deadline=None)
def test_digits_symbols_and_newlines_are_tokens_of_their_own(text: str) -> None:
    pieces = [TRAINED.token(i) for i in TRAINED.encode(text)]
    lone = set("0123456789\n" + LONE_SYMBOLS)
    assert [p for p in pieces if set(p) & lone] == [c for c in text if c in lone]


TRAINED = Tokenizer.train(TEXTS, 400)


def test_frequent_words_become_one_token(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode(" apples")) == 1
    assert tokenizer.bytes_per_token(TEXTS) > 1.5


def test_training_twice_gives_the_same_file(tmp_path: Path) -> None:
    for name in "ab":
        Tokenizer.train(iter(TEXTS), 350).save(tmp_path / name)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_a_loaded_tokenizer_encodes_alike_and_still_ignores_specials_in_text(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    tokenizer.save(tmp_path)
    text = "<|end|>12+3<|user|> apples"
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        assert Tokenizer.load(path).encode(text) == tokenizer.encode(text)
    assert Tokenizer.load(tmp_path).end_id == tokenizer.end_id
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["bos_token"] == "<|bos|>"


def test_chat_is_laid_out_and_masked_as_documented(tokenizer: Tokenizer) -> None:
    t = tokenizer
    ids, mask = t.render_chat([{"role": "user", "content": "1+2"}, {"role": "assistant", "content": "=3"}])
    assert ids == [t.bos_id, t.user_id, *t.encode("1+2"), t.end_id, t.assistant_id, *t.encode("=3"), t.end_id]
    assert [i for i, m in zip(ids, mask, strict=True) if m] == [*t.encode("=3"), t.end_id]
    prompt, prompt_mask = t.render_chat([{"role": "user", "content": "1+2"}], add_generation_prompt=True)
    assert ids[: len(prompt)] == prompt and not any(prompt_mask)


def test_a_system_turn_begins_the_turn_of_the_user_that_follows(tokenizer: Tokenizer) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+2"},
        {"role": "assistant", "content": "=3"},
        {"role": "user", "content": "4"},
    ]
    folded = [{"role": "user", "content": "Be brief.\n\n1+2"}, *turns[2:]]
    for ask in (False, True):
        assert tokenizer.render_chat(turns, ask) == tokenizer.render_chat(folded, ask)


def test_the_saved_template_says_the_same_as_we_do(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Other programs render with what is saved beside the tokenizer."""
    tokenizer.save(tmp_path)
    template = ChatTemplate(
        json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"], {}, frozenset()
    )
    user, bot, rule = ({"role": role, "content": role[:2]} for role in ("user", "assistant", "system"))
    for turns in ([user], [rule, user, bot], [user, bot, rule, rule, user], [bot]):
        for ask in (False, True):
            ids, _ = tokenizer.render_chat(turns, ask)
            assert template.render(turns, ask) == tokenizer.decode(ids, skip_special=False)
    for turns in ([rule, bot], [user, rule], [{"role": "tool", "content": "x"}]):
        with pytest.raises(ValueError, match=r"system turn|unknown role 'tool'"):
            tokenizer.render_chat(turns)
        with pytest.raises(ValueError, match=r"system turn|unknown role tool"):
            template.render(turns)


messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": anything}), max_size=5
)


@given(messages)
@settings(max_examples=100, deadline=None)
def test_loss_covers_the_assistant_and_its_end_and_nothing_else(conversation: list[dict[str, str]]) -> None:
    ids, mask = TRAINED.render_chat(conversation)
    spoken = [i for i, m in zip(ids, mask, strict=True) if m]
    said = [m["content"] for m in conversation if m["role"] == "assistant"]
    assert TRAINED.decode(spoken, skip_special=False) == "".join(f"{text}<|end|>" for text in said)
    assert ids.count(TRAINED.end_id) == len(conversation)


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        (
            [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
            r"messages\[1\]: a system turn has to stand before a turn of the user",
        ),
        ([{"role": "tool", "content": "b"}], r"messages\[0\]: unknown role 'tool'; it takes one of system, user, assi"),
        ([{"role": "assistant", "content": "", "tool_calls": [{}]}], r"messages\[0\]: tool_calls: .* no place"),
        ([{"role": "user", "content": "a\ud800"}], r"messages\[0\]: character 1 .* lone surrogate"),
        ([{"role": "user"}], r"messages\[0\]: content is NoneType"),
    ],
)
def test_a_bad_message_is_named(tokenizer: Tokenizer, messages: list[dict[str, str]], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        tokenizer.render_chat(messages)


def test_byte_lengths_add_up_for_a_character_cut_in_half(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("日")
    assert len(ids) == 3 and tokenizer.byte_lengths[ids].tolist() == [1, 1, 1]
    assert tokenizer.decode(ids[:2]) == "�"
    assert tokenizer.bytes_of(np.array([[tokenizer.bos_id, *ids], [tokenizer.pad_id] * 4])) == 3


def test_bad_input_is_refused_with_a_reason(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=f"at least {MIN_VOCAB_SIZE}"):
        Tokenizer.train(TEXTS, 100)
    with pytest.raises(ValueError, match="no text to train"):
        Tokenizer.train([])
    with pytest.raises(TypeError, match=r"text 1 .* is NoneType"):
        Tokenizer.train(["a", None])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"character 1 .* lone surrogate"):
        tokenizer.encode("a\ud800")
    with pytest.raises(ValueError, match="id 320 is outside the vocabulary of 320"):
        tokenizer.decode([tokenizer.vocab_size])
    with pytest.raises(FileNotFoundError, match="no tokenizer there"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="not a tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_long_text_holds_up_no_other_thread(tokenizer: Tokenizer) -> None:
    """A server reads requests beside streams that have to go on."""
    beats = 0
    done = threading.Event()

    def beat() -> None:
        nonlocal beats
        while not done.wait(0.001):
            beats += 1

    thread = threading.Thread(target=beat)
    thread.start()
    tokenizer.encode("the word " * 40_000)
    done.set()
    thread.join()
    assert beats > 20
