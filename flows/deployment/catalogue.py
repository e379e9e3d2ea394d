"""The flows that can be deployed and scheduled: the name, the groups of stages that it asks for, and what it is."""

from __future__ import annotations

FLOWS: dict[str, tuple[tuple[str, ...], str]] = {
    "lifecycle": ((), "The whole life, from raw text to what it costs to serve."),
    "data": (("data",), "Corpus, tokenizer, token shards, conversations."),
    "pretrain": (("pretraining",), "A base model, with the data that it needs."),
    "sft": (("sft",), "The base model fine-tuned on conversations."),
    "rlhf": (("rlhf",), "Preferences, reward model, PPO, GRPO, best-of-n."),
    "scaling": (("scaling", "moe", "emergence"), "Sweeps, fitted laws, a forecast and its score, experts, emergence."),
    "architecture": (("architecture",), "A recurrent net beside the transformer, and what experts specialise in."),
    "reasoning": (("reasoning",), "How the models reason, at which price in tokens."),
    "forgetting": (("report",), "What each training stage made the model forget."),
    "cost": (("cost",), "What training cost and what serving will."),
}

# Not a part of the life: it has parameters of its own, a model and a task.
EVALUATE, EVALUATE_DOC = "evaluate", "A model or an endpoint on a task of questions, with strategies of answering."
