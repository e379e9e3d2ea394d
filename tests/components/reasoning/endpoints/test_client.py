"""The endpoint client on a scripted transport: what is asked, what is tried again, and what becomes of what fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.endpoints.backend import Ask, EndpointError
from components.reasoning.endpoints.client import Endpoint, EndpointSettings, proxy_for
from components.reasoning.endpoints.messages import request_body, split

SETTINGS = EndpointSettings("http://127.0.0.1:1/v1", "m", at_once=4, attempts=4, first_pause=0.001)
GREEDY = SamplingParams(temperature=0.0, max_tokens=9)
Handler = Callable[[httpx.Request], httpx.Response]


def said(*texts: str, reason: str = "stop", **usage: int) -> httpx.Response:
    choices = [{"message": {"content": text}, "finish_reason": reason} for text in texts]
    return httpx.Response(200, json={"choices": choices, "usage": usage})


def endpoint(handler: Handler, **changes: Any) -> Endpoint:
    return Endpoint(replace(SETTINGS, **changes), lambda: httpx.MockTransport(handler))


def answers(handler: Handler, *asks: Ask, **changes: Any) -> dict[tuple[int, int], TextCompletion]:
    with endpoint(handler, **changes) as asked:
        arrived = [one for batch in asked.complete(asks) for one in batch]
    found = {(one.ask, one.sample): one.completion for one in arrived}
    assert len(found) == len(arrived), "a sample arrived twice"
    return found


def one_after_another(*responses: httpx.Response | Exception) -> Handler:
    left = list(responses)

    def handle(request: httpx.Request) -> httpx.Response:
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    return handle


def test_the_body_says_all_that_shapes_an_answer() -> None:
    params = SamplingParams(max_tokens=7, temperature=0.5, top_p=0.9, num_samples=3, seed=4)
    prompt = TextPrompt("2+2?", shots=(("1+1?", "2"),), stop="\n")
    body = request_body("chat", "m", prompt, params, 11)
    assert [(one["role"], one["content"]) for one in body["messages"]] == [
        ("user", "1+1?"),
        ("assistant", "2"),
        ("user", "2+2?"),
    ]
    assert (body["max_tokens"], body["n"], body["seed"], body["stop"], body["top_p"]) == (7, 3, 11, ["\n"], 0.9)
    text = request_body("completions", "m", prompt, replace(params, temperature=0.0), 11)
    assert text["prompt"] == "Question: 1+1?\nAnswer: 2\n\nQuestion: 2+2?\nAnswer:"
    assert "seed" not in text


def test_what_was_billed_is_split_without_loss() -> None:
    assert sum(split(17, [5, 0, 90])) == 17
    found = answers(lambda r: said("a", "bbbbbbb", prompt_tokens=20, completion_tokens=11), Ask(TextPrompt("q"), two()))
    assert [found[0, n].billed_prompt_tokens for n in (0, 1)] == [20, 0]
    assert sum(done.num_tokens for done in found.values()) == 11


def two() -> SamplingParams:
    return SamplingParams(temperature=1.0, num_samples=2)


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(429, headers={"retry-after": "0"}),
        httpx.Response(500),
        httpx.Response(503, text="busy"),
        httpx.Response(200, text='{"choices": [{"mess'),
        httpx.Response(200, json={"choices": []}),
        httpx.Response(200, json={"error": {"code": 502, "message": "upstream"}}),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
        httpx.ConnectError("gone"),
    ],
    ids=lambda one: repr(one)[:40],
)
def test_what_is_worth_another_attempt_gets_one(trouble: httpx.Response | Exception) -> None:
    found = answers(one_after_another(trouble, said("4")), Ask(TextPrompt("q"), GREEDY))
    assert (found[0, 0].text, found[0, 0].problem) == ("4", "")


def test_what_fails_in_the_end_is_failed_and_never_an_answer() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500, text="broken") if b"bad" in request.content else said("4")

    found = answers(handle, *(Ask(TextPrompt(text), GREEDY) for text in ("good", "bad", "fine")))
    assert [found[n, 0].problem for n in range(3)] == ["", "failed", ""]
    assert "500 broken" in found[1, 0].note


def test_a_question_that_the_server_refuses_is_asked_once() -> None:
    asked: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(1)
        return httpx.Response(400, json={"error": {"message": "maximum context length is 10 tokens"}})

    found = answers(handle, Ask(TextPrompt("q"), GREEDY))
    assert (found[0, 0].problem, len(asked)) == ("failed", 1)
    assert "context length" in found[0, 0].note


def test_a_server_that_gives_fewer_choices_is_asked_for_the_rest_with_another_seed() -> None:
    seeds: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        seeds.append(body["seed"])
        return said(*[f"{body['seed']}"] * min(2, body.get("n", 1)))

    found = answers(handle, Ask(TextPrompt("q"), SamplingParams(num_samples=5, seed=1)))
    assert sorted(found) == [(0, n) for n in range(5)]
    assert len(set(seeds)) == 3


def test_a_field_that_the_server_does_not_take_is_left_out_and_told() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if "max_tokens" in body:
            return httpx.Response(400, json={"error": {"message": "Unsupported parameter: 'max_tokens'"}})
        return said(str(body["max_completion_tokens"]))

    with endpoint(handle) as asked:
        (batch,) = asked.complete([Ask(TextPrompt("q"), GREEDY)])
        assert (batch[0].completion.text, len(asked.notes)) == ("9", 1)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(401, text="no"), "wants a key: put it into OPENAI_API_KEY"),
        (httpx.Response(404, text="no model m"), "no model m"),
        (httpx.Response(302, headers={"location": "http://elsewhere/"}), "moved to http://elsewhere/"),
        (httpx.Response(429, headers={"retry-after": "86400"}), "asks to wait for 86400 s"),
    ],
)
def test_where_nothing_can_be_asked_all_ends(
    response: httpx.Response, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(EndpointError, match=message):
        answers(lambda request: response, *(Ask(TextPrompt(f"{n}"), GREEDY) for n in range(9)))


def test_a_server_that_is_gone_ends_all() -> None:
    with pytest.raises(EndpointError, match=r"no answer after 1 attempts .*, 3 requests in a row"):
        answers(
            lambda request: httpx.Response(500),
            *(Ask(TextPrompt(f"{n}"), GREEDY) for n in range(9)),
            in_a_row=3,
            attempts=1,
        )


def test_a_server_that_never_answered_is_not_waited_for_long() -> None:
    asked: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(1)
        raise httpx.ConnectError("refused")

    with pytest.raises(EndpointError, match="is the server running"):
        answers(handle, Ask(TextPrompt("q"), GREEDY), attempts=8)
    assert len(asked) == 3


def test_the_key_goes_out_of_the_variable_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "secret")
    found = answers(
        lambda request: said(request.headers["authorization"]), Ask(TextPrompt("q"), GREEDY), key_variable="OTHER_KEY"
    )
    assert found[0, 0].text == "Bearer secret"


def test_thoughts_refusals_and_cuts_are_told_apart() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        user = json.loads(request.content)["messages"][0]["content"]
        message: dict[str, Any] = {
            "thinks": {"content": "4", "reasoning_content": "2+2"},
            "lost in thought": {"content": None, "reasoning": "2+"},
            "declines": {"content": None, "refusal": "no"},
        }[user]
        reason = "length" if user.startswith("lost") else "stop"
        return httpx.Response(200, json={"choices": [{"message": message, "finish_reason": reason}]})

    found = answers(handle, *(Ask(TextPrompt(x), GREEDY) for x in ("thinks", "lost in thought", "declines")))
    assert found[0, 0].text == "<think>2+2</think>4"
    assert (found[1, 0].text, found[1, 0].finished) == ("<think>2+", False)
    assert found[2, 0].problem == "refused"


def test_a_server_of_this_machine_is_reached_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://proxy:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    here: Sequence[str] = ("http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]:80/v1")
    assert [proxy_for(url) for url in here] == [None] * 3
    assert proxy_for("https://example.org/v1") == "http://proxy:3128"
    monkeypatch.setenv("no_proxy", "example.org")
    assert proxy_for("https://example.org/v1") is None


def test_never_more_requests_are_in_flight_than_allowed() -> None:
    flying, most = 0, 0

    async def handle(request: httpx.Request) -> httpx.Response:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        import asyncio

        await asyncio.sleep(0.002)
        flying -= 1
        return said("4")

    with Endpoint(SETTINGS, lambda: httpx.MockTransport(handle)) as asked:
        asks = [Ask(TextPrompt(f"{n}"), GREEDY) for n in range(40)]
        assert sum(len(batch) for batch in asked.complete(asks)) == 40
    assert most == 4
