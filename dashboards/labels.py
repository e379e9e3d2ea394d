"""Names and symbols that people read, for the names that code, tables and configs use.

`label` turns a name that no mapping knows into words, so that a new name reads well before it gets an entry here.
"""

from __future__ import annotations

from collections.abc import Mapping

MODELS = {
    "base": "base model",
    "sft": "fine-tuned model",
    "grpo": "model after GRPO",
    "ppo": "model after PPO",
    "dpo": "model after DPO",
    "puzzles": "puzzle model",
}
# By the family of a strategy: `strategy` adds the number of samples.
STRATEGIES = {
    "direct": "direct answer",
    "few_shot": "few-shot",
    "greedy": "greedy",
    "cot": "chain of thought",
    "self_consistency": "self-consistency",
    "direct_vote": "vote of direct answers",
    "best_of": "best of k",
    "until_right": "until one is right",
    "adaptive": "adaptive",
    "tree_of_thought": "Tree of Thought",
}
ARCHITECTURES = {"transformer": "transformer", "lstm": "LSTM"}
VARIANTS = {
    "dense": "dense",
    "moe_balanced": "experts, balanced",
    "moe_unbalanced": "experts, not balanced",
    "moe_loss_free": "experts, balanced by a bias",
}
# Of a policy: what held it back where no KL penalty did.
MITIGATIONS = {"worst": "worst case", "variance": "mean − λ·variance", "length": "length penalty"}
PARAMETER_COUNTS = {"non_embedding": "all but the embeddings"}
GROUPS = {
    "data": "data",
    "pretraining": "pretraining",
    "sft": "fine-tuning",
    "rlhf": "RLHF",
    "scaling": "scaling law",
    "emergence": "emergence",
    "moe": "mixture of experts",
    "architecture": "recurrent net",
    "reasoning": "reasoning",
    "cost": "cost",
    "report": "forgetting",
}
LAWS = {"chinchilla": "Chinchilla", "kaplan": "Kaplan"}
FORECASTS = {"law": "the fitted law"}
# Of a search: how it goes through the tree, and what says what a state is worth.
SEARCHES = {"breadth": "breadth first", "depth": "depth first", "best": "best first"}
VALUES = {"judge": "judged by the model", "log_prob": "valued by log-probability", "oracle": "valued by an oracle"}
# Of the scaling laws; the others (E, A, N_c, …) are symbols already.
PARAMETERS = {"alpha": "α", "beta": "β", "alpha_N": "α_N", "alpha_D": "α_D"}


def label(names: Mapping[str, str], name: str) -> str:
    """What people read for `name`; its own words where `names` does not know it."""
    return names.get(name, name.replace("_", " "))


def heading(names: Mapping[str, str], name: str) -> str:
    """The label with a capital first letter."""
    text = label(names, name)
    return text[:1].upper() + text[1:]


def strategy(name: str, family: str, size: int | None) -> str:
    """ "self-consistency, k=16" for ("self_consistency@16", "self_consistency", 16); settings that the name has in
    brackets follow in words, "Tree of Thought, depth first, judged by the model, up to 60 states"."""
    text = label(STRATEGIES, family)
    settings = name.partition("[")[2].removesuffix("]")
    if settings:
        return ", ".join((text, *(_setting(one) for one in settings.split(","))))
    return text if size is None else f"{text}, k={size}"


def _setting(name: str) -> str:
    """A setting of a search in words."""
    if name.isdecimal():
        return f"up to {int(name):,} state{'' if name == '1' else 's'}"
    return label({**SEARCHES, **VALUES}, name)
