"""Text in, text out: the interface between reasoning strategies and whatever generates.

A strategy only knows `Generate`, so it runs on our engine, on a server, and in tests on a scripted stand-in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from components.data.tokenizer import Tokenizer
from components.inference.engine import generate
from components.inference.sampling import SamplingParams
from components.model.transformer import Transformer


@dataclass(frozen=True)
class TextPrompt:
    """One request. prefill: the beginning of the assistant's answer; the completion continues it without repeating it.
    shots: (user, assistant) examples that come before. stop: text that ends the completion and is kept in it, however
    many tokens it takes; empty: only the end of the turn ends it."""

    user: str
    prefill: str = ""
    shots: tuple[tuple[str, str], ...] = ()
    stop: str = ""


@dataclass(frozen=True)
class TextCompletion:
    """One sampled text. num_tokens: generated tokens, including the one that ended it. log_prob: of all of them in
    nats, as `sampling.choose` defines it. finished: ended by the end of the turn or `stop`, not by the length limit.
    prompt_tokens: of the prompt, which the completions of one prompt share; prefill_tokens: those of its prefill.
    problem: why there is no text to judge, with a note; billed_prompt_tokens: what was paid for the prompt with this
    completion, 0 where another one of the same request paid for it, None where nobody bills. seconds: that its request
    took."""

    text: str
    num_tokens: int
    log_prob: float
    finished: bool
    prompt_tokens: int = 0
    prefill_tokens: int = 0
    problem: Literal["", "failed", "refused"] = ""
    note: str = ""
    billed_prompt_tokens: int | None = None
    seconds: float = 0.0


Generate = Callable[[Sequence[TextPrompt], SamplingParams], list[list[TextCompletion]]]
"""`params.num_samples` completions of each prompt, in order. The generator sets `stop_ids` and `ban_ids` itself."""


def text_generator(model: Transformer, tokenizer: Tokenizer, max_batch: int = 256) -> Generate:
    """A model of ours behind this interface. The chat template's roles and padding are never generated.

    The generator raises ValueError for a prompt that leaves no room in the context, naming it.
    """
    ends, banned = tuple(sorted(tokenizer.stop_ids)), tuple(sorted(tokenizer.special_ids - tokenizer.stop_ids))
    limit = model.cfg.context_length

    def run(prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
        prefills = [len(tokenizer.encode(prompt.prefill)) for prompt in prompts]
        for prompt, ids in zip(prompts, encoded, strict=True):
            if len(ids) >= limit:
                raise ValueError(
                    f"the prompt {_shortened(prompt.user)!r} has {len(ids)} tokens with its examples and prefill; the "
                    f"model's context_length is {limit}: shorten it or give fewer examples"
                )
        results: list[list[TextCompletion]] = [[] for _ in prompts]
        # Prompts with the same `stop` run in one batch; a call of a strategy usually has only one.
        for stop in sorted({prompt.stop for prompt in prompts}):
            members = [i for i, prompt in enumerate(prompts) if prompt.stop == stop]
            chosen = replace(params, stop_ids=ends, stop=(stop,) if stop else (), ban_ids=banned)
            batch = [encoded[i] for i in members]
            groups = generate(model, batch, chosen, max_batch, tokenizer.text_bytes)
            for i, group in zip(members, groups, strict=True):
                results[i] = [
                    TextCompletion(
                        text=_up_to(tokenizer.decode(done.tokens), done.stop),
                        num_tokens=len(done.tokens),
                        log_prob=done.log_prob,
                        finished=done.finished,
                        prompt_tokens=len(encoded[i]),
                        prefill_tokens=prefills[i],
                    )
                    for done in group
                ]
        return results

    return run


def encode_prompt(tokenizer: Tokenizer, prompt: TextPrompt) -> list[int]:
    """The chat template up to the point where the assistant continues."""
    messages = [
        {"role": role, "content": content}
        for shot in prompt.shots
        for role, content in zip(("user", "assistant"), shot, strict=True)
    ]
    messages.append({"role": "user", "content": prompt.user})
    ids, _ = tokenizer.render_chat(messages, add_generation_prompt=True)
    return ids + tokenizer.encode(prompt.prefill)


def _up_to(text: str, stop: str) -> str:
    """The text up to the end of its first `stop`: the token that completed it may contain more."""
    head, found, _ = text.partition(stop) if stop else (text, "", "")
    return head + found


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
