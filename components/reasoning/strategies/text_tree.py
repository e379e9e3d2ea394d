"""Tree of Thought over texts (Yao et al. 2023): the next step of a solution is sampled, states are valued by grades or
by a vote, and the search goes on from the best of them. Beam search by steps is its breadth-first form with grades as a
process reward. No log-probabilities: any endpoint will do.

All items are searched side by side. A node that says the answer is a leaf; among leaves the one with the best value
answers, of equal ones the first. `tree_of_thought.py` searches puzzles with a state of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.items import Item
from components.reasoning.prompting.templates import template
from components.reasoning.scoring.text import after_marker, boxed, spoken
from components.reasoning.strategies.grades import grade_of
from components.reasoning.strategy import Outcome, Step, Strategy, Trial, outcome_after

_BEST = re.compile(r"best\W{0,4}(\d+)", re.IGNORECASE)
_ANY_NUMBER = re.compile(r"\b(\d+)\b")


@dataclass(frozen=True)
class TextTreeConfig:
    """search: breadth (the best `width` states of each depth go on), depth (the most promising child first, back up
    from what is valued below `threshold`) or beam (as breadth, but finished states keep their place among the best).
    proposals: sampled next steps of a state. value: a grade of each state, or votes among those of a depth. max_depth:
    steps of a solution; max_expansions: states that are expanded, of each item."""

    search: Literal["breadth", "depth", "beam"] = "breadth"
    value: Literal["grade", "vote"] = "grade"
    proposals: int = 3
    width: int = 2
    max_depth: int = 6
    max_expansions: int = 12
    threshold: float = 0.3
    votes: int = 3
    step_tokens: int = 128


@dataclass
class _Node:
    parent: int | None
    depth: int
    text: str
    done: TextCompletion | None = None
    value: float = 1.0
    status: str = "open"


@dataclass
class _Tree:
    item: Item
    nodes: list[_Node] = field(default_factory=lambda: [_Node(None, 0, "")])
    requests: list[Sequence[TextCompletion]] = field(default_factory=list)
    expansions: int = 0

    def steps(self, place: int) -> list[str]:
        """The texts from the root to a node."""
        found: list[str] = []
        at: int | None = place
        while at:
            found.append(self.nodes[at].text)
            at = self.nodes[at].parent
        return found[::-1]

    def leaves(self) -> list[int]:
        return [place for place, node in enumerate(self.nodes) if node.status == "answer"]


def text_tree(config: TextTreeConfig, name: str) -> Strategy:
    """The search with these settings."""
    return Strategy(name, "text_tree", lambda trial: [_outcome(tree, config) for tree in _grown(trial, config)])


def _grown(trial: Trial, config: TextTreeConfig) -> list[_Tree]:
    trees = [_Tree(item) for item in trial.items]
    turn = 0
    while work := [(tree, place) for tree in trees for place in _next(tree, config)]:
        turn += 1
        fresh = _expanded(trial, work, config, turn)
        if config.value == "grade":
            _grade(trial, fresh)
        else:
            _vote(trial, fresh, config, turn)
    return trees


def _next(tree: _Tree, config: TextTreeConfig) -> list[int]:
    """The nodes to expand now; none ends the search."""
    waiting = [place for place, node in enumerate(tree.nodes) if node.status == "open"]
    left = config.max_expansions - tree.expansions
    if not waiting or left <= 0:
        return []
    if config.search == "depth":
        if any(tree.nodes[place].value >= config.threshold for place in tree.leaves()):
            return []
        return [max(waiting, key=lambda place: (tree.nodes[place].depth, tree.nodes[place].value))]
    rivals = [*waiting, *tree.leaves()] if config.search == "beam" else waiting
    best = sorted(rivals, key=lambda place: -tree.nodes[place].value)[: config.width]
    for place in waiting:
        if place not in best:
            tree.nodes[place].status = "pruned"
    if config.search == "breadth" and tree.leaves() and not any(place in waiting for place in best):
        return []
    return [place for place in best if tree.nodes[place].status == "open"][:left]


def _expanded(
    trial: Trial, work: list[tuple[_Tree, int]], config: TextTreeConfig, turn: int
) -> list[tuple[_Tree, int]]:
    """Sample next steps of these nodes; the places of what is new."""
    wording = template("propose", "propose")
    prompts = [
        TextPrompt(wording.fill(question=tree.item.question, steps=_listed(tree.steps(place)), form=tree.item.form))
        for tree, place in work
    ]
    limit = min(config.step_tokens, trial.max_tokens)
    groups = trial.ask(prompts, turn, config.proposals, limit, drawn=True)
    fresh = []
    for (tree, place), group in zip(work, groups, strict=True):
        parent = tree.nodes[place]
        parent.status = "expanded"
        tree.expansions += 1
        tree.requests.append(group)
        known: set[str] = set()
        for done in group:
            text = spoken(done.text).strip()
            if not text or text in known:
                continue
            known.add(text)
            node = _Node(place, parent.depth + 1, text, done)
            if after_marker(text, finished=done.finished) or boxed(text):
                node.status = "answer"
            elif node.depth >= config.max_depth:
                node.status = "too deep"
            tree.nodes.append(node)
            fresh.append((tree, len(tree.nodes) - 1))
    return fresh


def _grade(trial: Trial, fresh: Sequence[tuple[_Tree, int]]) -> None:
    wording = template("value", "value")
    prompts = [
        TextPrompt(wording.fill(question=tree.item.question, steps=_listed(tree.steps(place)))) for tree, place in fresh
    ]
    for (tree, place), said in zip(fresh, trial.ask(prompts), strict=True):
        tree.requests.append(said)
        grade = grade_of(said[0].text)
        tree.nodes[place].value = 0.5 if grade is None else grade


def _vote(trial: Trial, fresh: Sequence[tuple[_Tree, int]], config: TextTreeConfig, turn: int) -> None:
    """Shares of the votes among what is new of a tree."""
    wording = template("vote", "vote")
    trees = list({id(tree): tree for tree, _ in fresh}.values())
    mine = [[place for other, place in fresh if other is tree] for tree in trees]
    prompts = []
    for tree, places in zip(trees, mine, strict=True):
        shown = "\n\n".join(f"({n}) {_listed(tree.steps(place))}" for n, place in enumerate(places, start=1))
        prompts.append(TextPrompt(wording.fill(question=tree.item.question, candidates=shown)))
    groups = trial.ask(prompts, 10_000 + turn, config.votes, drawn=True)
    for tree, places, group in zip(trees, mine, groups, strict=True):
        tree.requests.append(group)
        said = [_BEST.findall(spoken(done.text)) or _ANY_NUMBER.findall(spoken(done.text)) for done in group]
        named = [int(found[-1]) for found in said if found]
        for number, place in enumerate(places, start=1):
            tree.nodes[place].value = named.count(number) / max(1, len(group))


def _listed(steps: Sequence[str]) -> str:
    return "\n".join(steps) if steps else "(none)"


def _outcome(tree: _Tree, config: TextTreeConfig) -> Outcome:
    leaves = tree.leaves()
    places = leaves or [place for place, node in enumerate(tree.nodes) if node.done]
    asked = [list(group) for group in tree.requests]
    best = max(places, key=lambda place: (tree.nodes[place].value, tree.nodes[place].depth)) if places else 0
    chosen = tree.nodes[best].done or (asked[0][0] if asked else TextCompletion("", 0, 0.0, False, problem="failed"))
    if leaves:
        tree.nodes[best].status = "chosen"
    steps = [
        Step(node.parent, "thought", node.text, node.done.num_tokens if node.done else 0, node.status, node.value)
        for node in tree.nodes
    ]
    details = {"expansions": tree.expansions, "nodes": len(tree.nodes) - 1, "leaves": len(leaves)}
    return outcome_after(tree.item, chosen, asked, details, steps)
