"""The seam between text and tokens, on a tiny untrained model: what it counts, where it stops, what it refuses."""

from __future__ import annotations

import math
import re

import pytest
import torch

from components.data.tokenizer import Tokenizer
from components.inference.sampling import SamplingParams
from components.inference.text import TextPrompt, encode_prompt, text_generator
from components.model.config import ModelConfig
from components.model.transformer import Transformer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["37+8=45;45-6=39; Think in steps. Answer now."] * 4, 300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    return Transformer(ModelConfig(tokenizer.vocab_size, d_model=16, num_layers=1, num_heads=1, context_length=48), 3)


def test_a_prompt_is_the_chat_template_with_examples_before_and_the_prefill_behind(tokenizer: Tokenizer) -> None:
    ids = encode_prompt(tokenizer, TextPrompt("3+4=?", prefill="3+", shots=(("1+1=?", "2"),)))
    shown = tokenizer.decode(ids, skip_special=False)
    assert shown == "<|bos|><|user|>1+1=?<|end|><|assistant|>2<|end|><|user|>3+4=?<|end|><|assistant|>3+"


def test_log_prob_is_that_of_the_tokens_and_tokens_are_counted(tokenizer: Tokenizer, model: Transformer) -> None:
    prompt = TextPrompt("37+8", prefill="4")
    ((done,),) = text_generator(model, tokenizer)([prompt], SamplingParams(max_tokens=1, temperature=0.0))
    ids = encode_prompt(tokenizer, prompt)
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0, -1]
    allowed = [i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids]
    allowed += [tokenizer.end_id, tokenizer.eos_id]
    best = max(allowed, key=lambda i: logits[i].item())
    expected = logits[best] - logits[sorted(allowed)].logsumexp(0)
    assert done.log_prob == pytest.approx(expected.item(), abs=1e-4)
    assert (done.num_tokens, done.prompt_tokens) == (1, len(ids))


def test_a_stop_ends_the_text_and_is_kept_whatever_stands_beside_it(tokenizer: Tokenizer, model: Transformer) -> None:
    generate = text_generator(model, tokenizer, max_batch=7)
    params = SamplingParams(max_tokens=30, temperature=3.0, num_samples=40, seed=5)
    plain, stopped = generate([TextPrompt("3"), TextPrompt("4", stop=";")], params)
    assert any(";" in done.text[:-1] for done in plain)
    assert all(";" not in done.text[:-1] for done in stopped)
    ended = [done for done in stopped if done.text.endswith(";")]
    assert ended
    assert all(done.finished for done in ended)
    assert all(done.num_tokens == 30 or done.finished for done in plain)
    assert all(math.isfinite(done.log_prob) for done in plain + stopped)


def test_roles_are_never_generated(tokenizer: Tokenizer, model: Transformer) -> None:
    biased = Transformer(model.cfg, 3)
    with torch.no_grad():
        biased.embedding.weight[tokenizer.user_id] *= 100.0
    (group,) = text_generator(biased, tokenizer)(
        [TextPrompt("3")], SamplingParams(max_tokens=20, temperature=5.0, num_samples=8)
    )
    assert all(math.isfinite(done.log_prob) for done in group)


def test_a_stop_may_take_several_tokens_and_what_its_last_token_says_beyond_it_is_cut(
    tokenizer: Tokenizer, model: Transformer
) -> None:
    generate = text_generator(model, tokenizer)
    params = SamplingParams(max_tokens=30, temperature=2.0, num_samples=64, seed=2)
    ((free),) = generate([TextPrompt("3")], params)
    # What some answer says in the midst of its text, from within one token to within another.
    said = [run[1:4] for done in free for run in re.findall(r"[ -~]{5,}", done.text[5:])]
    stop = next(text for text in said if len(tokenizer.encode(text)) > 1)
    (stopped,) = generate([TextPrompt("3", stop=stop)], params)
    for before, after in zip(free, stopped, strict=True):
        head, found, _ = before.text.partition(stop)
        assert after.text == head + found
        assert after.finished == (bool(found) or before.finished)


def test_a_prompt_without_room_is_refused_by_its_text(tokenizer: Tokenizer, model: Transformer) -> None:
    with pytest.raises(ValueError, match=r"'777777.*' has 64 tokens"):
        text_generator(model, tokenizer)([TextPrompt("7" * 60)], SamplingParams())
