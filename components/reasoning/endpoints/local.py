"""A model in this process as a backend."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from components.data.tokenizer import Tokenizer
from components.inference.engine import Engine, Request, drain
from components.inference.text import TextCompletion, encode_prompt
from components.model.transformer import Transformer
from components.reasoning.endpoints.backend import Arrived, Ask


def digest_of(model: Transformer, tokenizer: Tokenizer) -> str:
    """sha256 of the weights and of how text becomes tokens: 16 digits."""
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        whole.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        whole.update(plain.view(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    whole.update(repr(model.cfg).encode())
    whole.update(b"\0".join(tokenizer.text_bytes))
    whole.update(tokenizer.chat_template.encode())
    return whole.hexdigest()[:16]


class LocalModel:
    """Samples of a model of ours. What a sample is depends on the prompt, the seed and its number alone, so that an
    evaluation that was killed goes on with the samples that it would have drawn."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, slots: int = 64) -> None:
        self.identity = f"model {digest_of(model, tokenizer)}"
        self._model, self._tokenizer, self._slots = model, tokenizer, slots

    def complete(self, asks: Sequence[Ask]) -> Iterator[list[Arrived]]:
        """Every sample as it ends. One whose prompt leaves no room in the context has failed."""
        words, limit = self._tokenizer, self._model.cfg.context_length
        ends, banned = tuple(sorted(words.stop_ids)), tuple(sorted(words.special_ids - words.stop_ids))
        encoded = [encode_prompt(words, ask.prompt) for ask in asks]
        fitting = [place for place, ids in enumerate(encoded) if 0 < len(ids) < limit]
        for place in sorted(set(range(len(asks))) - set(fitting)):
            note = f"the prompt has {len(encoded[place])} tokens; the model's context has {limit}"
            for sample in asks[place].samples:
                yield [
                    Arrived(
                        place,
                        sample,
                        TextCompletion("", 0, 0.0, False, problem="failed", note=note, billed_prompt_tokens=0),
                    )
                ]
        if not fitting:
            return
        capacity = min(limit, max(len(encoded[place]) + asks[place].params.max_tokens for place in fitting))
        engine = Engine(self._model, self._slots, capacity, words.text_bytes)
        places: dict[int, tuple[int, int]] = {}
        for place in sorted(fitting, key=lambda place: (len(encoded[place]), encoded[place])):
            ask, ids = asks[place], tuple(encoded[place])
            stop = (ask.prompt.stop,) if ask.prompt.stop else ask.params.stop
            params = replace(ask.params, num_samples=1, stop_ids=ends, stop=stop, ban_ids=banned)
            stream = int.from_bytes(hashlib.sha256(repr(ids).encode()).digest()[:5], "big") << 20
            for sample in ask.samples:
                places[engine.submit(Request(ids, params, stream + sample))] = place, sample
        began = time.perf_counter()
        paid: set[int] = set()
        for update in drain(engine):
            place, sample = places[update.ticket]
            done, prompt = update.completion, len(encoded[place])
            text = TextCompletion(
                _without_stop(words.decode(done.tokens), done.stop),
                len(done.tokens),
                done.log_prob,
                done.finished,
                prompt_tokens=prompt,
                prefill_tokens=len(words.encode(asks[place].prompt.prefill)),
                billed_prompt_tokens=0 if place in paid else prompt,
                seconds=time.perf_counter() - began,
            )
            yield [Arrived(place, sample, text)]
            paid.add(place)


def _without_stop(text: str, stop: str) -> str:
    """The text up to the end of its stop text: the token that completed it may contain more."""
    head, found, _ = text.partition(stop) if stop else (text, "", "")
    return head + found
