"""The loader that a registered model's `MLmodel` names: `mlflow.pyfunc.load_model` calls `_load_pyfunc`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.data.tokenizer import Tokenizer
from components.inference.sampling import SamplingParams
from components.inference.text import TextPrompt, text_generator
from components.training.checkpoints import load_model


class ChatModel:
    """A model of ours that answers prompts in text."""

    def __init__(self, folder: Path) -> None:
        self._generate = text_generator(load_model(folder / "model"), Tokenizer.load(folder / "tokenizer"))

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """An answer for each prompt: a list of texts, or the first column of a frame.

        `params`: max_tokens (64), temperature (0, greedy), seed (0).
        """
        given = params or {}
        texts: Sequence[Any] = model_input.iloc[:, 0] if hasattr(model_input, "iloc") else model_input
        sampling = SamplingParams(
            max_tokens=int(given.get("max_tokens", 64)),
            temperature=float(given.get("temperature", 0.0)),
            seed=int(given.get("seed", 0)),
        )
        answers = self._generate([TextPrompt(str(text)) for text in texts], sampling)
        return [group[0].text.strip() for group in answers]


def _load_pyfunc(path: str) -> ChatModel:
    return ChatModel(Path(path))
