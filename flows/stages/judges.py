"""How a stage asks a judge behind an OpenAI-compatible server."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from flows.services.credentials import read_secret

if TYPE_CHECKING:
    from components.rlhf.judge_server import JudgeServer
    from components.rlhf.rewards.judge import Ask, JudgeReward


def judge_server(address: str, model: str, setting: str) -> JudgeServer:
    """The server at an address with the key of LIFESPAN_JUDGE_KEY; `setting` is what names its model.

    Raises JudgeFailed where it is not there, or has several models and none is named.
    """
    from components.rlhf.judge_server import JudgeFailed, JudgeServer

    url, key = address.rstrip("/"), read_secret("LIFESPAN_JUDGE_KEY")
    server = JudgeServer(url, model, key)
    if not model:
        names = server.models()
        if len(names) != 1:
            raise JudgeFailed(f"{address} has {len(names)} models: {setting} says which")
        server = dataclasses.replace(server, model=names[0])
    return server


def reward_judge(config: JudgeReward) -> Ask:
    """The judge of a reward, as `components.rlhf.rewards.judge` asks it."""
    from components.inference.sampling import SamplingParams
    from components.inference.text import TextPrompt

    server = judge_server(config.url, config.model, "model")

    def ask(questions: list[str], max_tokens: int) -> list[str]:
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
        return [group[0].text for group in server([TextPrompt(text) for text in questions], params)]

    return ask  # type: ignore[return-value]  # a list is a sequence
