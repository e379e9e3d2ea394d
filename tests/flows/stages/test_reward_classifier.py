"""A published reward model in a life: by its folder in the profile, as what is paid and as gold, in the key by its
bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_alignment import GRPO, make_world

from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig
from components.model.hub.folder import export_folder
from components.model.transformer import Transformer
from components.reasoning.tasks import SuiteConfig
from components.rlhf.rewards.sequence_classifier import ClassifierReward
from components.rlhf.rewards.settings import RewardSettings
from components.rlhf.verifier_task_config import VerifierTaskConfig
from flows.config import load_config
from flows.engine.work import Work
from flows.lifecycle import life
from flows.settings import ConfigError
from flows.stages.grpo import grpo
from storage.artifacts import Store
from storage.home import Home


def published(folder: Path, seed: int) -> Path:
    """A reward model with a tokenizer of its own, as transformers saves one."""
    words = Tokenizer.train(["What is 3 + 3? It is 6.\n"] * 20, 280)
    cfg = ModelConfig(vocab_size=words.vocab_size, d_model=16, num_layers=1, num_heads=1, qk_norm=False)
    folder.mkdir()
    export_folder(folder, cfg, Transformer(cfg, seed).state_dict(), words)
    raw = json.loads((folder / "config.json").read_text())
    names = [name.replace("ForCausalLM", "ForSequenceClassification") for name in raw["architectures"]]
    raw |= {"architectures": names, "id2label": {"0": "LABEL_0"}}
    (folder / "config.json").write_text(json.dumps(raw))
    head = torch.randn(1, 16, generator=torch.Generator().manual_seed(seed))
    save_file(load_file(folder / "model.safetensors") | {"score.weight": head}, folder / "model.safetensors")
    return folder


def test_a_policy_is_paid_by_one_and_watched_with_another(tmp_path: Path) -> None:
    made = make_world(tmp_path)
    paid, gold = published(tmp_path / "paid", 1), published(tmp_path / "gold", 2)
    work = Work(tmp_path / "out", tmp_path / "state", store=Store(tmp_path / "artifacts"))
    work.out.mkdir()
    result: Any = grpo.fn(
        work,
        config=GRPO,
        task=VerifierTaskConfig(num_watch=2),
        suite=SuiteConfig(),
        reward=RewardSettings((ClassifierReward(str(paid), name="helpful"),), (ClassifierReward(str(gold)),)),
        seed=3,
        sft=made["sft"],
        reward_model=[],
        prompts=[made["prompts"]],
        tokenizer=made["tokenizer"],
    )
    assert set(result.rewards) == {"helpful"} and result.gold_name == "sequence_classifier"
    assert result.gold is not None and result.measure == "reward"
    logged = [value for _, name, value, _ in work.metrics() if name == "reward/helpful"]
    assert len(logged) == GRPO.num_iterations and len(set(logged)) > 1


def test_other_weights_of_it_are_another_policy_and_one_that_is_not_there_is_told(tmp_path: Path) -> None:
    folder = published(tmp_path / "paid", 1)
    setting = f'rewards=[{{ kind = "sequence_classifier", model = "{folder}" }}]'

    def key() -> str:
        return life(load_config("smoke", [setting]), Home("no-such-home")).nodes["grpo"].key

    before = key()
    assert key() == before
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"score.weight": 2 * tensors["score.weight"]}, file)
    assert key() != before
    for model, named in (("no/such/folder", "no/such/folder: no such folder"), ("a/b", "give the commit")):
        with pytest.raises(ConfigError, match=named):
            life(
                load_config("smoke", [f'rewards=[{{ kind = "sequence_classifier", model = "{model}" }}]']),
                Home("no-such-home"),
            )
    hub = f'gold=[{{ kind = "sequence_classifier", model = "a/b", revision = "{"ab" * 20}" }}]'
    assert load_config("smoke", [hub]).uses_hub and not load_config("smoke", [setting]).uses_hub
