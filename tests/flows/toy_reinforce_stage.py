"""The stage of REINFORCE, in a life `flows/stages/reinforce.py`, and the assembly that it has one line in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field
from toy_reinforce_config import ReinforceConfig

from flows.engine.graph import Graph
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.settings import Settings
from storage.artifacts import Artifact

NUM_TOKENS = 16


class ReinforceLife(Settings):
    reinforce: ReinforceConfig = Field(default_factory=ReinforceConfig)


@dataclass(frozen=True)
class TinyModelResult:
    d_model: int


@dataclass(frozen=True)
class ReinforceResult:
    """reward: mean of the last iteration."""

    reward: float


@stage(produces="checkpoint", group="pretraining")
def tiny_model(work: Work, *, seed: int) -> TinyModelResult:
    """Something to begin with: untrained, its tokens are numbers."""
    from components.model.config import ModelConfig
    from components.model.transformer import Transformer
    from components.training.checkpoints import save_model

    cfg = ModelConfig(vocab_size=NUM_TOKENS, d_model=16, num_layers=1, num_heads=1, context_length=8)
    save_model(work.out, Transformer(cfg, seed))
    return TinyModelResult(cfg.d_model)


@stage(produces="checkpoint", group="rlhf")
def reinforce(work: Work, *, config: ReinforceConfig, seed: int, start: Artifact) -> ReinforceResult:
    """REINFORCE on a task with a verifier: an answer is worth the share of its tokens that are even."""
    import toy_reinforce as algorithm

    from components.training.checkpoints import load_model, save_model

    state = algorithm.ReinforceState.start(load_model(work.open(start)), config)
    if saved := work.load_state():
        state.load_tensors(saved[1])
    prompts = [[token, token + 1] for token in range(NUM_TOKENS - 1)]

    def reward(index: int, response: Any) -> float:
        return sum(token % 2 == 0 for token in response) / len(response)

    record: dict[str, float] = {}
    for record in algorithm.reinforce(state, reward, prompts, (), config, seed):
        step = int(record["step"])
        work.log(step, {name: value for name, value in record.items() if name != "step"})
        work.usage(tokens=record["tokens"])
        work.progress(step, config.num_iterations, reward=record["objective/reward"])
        if step < config.num_iterations and work.state_due():
            work.save_state(step, state.tensors(), {})
    save_model(work.out, state.policy)
    return ReinforceResult(record["objective/reward"])


def reinforce_graph(cfg: ReinforceLife, run: Graph) -> None:
    start = tiny_model.submit(run, seed=cfg.seed)
    reinforce.submit(run, config=cfg.reinforce, seed=cfg.seed, start=start)
