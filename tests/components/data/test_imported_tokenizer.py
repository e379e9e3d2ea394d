"""Tokenizers of other models behind our interface: their template, their special tokens, our promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from components.data.tokenizer import Tokenizer
from components.data.vocabulary import Conventions

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURNS = [
    {"role": "user", "content": "one two"},
    {"role": "assistant", "content": "three"},
    {"role": "user", "content": "and?"},
    {"role": "assistant", "content": "four\nfive"},
]


def byte_level() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(["one two three four five system user assistant Be kind \n"] * 20, trainer)
    backend.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    return backend


def chatml(template: str = CHATML, **tokens: str) -> Tokenizer:
    return Tokenizer(byte_level(), Conventions({"eos_token": "<|endoftext|>", **tokens}, template))


def learned(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> list[str]:
    """What a model would be taught to say, run by run."""
    ids, mask = tokenizer.render_chat(messages)
    assert len(ids) == len(mask)
    runs: list[str] = []
    for number, (token, taught) in enumerate(zip(ids, mask, strict=True)):
        if taught:
            if number == 0 or not mask[number - 1]:
                runs.append("")
            runs[-1] += tokenizer.token(token)
    return runs


def test_the_mask_is_on_what_the_assistant_says_and_on_the_end_of_its_turn() -> None:
    tokenizer = chatml()
    assert tokenizer.token(tokenizer.end_id) == "<|im_end|>"  # not the end of a text, which the template never writes
    assert learned(tokenizer, TURNS) == ["three<|im_end|>", "four\nfive<|im_end|>"]
    ids, _ = tokenizer.render_chat(TURNS)
    text = tokenizer.decode(ids, skip_special=False)
    assert text == "<|im_start|>system\nBe kind<|im_end|>\n" + "".join(
        f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in TURNS
    )


def test_a_prompt_asks_for_the_next_answer_and_is_how_training_began() -> None:
    tokenizer = chatml()
    prompt, mask = tokenizer.render_chat(TURNS[:3], add_generation_prompt=True)
    whole, _ = tokenizer.render_chat(TURNS)
    assert whole[: len(prompt)] == prompt
    assert not any(mask)


def test_a_conversation_goes_on_though_its_template_drops_what_was_thought() -> None:
    """As those of reasoning models do: an answer begins with a mark that is gone from the turns before."""
    tokenizer = chatml(CHATML + "{% if add_generation_prompt %}<think>{% endif %}")
    ids, _ = tokenizer.render_chat(TURNS[:4], add_generation_prompt=True)
    assert tokenizer.decode(ids, skip_special=False).endswith("<|im_start|>assistant\n<think>")
    assert learned(tokenizer, TURNS) == ["three<|im_end|>", "four\nfive<|im_end|>"]


SPELLINGS = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "a", " ", "\n", "é", "|>", "\ue000"]


@settings(max_examples=60, deadline=None)
@given(said=st.lists(st.sampled_from(SPELLINGS), max_size=8).map("".join))
def test_a_message_can_never_close_a_turn(said: str) -> None:
    tokenizer = TOKENIZER
    turns = [{"role": "user", "content": said}, {"role": "assistant", "content": f"x{said}"}]
    ids, mask = tokenizer.render_chat(turns)
    said = said.replace("\ue000", "")  # with which spelled tokens are marked on their way through the template
    marks = [i for i in ids if i in tokenizer.special_ids]
    assert len(marks) == 6  # three turns begin and end, the system's among them
    assert tokenizer.decode(ids).endswith(f"user\n{said}\nassistant\nx{said}\n")
    taught = [token for token, on in zip(ids, mask, strict=True) if on]
    assert tokenizer.decode(taught) == f"x{said}"
    assert taught[-1] == tokenizer.end_id
    assert not tokenizer.special_ids & set(tokenizer.encode(said))


TOKENIZER = chatml()


def test_ids_of_a_model_without_a_beginning_or_padding() -> None:
    tokenizer = chatml()
    assert tokenizer.bos_id == tokenizer.pad_id == tokenizer.eos_id == 0
    assert tokenizer.special_ids == {0, 1, 2}
    named = chatml(bos_token="<|im_start|>", pad_token="<|im_end|>")
    assert (named.bos_id, named.pad_id, named.eos_id) == (1, 2, 0)


def test_a_base_model_gets_a_plain_template_that_ends_with_its_own_token() -> None:
    tokenizer = chatml(template="")
    assert tokenizer.end_id == tokenizer.eos_id
    assert learned(tokenizer, TURNS) == [" three<|endoftext|>", " four\nfive<|endoftext|>"]
    prompt, _ = tokenizer.render_chat(TURNS[:1], add_generation_prompt=True)
    assert tokenizer.decode(prompt) == "User: one two\nAssistant:"


def test_templates_with_generation_blocks_and_loop_controls() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content | trim }}={% continue %}{% endif %}"
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}"
    )
    assert learned(chatml(template), TURNS) == ["three<|im_end|>", "four\nfive<|im_end|>"]


TOOLS = (
    "{% for t in tools or [] %}tool {{ t.function.name }}\n{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}call {{ c.function.name }} {{ c.function.arguments | tojson }}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "weather", "arguments": {"city": "<|im_end|>"}}}]},
    {"role": "tool", "content": "wet", "tool_call_id": "a"},
    {"role": "assistant", "content": "Yes."},
]  # fmt: skip
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def test_calls_and_answers_of_tools_are_rendered_and_what_the_assistant_calls_is_learned() -> None:
    tokenizer = chatml(TOOLS)
    ids, mask = tokenizer.render_chat(CALLED, tools=[WEATHER])
    text = tokenizer.decode(ids, skip_special=False)
    assert text.startswith("tool weather\n<|im_start|>user\nRain?") and "<|im_start|>tool\nwet<|im_end|>" in text
    spoken = [i for i, m in zip(ids, mask, strict=True) if m]
    said = 'call weather {"city": "<|im_end|>"}<|im_end|>Yes.<|im_end|>'
    assert tokenizer.decode(spoken, skip_special=False) == said
    assert spoken.count(tokenizer.end_id) == 2  # the one that an argument spells is text


@pytest.mark.parametrize(
    ("template", "turns", "tools", "named"),
    [
        (CHATML, CALLED, None, r"messages\[1\]: tool_calls: the chat template leaves them out"),
        (CHATML, TURNS, [WEATHER], "tools: the chat template leaves them out"),
        (
            CHATML.replace("messages %}", "messages if message.role != 'tool' %}"),
            CALLED[2:],
            None,
            r"messages\[0\]: the chat template leaves out the turn of role 'tool'",
        ),
        (
            CHATML.replace("messages %}", "messages if message.role != 'system' %}"),
            [{"role": "system", "content": "Be brief."}, *TURNS],
            None,
            r"messages\[0\]: the chat template leaves out the turn of role 'system'",
        ),
    ],
)
def test_what_a_template_would_leave_out_is_refused(template: str, turns: Any, tools: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        chatml(template).render_chat(turns, tools=tools)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    tokenizer = chatml(pad_token="<|im_end|>")
    tokenizer.save(tmp_path)
    back = Tokenizer.load(tmp_path)
    assert back.conventions is not None
    assert back.render_chat(TURNS) == tokenizer.render_chat(TURNS)
    for name in ("vocab_size", "bos_id", "eos_id", "pad_id", "end_id", "special_ids"):
        assert getattr(back, name) == getattr(tokenizer, name)
    text = "Grüße, 日本!  <|im_end|>\n"
    assert back.decode(back.encode(text)) == text
    assert back.bytes_of(back.encode(text)) == len(text.encode())


def test_every_token_that_ends_a_generation_is_known_and_kept(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        tokenizer_config_json={"eos_token": "<|im_end|>", "chat_template": CHATML},
        generation_config_json={"eos_token_id": [2, 0]},
    )
    tokenizer = Tokenizer.load(folder)
    assert {tokenizer.token(i) for i in tokenizer.stop_ids} == {"<|im_end|>", "<|endoftext|>"}
    tokenizer.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").stop_ids == tokenizer.stop_ids


def test_a_trained_one_is_still_ours_after_saving(tmp_path: Path) -> None:
    ours = Tokenizer.train(["one two three\n" * 9], 300)
    ours.save(tmp_path)
    assert Tokenizer.load(tmp_path).conventions is None


def write(folder: Path, **files: Any) -> Path:
    byte_level().save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        stem, _, kind = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{stem}.{kind}").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config_json": {"eos_token": "<|im_end|>", "chat_template": CHATML}},
        {"tokenizer_config_json": {"eos_token": {"content": "<|im_end|>"}}, "chat_template_jinja": CHATML},
        {"special_tokens_map_json": {"eos_token": "<|im_end|>"}, "chat_template_json": {"chat_template": CHATML}},
        {
            "generation_config_json": {"eos_token_id": [2, 0]},
            "tokenizer_config_json": {"chat_template": [{"name": "default", "template": CHATML}]},
        },
    ],
)
def test_the_places_where_published_folders_keep_tokens_and_template(files: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, **files))
    assert tokenizer.token(tokenizer.eos_id) == tokenizer.token(tokenizer.end_id) == "<|im_end|>"
    assert learned(tokenizer, TURNS)[0] == "three<|im_end|>"


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, "no file there names an eos_token"),
        ({"tokenizer_config_json": {"eos_token": "</s>"}}, "eos_token is '</s>', which is not in its vocabulary"),
        ({"tokenizer_config_json": "{"}, "tokenizer_config.json: not JSON"),
        ({"generation_config_json": {"eos_token_id": [2, "0"]}}, r"eos_token_id is \[2, '0'\]: takes a token id"),
        ({"tokenizer_config_json": "[]"}, "takes a JSON object, found a list"),
    ],
)
def test_a_folder_that_leaves_something_open_says_what(files: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=named):
        Tokenizer.load(write(tmp_path, **files))


@pytest.mark.parametrize(
    ("template", "turns", "named"),
    [
        ("{% for", TURNS, "not valid Jinja"),
        ("{{ raise_exception('no system here') }}", TURNS, "refuses the conversation: no system here"),
        ("{{ messages[0].content + 1 }}", TURNS, "fails on the conversation"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", TURNS, "refuses the conversation"),
        (CHATML, [{"role": "user", "content": 5}], r"messages\[0\]: content is int"),
        (CHATML, [{"role": None, "content": ""}], r"messages\[0\]: role is NoneType"),
        (CHATML, [{"role": "user", "content": "a\ud800"}], r"messages\[0\]: character 1 .* lone surrogate"),
        (
            "{% for m in messages %}{{ m.content | length }}:{{ m.content }}<|im_end|>{% endfor %}"
            "{% if add_generation_prompt %}<think>{% endif %}",
            TURNS,
            r"messages\[1\]: the chat template renders the turns before it.*split the conversation",
        ),
    ],
)
def test_a_template_or_conversation_that_fails_says_why(template: str, turns: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        chatml(template).render_chat(turns)


def test_a_kind_whose_tokens_are_no_bytes_is_refused() -> None:
    backend = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    tokenizer = Tokenizer(backend, Conventions({"eos_token": "[UNK]"}))
    with pytest.raises(ValueError, match="kind 'WordPiece'"):
        _ = tokenizer.byte_lengths


@pytest.mark.slow
def test_transformers_renders_and_cuts_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `peers` brings transformers")
    for template in (CHATML, ""):
        tokenizer = chatml(template, bos_token="<|im_start|>")
        tokenizer.save(tmp_path)
        reference = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
        for turns, ask in ((TURNS, False), (TURNS[:3], True)):
            expected = reference.apply_chat_template(turns, add_generation_prompt=ask, return_dict=False)
            assert tokenizer.render_chat(turns, ask)[0] == expected
        for text in ("one two", "  Grüße\n\n日本", "", "12,5 €"):
            ids = reference(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.encode(text) == ids
            assert tokenizer.decode(ids) == reference.decode(ids)


def test_a_byte_level_token_that_is_no_bytes_is_named() -> None:
    backend = byte_level()
    content = json.loads(backend.to_str())
    content["model"]["vocab"]["字"] = 999
    tokenizer = Tokenizer(
        tokenizers.Tokenizer.from_str(json.dumps(content)), Conventions({"eos_token": "<|endoftext|>"})
    )
    with pytest.raises(ValueError, match="token 999 is '字'"):
        _ = tokenizer.byte_lengths


# What generation prompts of reasoning models open is not there once the answer is given.
OPENS_THOUGHTS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|im_start|>user\n' + m['content'] + '<|im_end|>' }}"
    "{% else %}{{ '<|im_start|>assistant\n' + m['content'].split('</think>')[-1] + '<|im_end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def test_answers_are_told_apart_though_the_prompt_opens_thoughts() -> None:
    turns = [*TURNS[:3], {"role": "assistant", "content": "hm</think><four"}]
    assert learned(chatml(OPENS_THOUGHTS), turns) == ["three<|im_end|>", "<four<|im_end|>"]
    ids, _ = chatml(OPENS_THOUGHTS).render_chat(turns[:1], add_generation_prompt=True)
    assert chatml(OPENS_THOUGHTS).decode(ids, skip_special=False).endswith("assistant\n<think>\n")


def test_answers_are_told_apart_though_the_turns_before_depend_on_how_many_follow() -> None:
    counts = chatml("{{ messages | length }}" + CHATML)
    assert learned(counts, TURNS) == ["three<|im_end|>", "four\nfive<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{{ {'b': 'é', 'a': 1} | tojson }}", '{"b": "é", "a": 1}'),
        ("{{ {'b': 'é', 'a': 1} | tojson(True) }}", '{"b": "\\u00e9", "a": 1}'),
        ("{{ {'b': 2, 'a': 1} | tojson(separators=(',', ':'), sort_keys=True) }}", '{"a":1,"b":2}'),
        ("{{ [1] | tojson(ensure_ascii=False, indent=1) }}", "[\n 1\n]"),
    ],
)
def test_what_templates_call_gives_what_transformers_gives(template: str, rendered: str) -> None:
    found = chatml(template)
    ids, _ = found.render_chat(TURNS[:1], add_generation_prompt=True)
    assert found.decode(ids) == rendered


@pytest.mark.slow
@pytest.mark.parametrize("form", ["", "ensure_ascii=False", "indent=2, sort_keys=True", "separators=(',', ':')"])
def test_tojson_is_that_of_transformers(form: str) -> None:
    utils = pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="the extra `peers` brings transformers"
    )
    template = f"{{{{ messages[0] | tojson({form}) }}}}"
    [expected], _ = utils.render_jinja_template([TURNS[:1]], chat_template=template)
    found = chatml(template)
    assert found.decode(found.render_chat(TURNS[:1], add_generation_prompt=True)[0]) == expected
