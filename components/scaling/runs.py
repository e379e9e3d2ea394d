"""The training runs behind the sweeps: facts (dense and experts) and character-level chains."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.inference.engine import generate
from components.inference.sampling import SamplingParams
from components.model.config import ModelConfig
from components.model.specialization import mutual_information
from components.model.transformer import Transformer
from components.native.fuse import fuse
from components.reasoning.tasks import chain_problem, extract_answer
from components.scaling.facts import FactsConfig, facts_stream, oracle_losses
from components.scaling.sweep import EmergenceConfig, FactsRunConfig
from components.training.guard import Guard
from components.training.language_model import LMBatch, StepRecord, mean_loss, train
from components.training.optimizers import Optimizer

EVAL_SEED = 10_000_019  # streams of other seeds are training data


@dataclass
class FactsRun:
    """A model in training on facts, with its averaged weights; `tensors` and `load` make it resumable."""

    config: FactsRunConfig
    facts: FactsConfig
    seed: int

    def __post_init__(self) -> None:
        self.model = Transformer(self.config.model(self.facts.vocab_size), self.seed)
        self.optimizer = Optimizer(self.model, self.config.optimizer)
        self.guard = Guard(self.config.training().non_finite)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        training = self.config.training()
        # Rows start at a separator, where the oracle's entropy is exact, and none of the stream is used twice: each
        # takes as many whole records as hold its inputs and the target after the last of them.
        record = self.facts.record_length
        stride = -(-(self.config.context_length + 1) // record) * record
        stream = facts_stream(self.facts, training.num_steps * training.batch_size * stride, self.seed + 1)
        self._rows = torch.from_numpy(stream).view(-1, stride)[:, : self.config.context_length + 1]
        held_out = facts_stream(self.facts, self.config.eval_tokens, EVAL_SEED)
        self.held_out = list(_windows(torch.from_numpy(held_out), self.config.context_length))
        self.oracle_loss = float(oracle_losses(self.facts, held_out)[1:].mean())

    def _batch(self, step: int) -> LMBatch:
        size = self.config.batch_size
        rows = self._rows[step * size : (step + 1) * size]
        return LMBatch(rows[:, :-1], rows[:, 1:])

    def records(self, start_step: int = 0) -> Iterator[tuple[StepRecord, float | None]]:
        """The record of each step, as `train` gives it; at a checkpoint beside it the loss of the averaged weights on
        the held-out stream, nats per token."""
        config = self.config
        marks = {round(tokens / config.tokens_per_step) for tokens in config.checkpoints}
        for record in train(self.model, self.optimizer, config.training(), self._batch, start_step, guard=self.guard):
            decay = 1 - 1 / max(1.0, config.ema_share * record.step)
            with torch.no_grad():
                for name, value in self.model.state_dict().items():
                    self.average[name].lerp_(value, 1 - decay)
            at_checkpoint = record.step in marks or record.step == config.training().num_steps
            yield record, mean_loss(self.averaged_model(), self.held_out)[0] if at_checkpoint else None

    def averaged_model(self) -> Transformer:
        """A model with the averaged weights."""
        model = Transformer(self.model.cfg)
        model.load_state_dict(self.average)
        fuse(model)
        return model.eval()

    def average_tensors(self) -> dict[str, Tensor]:
        """What resuming needs beside model and optimizer."""
        return {f"average.{name}": value for name, value in self.average.items()}

    def load_average(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `average_tensors`."""
        for name, value in self.average.items():
            value.copy_(tensors[f"average.{name}"])

    @torch.no_grad()
    def routing(self) -> dict[str, Any]:
        """Of the averaged model on held-out text: share of tokens by expert and layer, the largest share, the router's
        mean entropy (nats), and the mutual information (nats) between expert and place in the record."""
        model = self.averaged_model()
        record = self.facts.record_length
        chosen: list[list[Tensor]] = []
        entropies: list[float] = []
        places: list[Tensor] = []
        for batch in self.held_out[:8]:
            hidden = model.hidden(batch.tokens_BT)
            chosen.append([stats.chosen_NA[:, 0] for stats in hidden.routers])
            entropies += [float(stats.entropy) for stats in hidden.routers]
            # A window of whole records starts at a separator, so the position tells the place in the record.
            places.append((torch.arange(batch.tokens_BT.shape[1]) % record).repeat(len(batch.tokens_BT)))
        if not entropies:
            return {}
        num_experts = model.cfg.moe.num_experts if model.cfg.moe else 1
        place = torch.cat(places).numpy()
        load, information = [], []
        for layer in range(len(chosen[0])):
            expert = torch.cat([part[layer] for part in chosen]).numpy()
            load.append((np.bincount(expert, minlength=num_experts) / len(expert)).tolist())
            joint = np.zeros((num_experts, record))
            np.add.at(joint, (expert, place), 1.0)
            information.append(float(mutual_information(joint)))
        return {
            "load": load,
            "max_share": max(map(max, load)),
            "entropy": float(np.mean(entropies)),
            "specialization": float(np.mean(information)),
        }


def _windows(stream: Tensor, length: int, rows: int = 128) -> Iterator[LMBatch]:
    count = (len(stream) - 1) // length
    inputs = stream[: count * length].view(count, length)
    targets = stream[1 : count * length + 1].view(count, length)
    for first in range(0, count, rows):
        yield LMBatch(inputs[first : first + rows], targets[first : first + rows])


@torch.no_grad()
def held_out_losses_by_window(run: FactsRun) -> list[float]:
    """Mean loss (nats per token) of the averaged model in each held-out window: the items behind an interval."""
    model = run.averaged_model()
    losses: list[float] = []
    for batch in run.held_out:
        logits = model(batch.tokens_BT)
        per_token = F.cross_entropy(logits.transpose(1, 2), batch.targets_BT, reduction="none")
        losses += per_token.mean(-1).tolist()
    return losses


ALPHABET = "\n0123456789+-=?"  # one character a token; a newline ends an answer


def encode_chain(text: str) -> list[int]:
    """Token ids of a symbolic chain."""
    return [ALPHABET.index(character) for character in text]


def _chain_texts(config: EmergenceConfig, seed: int, exactly: int | None = None) -> Iterator[tuple[str, str]]:
    """Endless (question, worked answer) pairs, symbolic only, whose values stay within `max_value`."""
    rng = random.Random(f"emergence-{seed}")
    while True:
        problem = chain_problem(rng, exactly or rng.randint(1, config.max_difficulty))
        if problem.form == "symbolic" and _largest_value(problem.steps) <= config.max_value:
            yield problem.question, problem.steps


def _largest_value(worked: str) -> int:
    return max(int(re.split("[+-]", expression)[0]) for expression in worked.split("="))


def emergence_model(config: EmergenceConfig, width: int) -> ModelConfig:
    """The decoder of one width: heads of 8 up to 16, else of 16."""
    head = 8 if width % 16 else 16
    return ModelConfig(
        vocab_size=len(ALPHABET),
        d_model=width,
        num_layers=config.num_layers,
        num_heads=max(1, width // head),
        head_dim=head if width >= head else width,
        context_length=128,
    )


def chain_batches(config: EmergenceConfig, seed: int) -> Tensor:
    """Training rows [steps · B, T + 1]: a stream of solved chains without any of the evaluation items."""
    held_out = {question for question, _ in evaluation_chains(config)}
    needed = config.train.num_steps * config.train.batch_size * (config.train.context_length + 1)
    tokens: list[int] = []
    for question, answer in _chain_texts(config, seed):
        if question not in held_out:
            tokens += encode_chain(f"{question}{answer}\n")
        if len(tokens) >= needed:
            break
    return torch.tensor(tokens[:needed]).view(-1, config.train.context_length + 1)


def evaluation_chains(config: EmergenceConfig) -> list[tuple[str, str]]:
    """`num_items` chains of `difficulty` operations; every size answers the same."""
    found: dict[str, str] = {}
    for question, answer in _chain_texts(config, -1, config.difficulty):
        found.setdefault(question, answer)
        if len(found) == config.num_items:
            return list(found.items())
    raise AssertionError("the generator is endless")


def computed_tokens(worked: str) -> list[bool]:
    """Of each token of a worked answer and of the newline after it: whether it has to be computed, as the digits of
    each running value are. Signs, the operations still to be done, and the first expression come from the question."""
    marks: list[bool] = []
    for done, expression in enumerate(worked.split("=")):
        digits = len(expression) - len(expression.lstrip("0123456789"))
        marks += [*[done > 0] * digits, *[False] * (len(expression) - digits), False]
    return marks


def score_chains(model: Transformer, items: list[tuple[str, str]]) -> tuple[list[int], list[list[float]]]:
    """For each item: exact match of the greedy answer, and log-probabilities (nats) of the right answer's tokens, the
    newline that ends it included."""
    newline = ALPHABET.index("\n")
    params = SamplingParams(max_tokens=90, temperature=0.0, stop_ids=(newline,))
    prompts = [[newline, *encode_chain(question)] for question, _ in items]
    answers = generate(model, prompts, params)
    exact, log_probs = [], []
    for (_, right), prompt, [said] in zip(items, prompts, answers, strict=True):
        text = "".join(ALPHABET[token] for token in said.tokens)
        exact.append(int(extract_answer(text) == extract_answer(right)))
        tokens = torch.tensor([[*prompt, *encode_chain(right), newline]])
        with torch.no_grad():
            table = model(tokens[:, :-1])[0].log_softmax(-1)
        of_target = table.gather(-1, tokens[0, 1:, None])[:, 0]
        log_probs.append(of_target[len(prompt) - 1 :].clamp_max(0).tolist())
    return exact, log_probs
