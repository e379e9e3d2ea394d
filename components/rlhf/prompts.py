"""Requests as chat prompts, and sampled tokens as the text of an answer: one rendering for every stage of alignment."""

from __future__ import annotations

from collections.abc import Sequence

from components.data.files import Quarantined
from components.data.prompt_files import Prompt
from components.data.tokenizer import Tokenizer
from components.inference.engine import Completion
from components.rlhf.rewards.answers import Sample
from components.rlhf.rewards.kinds import RewardConfig
from components.rlhf.rollouts import Rollout


def chat_prompts(tokenizer: Tokenizer, requests: Sequence[str | Prompt]) -> list[list[int]]:
    """Tokens of each request (the turns of a prompt, or what a user says), up to where the assistant answers."""
    return [
        tokenizer.render_chat(
            [{"role": "user", "content": request}] if isinstance(request, str) else [dict(m) for m in request.messages],
            add_generation_prompt=True,
        )[0]
        for request in requests
    ]


def stop_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Every token that ends an answer, in order: the end of the turn, of the text, and what else an imported model's
    files name."""
    return tuple(sorted(tokenizer.stop_ids))


def answer_text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """What sampled tokens say, without the end of the turn."""
    return tokenizer.decode(tokens).strip()


def samples_of(
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    encoded: Sequence[Sequence[int]],
    answers: Sequence[tuple[Sequence[int], bool]],
) -> list[Sample]:
    """Answers as rewards see them. `encoded`: the tokens of each prompt; `answers`: the tokens of each answer, and
    whether it ended by itself."""
    return [
        Sample(
            prompt.messages,
            answer_text(tokenizer, tokens),
            prompt.answer,
            prompt.metadata,
            finished,
            (*before, *tokens),
        )
        for prompt, before, (tokens, finished) in zip(prompts, encoded, answers, strict=True)
    ]


def samples_of_rollout(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], encoded: Sequence[Sequence[int]], rollout: Rollout
) -> list[Sample]:
    """The answers of a rollout; `prompts` and `encoded` are what its `prompt_index` counts."""
    index = rollout.prompt_index
    answers = list(zip(rollout.responses, rollout.finished_B.tolist(), strict=True))
    return samples_of(tokenizer, [prompts[i] for i in index], [encoded[i] for i in index], answers)


def as_answers(completions: Sequence[Completion]) -> list[tuple[Sequence[int], bool]]:
    """Completions as `samples_of` takes them."""
    return [(done.tokens, done.finished) for done in completions]


def usable(
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    room: int,
    rewards: Sequence[RewardConfig] = (),
) -> tuple[list[Prompt], list[Quarantined]]:
    """The prompts that fit into `room` tokens, that the chat template can express, and that every reward can judge; and
    the others with the reason."""
    kept, left_out = [], []
    for prompt in prompts:
        reason = next((r for config in rewards if (r := config.refusal(prompt.answer, prompt.metadata))), "")
        if not reason:
            try:
                length = len(chat_prompts(tokenizer, [prompt])[0])
                if length > room:
                    reason = f"{length} tokens; with the answer's limit the model's context has room for {room}"
            except ValueError as error:  # a role or a character that the tokenizer has no place for
                reason = str(error)
        if reason:
            left_out.append(prompt.rejected(reason))
        else:
            kept.append(prompt)
    return kept, left_out
