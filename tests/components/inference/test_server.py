"""The server as a client sees it, in process, on a tiny untrained model."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import tokenizers
import torch
from starlette.testclient import TestClient
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from components.data.tokenizer import Tokenizer
from components.data.vocabulary import Conventions
from components.inference.api_error import ApiError
from components.inference.engine import Engine, Request
from components.inference.messages import read_messages
from components.inference.sampling import SamplingParams
from components.inference.server import ServerLimits, make_app
from components.inference.service import Service
from components.model.config import ModelConfig
from components.model.transformer import Transformer

Post = Callable[..., Any]
TEXT = "The king said: 37+8=45; what is 45-6=39? Tschüss, naïve café – 字 and so on and so on."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT] * 3, 310)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    cfg = ModelConfig(tokenizer.vocab_size, d_model=16, num_layers=2, num_heads=2, context_length=64)
    model = Transformer(cfg, 1).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def serve(model: Transformer, tokenizer: Tokenizer) -> Iterator[Callable[..., TestClient]]:
    with ExitStack() as stack:

        def start(
            slots: int = 4, queue: int = 16, network: Any = None, words: Tokenizer = tokenizer, **options: Any
        ) -> TestClient:
            service = Service(lambda: Engine(network or model, slots, None, words.text_bytes), queue)
            app = make_app("tiny", words, service, **options)
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            client.service = service  # type: ignore[attr-defined]
            return client

        yield start


def complete(client: TestClient, path: str = "completions", **body: Any) -> Any:
    sent = json.dumps({"model": "tiny", **body})  # in ASCII, as a lone surrogate can be sent only so
    return client.post(f"/v1/{path}", content=sent, headers={"content-type": "application/json"})


def events(answer: Any) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_echo_scores_every_token_of_the_prompt_and_the_one_behind_it(
    serve: Callable[..., TestClient], model: Transformer, tokenizer: Tokenizer
) -> None:
    ids = [tokenizer.encode("The king said"), tokenizer.encode("37+8"), [tokenizer.bos_id, *tokenizer.encode("字")]]
    asked = {"prompt": ids, "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0}
    answer = complete(serve(), **asked).json()
    for prompt, choice in zip(ids, answer["choices"], strict=True):
        with torch.no_grad():
            log_probs = model(torch.tensor([prompt]))[0].log_softmax(-1)
        told = choice["logprobs"]
        assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
        expected = [float(log_probs[i, token]) for i, token in enumerate(prompt[1:])]
        expected.append(float(log_probs[-1].max()))
        assert told["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
        for row, value, top in zip(log_probs, told["token_logprobs"][1:], told["top_logprobs"][1:], strict=True):
            assert value in top.values()
            assert max(top.values()) == pytest.approx(float(row.max()), abs=1e-4)
        assert choice["finish_reason"] == "length"
    prompts = sum(map(len, ids))
    assert answer["usage"] == {"prompt_tokens": prompts, "completion_tokens": 3, "total_tokens": prompts + 3}


def test_offsets_say_where_a_token_begins_though_it_be_a_part_of_a_character(
    serve: Callable[..., TestClient], tokenizer: Tokenizer
) -> None:
    client, text = serve(), "a字 said café"
    answer = complete(client, prompt=text, max_tokens=12, echo=True, logprobs=0, temperature=1.3, seed=3)
    [choice] = answer.json()["choices"]
    ids = tokenizer.encode(text)
    offsets = choice["logprobs"]["text_offset"]
    assert offsets[: len(ids)] == [len(tokenizer.decode(ids[:n]).rstrip("\ufffd")) for n in range(len(ids))]
    assert offsets[len(ids)] == len(text) and offsets == sorted(offsets)
    body = {"prompt": [tokenizer.bos_id, *ids], "max_tokens": 12, "logprobs": 0, "temperature": 1.3, "seed": 3}
    whole = complete(client, **body, echo=True).json()["choices"][0]
    shift = len("<|bos|>")
    assert whole["logprobs"]["text_offset"][: len(ids) + 1] == [0, *(shift + at for at in offsets[: len(ids)])]
    for extra in ({}, {"stop": ["never said", choice["text"][-1]]}, {"echo": True}):
        told = complete(client, **body, **extra).json()["choices"][0]["logprobs"]["text_offset"]
        pieces = events(complete(client, **body, **extra, stream=True))
        assert [at for p in pieces for at in p["choices"][0]["logprobs"]["text_offset"]] == told


def test_echo_without_new_tokens_repeats_and_scores_alone(serve: Callable[..., TestClient]) -> None:
    answer = complete(serve(), prompt="The king", max_tokens=0, echo=True, logprobs=2).json()
    [choice] = answer["choices"]
    assert choice["text"] == "The king"
    assert "".join(choice["logprobs"]["tokens"]) == "The king"
    assert answer["usage"]["completion_tokens"] == 0


def test_seeds_give_the_same_text_alone_and_in_a_crowd(serve: Callable[..., TestClient]) -> None:
    body = {"max_tokens": 12, "temperature": 1.5}
    alone = [complete(serve(slots=1), prompt=p, seed=7, n=3, **body).json()["choices"] for p in ("The", "37")]
    client = serve(slots=5)
    answers: dict[str, Any] = {}

    def ask(prompt: str, seed: int) -> None:
        answers[f"{prompt}{seed}"] = complete(client, prompt=prompt, seed=seed, n=3, **body).json()

    threads = [threading.Thread(target=ask, args=(p, s)) for p in ("The", "37") for s in (7, 8, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for choices, prompt in zip(alone, ("The", "37"), strict=True):
        assert [c["text"] for c in choices] == [c["text"] for c in answers[f"{prompt}7"]["choices"]]
        assert len({c["text"] for c in choices}) == 3
    both = complete(client, prompt=["The", "The"], seed=7, **body).json()["choices"]
    assert both[0]["text"] != both[1]["text"]


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_a_stream_says_what_the_whole_answer_says(serve: Callable[..., TestClient], path: str) -> None:
    client = serve()
    chat = path.startswith("chat")
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "37+8"}]} if chat else {"prompt": "37+8"}
    asked |= {"max_tokens": 30, "temperature": 1.2, "n": 2, "seed": 5, "logprobs": True if chat else 1}
    free = complete(client, path, **asked).json()
    said = [c["message"]["content"] if chat else c["text"] for c in free["choices"]]
    stop = next(text[k : k + 2] for text in said for k in range(4, len(text) - 2) if "\ufffd" not in text[k : k + 2])
    for extra in ({}, {"stop": [stop, "never said"]}):
        whole = complete(client, path, **asked, **extra).json()
        pieces = events(complete(client, path, **asked, **extra, stream=True, stream_options={"include_usage": True}))
        assert pieces[-1]["choices"] == [] and pieces[-1]["usage"] == whole["usage"]
        for index, choice in enumerate(whole["choices"]):
            mine = [p["choices"][0] for p in pieces[:-1] if p["choices"][0]["index"] == index]
            text = "".join(p["delta"].get("content", "") if chat else p["text"] for p in mine)
            assert text == (choice["message"]["content"] if chat else choice["text"])
            assert text == said[index].partition(extra.get("stop", ["\0"])[0])[0]
            assert [p["finish_reason"] for p in mine if p["finish_reason"]] == [choice["finish_reason"]]
            key = "content" if chat else "token_logprobs"
            log_probs = [x for p in mine if p.get("logprobs") for x in p["logprobs"][key]]
            assert log_probs == choice["logprobs"][key]
    assert mine[0]["delta"]["role"] == "assistant" if chat else True


def test_a_chat_is_the_template_and_never_speaks_for_the_user(
    serve: Callable[..., TestClient], model: Transformer, tokenizer: Tokenizer
) -> None:
    turns = [{"role": "user", "content": "37"}, {"role": "assistant", "content": "8"}]
    turns.append({"role": "user", "content": [{"type": "text", "text": "+"}, {"type": "text", "text": "8"}]})  # type: ignore[dict-item]
    body = {"messages": turns, "temperature": 0, "max_completion_tokens": 1, "logprobs": True, "top_logprobs": 3}
    answer = complete(serve(), "chat/completions", **body).json()
    ids, _ = tokenizer.render_chat([*turns[:2], {"role": "user", "content": "+8"}], add_generation_prompt=True)
    assert answer["usage"]["prompt_tokens"] == len(ids)
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0, -1]
    allowed = logits.clone()
    allowed[[tokenizer.user_id, tokenizer.assistant_id, tokenizer.bos_id, tokenizer.pad_id]] = -torch.inf
    [told] = answer["choices"][0]["logprobs"]["content"]
    best = int(allowed.argmax())
    assert told["token"] == tokenizer.token(best)
    assert told["logprob"] == pytest.approx(float(logits.log_softmax(-1)[best]), abs=1e-4)
    assert len(told["top_logprobs"]) == 3


def test_numbers_that_float32_or_32_bits_do_not_hold_mean_what_they_say(serve: Callable[..., TestClient]) -> None:
    def said(**body: Any) -> str:
        return str(complete(client, prompt="37", max_tokens=12, seed=3, **body).json()["choices"][0]["text"])

    client = serve()
    assert said(temperature=1e-40) == said(temperature=0)
    assert said(temperature=5, top_k=2**32 + 1) == said(temperature=5) != said(temperature=5, top_k=1)


WRONG = [
    ({"prompt": "a", "model": "other"}, 404, "model"),
    ({"prompt": "a", "max_tokns": 3}, 400, "max_tokns"),
    ({"prompt": "a", "max_tokens": "3"}, 400, "max_tokens"),
    ({"prompt": "a", "max_tokens": True}, 400, "max_tokens"),
    ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
    ({"prompt": "a", "max_tokens": 100}, 400, "max_tokens"),
    ({"prompt": "37" * 60}, 400, "prompt"),
    ({"prompt": "a", "temperature": -1}, 400, "temperature"),
    ({"prompt": "a", "top_p": 0}, 400, "top_p"),
    ({"prompt": "a", "n": 17}, 400, "n"),
    ({"prompt": "a", "n": 2, "best_of": 3}, 400, "best_of"),
    ({"prompt": "a", "logprobs": 21}, 400, "logprobs"),
    ({"prompt": "a", "stop": [""]}, 400, "stop"),
    ({"prompt": "a", "stop": 3}, 400, "stop"),
    ({"prompt": "a", "stop": ["b", "\ud800"]}, 400, "stop"),
    ({"prompt": "a", "logprobs": True}, 400, "logprobs"),
    ({"prompt": "a", "logit_bias": {"5": 1}}, 400, "logit_bias"),
    ({"prompt": "a", "repetition_penalty": True}, 400, "repetition_penalty"),
    ({"prompt": "a", "ignore_eos": True}, 400, "ignore_eos"),
    ({"prompt": "a", "frequency_penalty": 1}, 400, "frequency_penalty"),
    ({"prompt": []}, 400, "prompt"),
    ({"prompt": [1, -1]}, 400, "prompt"),
    ({"prompt": [1, 5000]}, 400, "prompt"),
    ({"prompt": [[1], []]}, 400, "prompt"),
    ({"prompt": None}, 400, "prompt"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "system", "content": "x"}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": None}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "x", "audio": {"id": "a"}}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "x"}], "tools": [{}], "tool_choice": "auto"}, 400, "tools"),
    ({"messages": [{"role": "user", "content": "x"}], "tools": [{}], "tool_choice": "required"}, 400, "tool_choice"),
    ({"messages": [{"role": "user", "content": "x"}], "functions": [{}]}, 400, "functions"),
    (
        {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_object"}},
        400,
        "response_format",
    ),
    ({"messages": [{"role": "user", "content": "x"}], "reasoning_effort": "high"}, 400, "reasoning_effort"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, 400, "messages"),
    ({"messages": [{"content": "x"}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 1}, 400, "top_logprobs"),
    ({"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, 400, "tools"),
]


def test_what_is_wrong_is_named(serve: Callable[..., TestClient]) -> None:
    client = serve(limits=ServerLimits(max_sequences=16))
    for body, status, param in WRONG:
        answer = complete(client, "chat/completions" if "messages" in body else "completions", **body)
        assert answer.status_code == status, (body, answer.text)
        error = answer.json()["error"]
        assert error["param"] == param and param in error["message"], (body, error)
    for sent, status in (({"content": b"{"}, 400), ({"content": b"[]"}, 400)):
        answer = client.post("/v1/completions", headers={"content-type": "application/json"}, **sent)
        assert answer.status_code == status and answer.json()["error"]["type"] == "invalid_request_error"
    for half in ({"\ud800": 1}, {"stream": True, "stream_options": {"\ud800": True}}):
        answer = complete(client, prompt="a", **half)
        assert answer.status_code == 400 and "\\ud800" in answer.json()["error"]["message"]
    assert client.post("/v1/completions", content=b"{}").status_code == 415
    assert client.get("/v1/nothing").json()["error"]["message"] == "unknown path /v1/nothing"
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert client.get("/v1/models/tiny").json()["max_model_len"] == 64


NEUTRAL: dict[str, Any] = {
    "user": "u", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "safety_identifier": "s", "n": None,
    "logit_bias": {"7": 0}, "presence_penalty": 0.0, "frequency_penalty": None, "repetition_penalty": 1.0,
    "stream": False, "stream_options": {"include_usage": True}, "stop": None, "top_p": 1, "top_k": -1, "min_p": 0,
    "prompt_cache_key": "k", "skip_special_tokens": True, "ignore_eos": False, "min_tokens": 0, "logprobs": False,
}  # fmt: skip
NEUTRAL_IN_CHAT: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "tool_choice": "none",
    "parallel_tool_calls": True, "response_format": {"type": "text"}, "modalities": ["text"], "top_logprobs": None,
    "reasoning_effort": None, "verbosity": "medium", "chat_template_kwargs": {}, "prediction": {"type": "content"},
    "functions": [], "function_call": "none",
}  # fmt: skip


def test_what_changes_nothing_is_accepted_and_changes_nothing(serve: Callable[..., TestClient]) -> None:
    client, asked = serve(), {"max_tokens": 8, "seed": 3}
    for path, body, more in (
        ("completions", {"prompt": "37+8", "best_of": 1, "echo": False, "suffix": None}, NEUTRAL),
        ("chat/completions", {"messages": [{"role": "user", "content": "37+8"}]}, NEUTRAL | NEUTRAL_IN_CHAT),
    ):
        plain, full = (complete(client, path, **asked, **body, **extra) for extra in ({}, more))
        assert full.status_code == 200, full.text
        assert full.json()["choices"] == plain.json()["choices"]
        for name, value in more.items():
            one = complete(client, path, **asked, **body, **{name: value})
            assert one.status_code == (400 if name == "tools" else 200), (name, one.text)


def test_a_system_turn_is_part_of_the_prompt(serve: Callable[..., TestClient], tokenizer: Tokenizer) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "37+8", "name": "ann"}]
    client = serve()
    answer = complete(client, "chat/completions", messages=turns, max_tokens=1)
    ids, _ = tokenizer.render_chat(turns, add_generation_prompt=True)
    assert answer.json()["usage"]["prompt_tokens"] == len(ids)
    assert "Be brief." in tokenizer.decode(ids)
    turns[0]["role"] = "developer"  # the name of the same in newer clients
    assert complete(client, "chat/completions", messages=turns, max_tokens=1).json()["usage"]["prompt_tokens"] == len(
        ids
    )


TOOLS_SHOWN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ':' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + FORM + '</call>' }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
)
TOOL_TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"city":"Oslo <|im_end|>"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": "rain"},
]


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("c.function.arguments", '{"city":"Oslo <|im_end|>"}'),  # joined with text, as it came
        ("(c.function.arguments | tojson)", '{"city": "Oslo <|im_end|>"}'),
        ("(c.function.arguments | items | map('join', '=') | join)", "city=Oslo <|im_end|>"),
        ("(c.function.arguments.city)", "Oslo <|im_end|>"),
    ],
)
def test_calls_of_tools_in_the_history_are_shown_as_the_template_wants_them(
    serve: Callable[..., TestClient], form: str, shown: str
) -> None:
    wanted = Tokenizer(imported_backend(), Conventions({"eos_token": "<s>"}, TOOLS_SHOWN.replace("FORM", form)))
    read = read_messages(TOOL_TURNS, wanted)
    ids, _ = wanted.render_chat(read, add_generation_prompt=True)
    assert wanted.decode(ids, skip_special=False) == (
        f"<|im_start|>user:weather?<|im_end|><|im_start|>assistant:<call>look{shown}</call><|im_end|>"
        "<|im_start|>tool:rain<|im_end|><|im_start|>assistant:"
    )
    assert ids.count(wanted.end_id) == 3  # what the arguments spell ends no turn


def test_calls_of_tools_that_the_template_does_not_show_are_refused_by_name(serve: Callable[..., TestClient]) -> None:
    answer = complete(serve(), "chat/completions", messages=TOOL_TURNS, max_tokens=1)
    assert answer.status_code == 400 and "messages[1]: tool_calls" in answer.json()["error"]["message"]
    bad = [{**TOOL_TURNS[1], "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}]
    answer = complete(serve(), "chat/completions", messages=bad, max_tokens=1)
    assert answer.status_code == 400 and "messages[0].tool_calls[0] is" in answer.json()["error"]["message"]


@pytest.mark.parametrize("said", ["by the file", "by add_bos_token"])
def test_text_begins_as_the_tokenizer_begins_it_and_ids_stay_as_they_are(
    serve: Callable[..., TestClient], said: str
) -> None:
    backend = imported_backend()
    bos = backend.token_to_id("<s>")
    if said == "by the file":
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
        conventions = Conventions({"bos_token": "<s>", "eos_token": "</s>"})
    else:
        conventions = Conventions({"bos_token": "<s>", "eos_token": "</s>"}, begins_with_bos=True)
    other = Tokenizer(backend, conventions)
    cfg = ModelConfig(other.vocab_size, d_model=16, num_layers=1, num_heads=2, context_length=64)
    client = serve(network=Transformer(cfg, 1).eval(), words=other)
    ids = other.encode("the cat")
    asked = {"max_tokens": 1, "echo": True, "logprobs": 0, "temperature": 0}
    by_text, by_ids = (complete(client, prompt=p, **asked).json() for p in ("the cat", [bos, *ids]))
    assert by_text["usage"]["prompt_tokens"] == len(ids) + 1
    told, same = by_text["choices"][0]["logprobs"], by_ids["choices"][0]["logprobs"]
    assert told["token_logprobs"] == same["token_logprobs"]
    assert told["text_offset"][:2] == [0, 0] and by_text["choices"][0]["text"].startswith("the cat")
    assert complete(client, prompt=ids, **asked).json()["usage"]["prompt_tokens"] == len(ids)


def imported_backend() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["the cat sat on the mat and the dog ran to the man "] * 20, trainer)
    return backend


def test_limits_of_size_queue_and_time(serve: Callable[..., TestClient], model: Transformer) -> None:
    assert complete(serve(limits=ServerLimits(max_body=100)), prompt="a" * 200).status_code == 413

    client = serve(slots=1, queue=2, limits=ServerLimits(request_seconds=0.6))
    engine = client.service._engine  # type: ignore[attr-defined]
    forward = engine._decoder.forward

    def slowly(*args: Any) -> Any:
        time.sleep(0.1)
        return forward(*args)

    engine._decoder.forward = slowly
    answers: list[Any] = []

    def ask() -> None:
        answers.append(complete(client, prompt="a", max_tokens=40, stop=None, seed=1, temperature=0))

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    codes = sorted(answer.status_code for answer in answers)
    assert set(codes) == {429, 504}
    assert codes.count(429) == 2  # one runs, two wait
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "queue_full" and refused.headers["retry-after"]
    stream = complete(client, prompt="a", max_tokens=40, stream=True)
    assert "took longer than 0.6 s" in stream.text and "[DONE]" not in stream.text
    deadline = time.monotonic() + 5
    while client.service.num_running + client.service.num_waiting and time.monotonic() < deadline:  # type: ignore[attr-defined]
        time.sleep(0.02)
    assert client.service.num_running == 0  # type: ignore[attr-defined]


def test_a_key_is_asked_for_everywhere_but_at_health(serve: Callable[..., TestClient]) -> None:
    client = serve(api_key="secret-1")
    for path in ("/v1/models", "/metrics"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer secret-1"}).status_code == 200
    refused = complete(client, prompt="a")
    assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
    assert client.get("/health").status_code == 200


def test_metrics_count_requests_and_tokens(serve: Callable[..., TestClient]) -> None:
    client = serve()
    complete(client, prompt=[1, 2, 3], max_tokens=5, temperature=0, stop=None)
    complete(client, prompt=[1, 2, 3], max_tokens=5, temperature=0, stream=True)
    complete(client, prompt=[])
    told = client.get("/metrics").text
    assert 'lifespan_requests_total{endpoint="/v1/completions",status="200"} 2.0' in told
    assert 'lifespan_requests_total{endpoint="/v1/completions",status="400"} 1.0' in told
    assert "lifespan_prompt_tokens_total 6.0" in told
    assert 'lifespan_first_token_seconds_count{endpoint="/v1/completions"} 1.0' in told
    assert 'lifespan_request_seconds_bucket{endpoint="/v1/completions",le="+Inf"} 3.0' in told


def test_an_engine_that_fails_costs_the_requests_of_that_moment_alone(serve: Callable[..., TestClient]) -> None:
    client = serve()

    def broken(*args: Any) -> Any:
        raise RuntimeError("secret path /home/x")

    client.service._engine._decoder.forward = broken  # type: ignore[attr-defined]
    answer = complete(client, prompt="a")
    assert answer.status_code == 500
    assert "secret" not in answer.text and answer.json()["error"]["type"] == "server_error"
    assert complete(client, prompt="a").status_code == 200


def test_what_nobody_foresaw_is_told_and_counted(
    serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("secret path /home/x")

    client = serve()
    monkeypatch.setattr("components.inference.server.read_completion", broken)
    answer = complete(client, prompt="a")
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert 'lifespan_requests_total{endpoint="/v1/completions",status="500"} 1.0' in client.get("/metrics").text


def test_a_client_that_leaves_after_a_failure_takes_no_other_clients_answer(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    """A new engine counts its tickets from the start, so both clients here hold the same ones."""

    def broken(*args: Any) -> Any:
        raise RuntimeError

    request = Request(tuple(tokenizer.encode("a")), SamplingParams(max_tokens=8))

    async def both(service: Service) -> bool:
        async with service.run([request]) as first:
            with pytest.raises(ApiError, match="failed"):
                await anext(first)
            second = service.run([request])
            answers = await second.__aenter__()  # the first client leaves while the second's request is under way
        ended = [news.ended async for update in answers for news in update]
        await second.__aexit__(None, None, None)
        return ended[-1]

    service = Service(lambda: Engine(model, 4, None, tokenizer.text_bytes), 16)
    service._engine._decoder.forward = broken  # type: ignore[method-assign]
    service.start()
    try:
        assert asyncio.run(asyncio.wait_for(both(service), 30))
    finally:
        service.stop()
