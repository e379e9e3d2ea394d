"""OpenAI's two ways to ask, as bodies of requests, and what comes back, read without trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt

Api = Literal["chat", "completions"]
PATHS: Mapping[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}
_NEXT_QUESTION = "\nQuestion:"  # where a base model goes on to the next one
_CUT = ("length", "max_tokens", "max_output_tokens")
_DECLINED = ("content_filter", "refusal", "safety")


class Malformed(ValueError):
    """The answer is none: no JSON, no choices, no text in them."""


@dataclass(frozen=True)
class ServerSays(Exception):
    """An error in the shape of an answer, as some routers send it with status 200."""

    code: int
    message: str


def as_text(prompt: TextPrompt) -> str:
    """A prompt for a model that continues text: examples and question as "Question: … Answer: …"."""
    pairs = [f"Question: {user}\nAnswer: {assistant}\n\n" for user, assistant in prompt.shots]
    return "".join(pairs) + f"Question: {prompt.user}\nAnswer:" + (f" {prompt.prefill}" if prompt.prefill else "")


def as_messages(prompt: TextPrompt) -> list[dict[str, str]]:
    """A prompt for a model that chats. A prefill is the last message, the assistant's; servers differ in whether they
    go on with it."""
    messages = [
        {"role": role, "content": content}
        for shot in prompt.shots
        for role, content in zip(("user", "assistant"), shot, strict=True)
    ]
    messages.append({"role": "user", "content": prompt.user})
    return [*messages, {"role": "assistant", "content": prompt.prefill}] if prompt.prefill else messages


def request_body(
    api: Api, model: str, prompt: TextPrompt, params: SamplingParams, seed: int, without: Sequence[str] = ()
) -> dict[str, Any]:
    """The body of a request. A seed goes out where something is drawn. without: optional fields that the server does
    not take; without "max_tokens" the limit goes by its newer name."""
    body: dict[str, Any] = {"model": model}
    if api == "chat":
        body["messages"] = as_messages(prompt)
    else:
        body["prompt"] = as_text(prompt)
    limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
    stop = prompt.stop or (_NEXT_QUESTION if api == "completions" else "")
    optional = {
        "n": params.num_samples if params.num_samples > 1 else None,
        "seed": seed if params.temperature else None,
        "stop": [stop] if stop else None,
        "top_p": params.top_p if params.top_p < 1 else None,
        "top_k": params.top_k or None,
        "min_p": params.min_p or None,
    }
    body |= {limit: params.max_tokens, "temperature": params.temperature}
    return body | {name: value for name, value in optional.items() if value is not None and name not in without}


def read_completions(said: object, seconds: float) -> list[TextCompletion]:
    """The choices of an answer. Servers bill all choices together; that is split so that its sum stays: the prompt goes
    to the first choice, generated tokens by the length of the texts.

    Raises Malformed, and ServerSays for an error.
    """
    if not isinstance(said, Mapping):
        raise Malformed(f"the answer is no object: {str(said)[:100]}")
    if isinstance(error := said.get("error"), Mapping):
        code = error.get("code")
        raise ServerSays(code if isinstance(code, int) else 500, str(error.get("message"))[:300])
    choices = said.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Malformed(f"an answer without choices: {str(said)[:100]}")
    texts = [_choice(choice) for choice in choices]
    usage = said.get("usage") or {}
    prompt, generated = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    note = "" if isinstance(usage, Mapping) and "completion_tokens" in usage else "the server tells no usage"
    return [
        TextCompletion(
            text,
            tokens,
            0.0,
            finished,
            prompt_tokens=prompt,
            problem="refused" if declined else "",
            note=note,
            billed_prompt_tokens=0 if place else prompt,
            seconds=seconds,
        )
        for place, ((text, finished, declined), tokens) in enumerate(
            zip(texts, split(generated, [len(text) for text, _, _ in texts]), strict=True)
        )
    ]


def _choice(choice: object) -> tuple[str, bool, bool]:
    """Text, whether it ended by itself, and whether the server or the model declined. Thoughts that come apart are put
    before the text as a template would have written them."""
    if not isinstance(choice, Mapping):
        raise Malformed(f"a choice is no object: {str(choice)[:100]}")
    reason = str(choice.get("finish_reason") or "")
    message = choice.get("message", choice)
    if not isinstance(message, Mapping):
        raise Malformed(f"a message is no object: {str(message)[:100]}")
    refusal = message.get("refusal")
    text = message.get("content" if "message" in choice else "text")
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    declined = reason in _DECLINED or bool(refusal)
    if isinstance(text, list):  # parts, as some servers send them
        text = "".join(str(part.get("text", "")) for part in text if isinstance(part, Mapping))
    if text is None and (thoughts or declined or reason):
        text = ""
    if not isinstance(text, str):
        raise Malformed(f"a choice without text: {str(choice)[:100]}")
    if isinstance(thoughts, str) and thoughts:
        text = f"<think>{thoughts}</think>{text}" if text else f"<think>{thoughts}"
    return text or str(refusal or ""), reason not in _CUT, declined


def _count(usage: object, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and value > 0 else 0


def split(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers that add up to `total`, in proportion to the weights (all alike where these are 0)."""
    shares = [weight + 1 for weight in weights]
    ends = [total * sum(shares[: place + 1]) // sum(shares) for place in range(len(shares))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
