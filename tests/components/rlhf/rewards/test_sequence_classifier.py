"""Published reward models: the numbers of transformers, and what cannot be equal is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig
from components.model.hub.folder import export_folder
from components.model.transformer import Transformer
from components.rlhf.rewards.answers import RewardError, Sample
from components.rlhf.rewards.kinds import from_settings
from components.rlhf.rewards.scoring import open_rewards
from components.rlhf.rewards.sequence_classifier import ClassifierReward, open_classifier


def published(folder: Path, changes: dict[str, Any] | None = None, **model: Any) -> tuple[Path, Transformer]:
    """A folder as transformers saves such a model, made of one of ours; by default a Llama."""
    words = Tokenizer.train(["What is 12 + 34? It is 46.\n", "user assistant cat dog"] * 20, 300)
    cfg = ModelConfig(
        vocab_size=words.vocab_size, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, context_length=64,
        **{"qk_norm": False, "tie_embeddings": False} | model,
    )  # fmt: skip
    trunk = Transformer(cfg, 1)
    folder.mkdir()
    export_folder(folder, cfg, trunk.state_dict(), words)
    raw = json.loads((folder / "config.json").read_text())
    del raw["lifespan"]
    names = [name.replace("ForCausalLM", "ForSequenceClassification") for name in raw["architectures"]]
    raw |= {"architectures": names, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    (folder / "config.json").write_text(json.dumps(raw | (changes or {})))
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    tensors["score.weight"] = torch.linspace(-1, 1, 32)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, trunk.eval()


def sample(text: str, question: str = "What is 12 + 34?") -> Sample:
    return Sample(({"role": "user", "content": question},), text)


SAMPLES = [sample("It is 46."), sample("A cat."), sample("It is 46.", "dog"), sample("")]


def test_the_score_is_the_head_at_the_last_token_that_is_not_padding(tmp_path: Path) -> None:
    folder, trunk = published(tmp_path / "rm")
    words = Tokenizer.load(folder)
    expected, ends = [], set()
    for one in SAMPLES:
        ids, _ = words.render_chat([*one.messages, {"role": "assistant", "content": one.completion}])
        last = max(place for place, token in enumerate(ids) if token != words.pad_id)
        ends.add(len(ids) - 1 - last)
        with torch.no_grad():
            hidden_D = trunk.double().hidden(torch.tensor([ids])).x_BTD[0, last]
        expected.append(float(hidden_D @ torch.linspace(-1, 1, 32).double()))
    found = [score.value for score in open_classifier(ClassifierReward(str(folder)))(SAMPLES)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert len(set(found)) == 4


def test_padding_at_the_end_of_a_text_is_passed_by(tmp_path: Path) -> None:
    ids, _ = Tokenizer.load(published(tmp_path / "a")[0]).render_chat(
        [*SAMPLES[0].messages, {"role": "assistant", "content": SAMPLES[0].completion}]
    )
    folder, trunk = published(tmp_path / "b", {"pad_token_id": ids[-1]})
    last = max(place for place, token in enumerate(ids) if token != ids[-1])
    with torch.no_grad():
        hidden_TD = trunk.hidden(torch.tensor([ids])).x_BTD[0]
    (found,) = open_classifier(ClassifierReward(str(folder)))(SAMPLES[:1])
    assert found.value == pytest.approx(float(hidden_TD[last] @ torch.linspace(-1, 1, 32)), abs=1e-5)
    assert found.value != pytest.approx(float(hidden_TD[-1] @ torch.linspace(-1, 1, 32)), abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, r"architectures is \['LlamaForCausalLM'\]: takes a model such as"),
        ({"id2label": {"0": "bad", "1": "good"}}, "id2label is .*: a reward is 1 label"),
        ({"num_labels": 3}, "num_labels is 3: a reward is 1 label"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"pad_token_id": "x"}, "pad_token_id is 'x'"),
        ({"model_type": "bert"}, "model_type is 'bert'"),
    ],
)
def test_what_is_no_such_model_is_refused_by_its_field(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    folder, _ = published(tmp_path / "rm", changes)
    with pytest.raises(RewardError, match=named):
        open_classifier(ClassifierReward(str(folder)))


def test_a_tensor_that_does_not_fit_is_named(tmp_path: Path) -> None:
    folder, _ = published(tmp_path / "rm")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    without = {name: tensor for name, tensor in tensors.items() if name != "score.weight"}
    for changed, named in (
        (without, "the tensor score.weight is missing"),
        (without | {"score.weight": torch.zeros(2, 32)}, r"score.weight has the shape \[2, 32\]: takes \[1, 32\]"),
        (tensors | {"score.bias": torch.zeros(1)}, "the tensor score.bias has no place"),
    ):
        save_file(changed, file)
        with pytest.raises(RewardError, match=named):
            open_classifier(ClassifierReward(str(folder)))
    with pytest.raises(RewardError, match="no such folder or file"):
        open_classifier(ClassifierReward(str(tmp_path / "none")))
    with pytest.raises(ValueError, match=r"revision is ''.*give the commit"):
        ClassifierReward("owner/model")


def test_a_conversation_that_is_too_long_is_a_failed_score_among_others(tmp_path: Path) -> None:
    folder, _ = published(tmp_path / "rm")
    rewards = open_rewards([ClassifierReward(str(folder), weight=2.0)], max_failed=1.0)
    fits, long = rewards.judge([SAMPLES[0], sample("cat " * 80)])
    assert "the reward model takes 64" in long.failures["sequence_classifier"]
    assert fits.total == 2.0 * fits.parts["sequence_classifier"].value != 0.0
    assert from_settings({"kind": "sequence_classifier", "model": "x"})["kind"] == "sequence_classifier"


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [{}, {"qk_norm": True}, {"attention_bias": True}, {"sliding_window": 8}],
    ids=["llama", "qwen3", "qwen2", "mistral"],
)
def test_transformers_scores_the_same(model: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `peers` brings transformers")
    folder, _ = published(tmp_path / "rm", None, **model)
    judge = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    expected = []
    for one in SAMPLES:
        turns = [*one.messages, {"role": "assistant", "content": one.completion}]
        ids = reader.apply_chat_template(turns, return_dict=False)
        with torch.no_grad():
            expected.append(float(judge(torch.tensor([ids])).logits[0, 0]))
    found = [score.value for score in open_classifier(ClassifierReward(str(folder)))(SAMPLES)]
    assert found == pytest.approx(expected, abs=1e-4)
    assert len({round(value, 4) for value in found}) == 4
