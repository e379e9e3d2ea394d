"""Tree of Thought (Yao et al. 2023): propose steps, value where they lead, search with pruning and backtracking.

All items are searched side by side: a round is one call for proposals and one for verdicts, whatever their number.
Tokens are counted as they are computed and would be paid. Generated are every sampled step, the result of every listed
one, and every verdict. Read are the prompt of a state, once for all its proposals, which go in one call and share it;
the beginning of each listed step; and the questions to the judge. The tree that was grown is returned node by node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, TypeVar

from components.inference.sampling import SamplingParams
from components.inference.text import Generate, TextCompletion, TextPrompt
from components.reasoning.items import Item, puzzle_item
from components.reasoning.puzzles import SignPuzzle, claimed_state, judge_prompt, solvable, solve_prompt
from components.reasoning.strategy import Outcome, Step, Strategy
from components.reasoning.tree_config import TreeConfig

S = TypeVar("S", bound=Hashable)
STEP_END = ";"


@dataclass(frozen=True)
class TreeTask(Generic[S]):
    """What a search needs to know of one item whose answer is a list of steps, each ending with ";".

    next_step: the prompt whose completion is the next step. openings: how each possible step begins, to be completed
    (for `proposals` = 0). advance: the state that a step's text claims to lead to; None where it is no step at all.
    finished: whether a state takes no more steps; at_goal: whether a finished one claims the goal. judge: the yes/no
    question of a state's prospects. oracle: their true value.
    """

    item: Item
    root: S
    next_step: Callable[[S], TextPrompt]
    openings: Callable[[S], list[str]]
    advance: Callable[[S, str], S | None]
    finished: Callable[[S], bool]
    at_goal: Callable[[S], bool]
    judge: Callable[[S], TextPrompt]
    oracle: Callable[[S], float]


def puzzle_task(puzzle: SignPuzzle) -> TreeTask[SignPuzzle]:
    """A sign puzzle: each state is itself a puzzle. The model's arithmetic is taken as it says."""
    return TreeTask(
        item=puzzle_item(puzzle),
        root=puzzle,
        next_step=lambda state: TextPrompt(solve_prompt(state), stop=STEP_END),
        openings=lambda state: [f"{state.start}{change:+d}=" for change in state.moves()],
        advance=claimed_state,
        finished=lambda state: not state.numbers,
        at_goal=lambda state: state.start == 0,
        judge=lambda state: TextPrompt(judge_prompt(state)),
        oracle=lambda state: float(solvable(state)),
    )


Status = Literal["open", "expanded", "pruned", "failed", "solved"]


@dataclass
class Node(Generic[S]):
    """A state of the search. text: all steps from the root. value: its prospects as the search valued them.
    log_prob: of the steps, in nats. num_tokens: generated for its own step; judge_tokens: for its verdict.
    round: when it was made."""

    state: S
    parent: int | None
    depth: int
    text: str
    value: float
    log_prob: float
    num_tokens: int
    path_tokens: int
    judge_tokens: int = 0
    round: int = 0
    status: Status = "open"


@dataclass
class Tree(Generic[S]):
    """The search for one item: nodes in the order in which they were made (a parent before its children), and what all
    calls took, proposals that were no step or led to a state already known included."""

    task: TreeTask[S]
    nodes: list[Node[S]]
    completion_tokens: int = 0
    prompt_tokens: int = 0
    judge_tokens: int = 0
    expansions: int = 0
    known: set[tuple[int, S]] = field(default_factory=set)

    @property
    def solution(self) -> Node[S] | None:
        """The node whose steps the exact verifier accepted."""
        return next((node for node in self.nodes if node.status == "solved"), None)

    def open(self) -> list[int]:
        """Nodes that may be expanded."""
        return [index for index, node in enumerate(self.nodes) if node.status == "open"]

    def outcome(self) -> Outcome:
        """As the other strategies give it; the answer is the solution, or the furthest and most valued attempt."""
        best = self.solution or max(self.nodes, key=lambda node: (node.depth, node.value))
        return Outcome(
            item_id=self.task.item.item_id,
            answer=self.task.item.extract(best.text),
            correct=self.solution is not None,
            completion_tokens=self.completion_tokens,
            prompt_tokens=self.prompt_tokens,
            score=float(self.solution is not None),
            details={
                "text": best.text,
                "nodes": len(self.nodes),
                "expansions": self.expansions,
                "judge_tokens": self.judge_tokens,
            },
            steps=tuple(self._steps()),
        )

    def _steps(self) -> Iterator[Step]:
        """The nodes, each with the step that it adds."""
        for node in self.nodes:
            before = "" if node.parent is None else self.nodes[node.parent].text
            added = node.text.removeprefix(before).strip() or self.task.item.question
            yield Step(node.parent, "thought", added, node.num_tokens + node.judge_tokens, node.status, node.value)


def tree_of_thought(tasks: Sequence[TreeTask[S]], config: TreeConfig) -> Strategy:
    """The search with these settings; tasks[i] is item i of the trial, and the verifier ends its search."""
    return Strategy(
        f"tree_of_thought[{config.search},{config.value},{config.max_expansions}]",
        "tree_of_thought",
        lambda trial: [tree.outcome() for tree in search_trees(trial.generate, tasks, config)],
        needs_verifier=True,
    )


def search_trees(generate: Generate, tasks: Sequence[TreeTask[S]], config: TreeConfig) -> list[Tree[S]]:
    """Search every task; a tree ends when the verifier accepts a solution, nothing is open, or its budget is spent."""
    trees = [Tree(task, [Node(task.root, None, 0, "", 1.0, 0.0, 0, 0)], known={(0, task.root)}) for task in tasks]
    turn = 0
    while work := [(tree, chosen) for tree in trees if (chosen := _choose(tree, config))]:
        turn += 1
        _expand(generate, work, config, turn)
    return trees


def _choose(tree: Tree[S], config: TreeConfig) -> list[int]:
    """The nodes to expand next; none ends the search."""
    if tree.solution is not None:
        return []
    nodes, waiting = tree.nodes, tree.open()
    if (
        config.search == "breadth"
    ):  # all open nodes are of one level: those of the levels before were expanded or pruned
        ranked = sorted(waiting, key=lambda i: -nodes[i].value)
        for index in ranked[config.beam_width :]:
            nodes[index].status = "pruned"
        return ranked[: config.beam_width]
    if not waiting or tree.expansions >= config.max_expansions:
        return []
    if config.search == "depth":
        return [max(waiting, key=lambda i: (nodes[i].depth, nodes[i].value))]
    return [max(waiting, key=lambda i: (nodes[i].value, nodes[i].depth))]


def _expand(generate: Generate, work: list[tuple[Tree[S], list[int]]], config: TreeConfig, turn: int) -> None:
    """Grow the chosen nodes of all trees by one step, and value what is new."""
    parents = [(tree, index) for tree, chosen in work for index in chosen]
    fresh: list[tuple[Tree[S], Node[S]]] = []
    for (tree, index), steps in zip(parents, _propose(generate, parents, config, turn), strict=True):
        parent = tree.nodes[index]
        parent.status = "expanded"
        tree.expansions += 1
        for text, done in steps:
            state = tree.task.advance(parent.state, text)
            # What was reached before, at this depth, by other steps or by the same ones has the same future.
            if state is None or (parent.depth + 1, state) in tree.known:
                continue
            tree.known.add((parent.depth + 1, state))
            child = Node(
                state=state,
                parent=index,
                depth=parent.depth + 1,
                text=parent.text + text,
                value=0.0,
                log_prob=parent.log_prob + done.log_prob,
                num_tokens=done.num_tokens,
                path_tokens=parent.path_tokens + done.num_tokens,
                round=turn,
            )
            tree.nodes.append(child)
            if not tree.task.finished(state):
                fresh.append((tree, child))
            elif tree.task.at_goal(state) and tree.task.item.verify(child.text):
                child.status, child.value = "solved", 1.0
            else:
                child.status = "failed"
    _value(generate, fresh, config)
    for _, node in fresh:
        if node.value < config.threshold and config.value != "log_prob":
            node.status = "pruned"


def _propose(
    generate: Generate, parents: list[tuple[Tree[S], int]], config: TreeConfig, turn: int
) -> list[list[tuple[str, TextCompletion]]]:
    """Next steps of each parent: text and completion. The trees are charged here."""
    prompts, owners = [], []
    for number, (tree, index) in enumerate(parents):
        state = tree.nodes[index].state
        prompt = tree.task.next_step(state)
        begun = (
            [replace(prompt, prefill=text) for text in tree.task.openings(state)] if not config.proposals else [prompt]
        )
        prompts += begun
        owners += [number] * len(begun)
    # A listed step has only its result left to write, which is not a matter of chance.
    params = SamplingParams(
        max_tokens=config.max_step_tokens,
        temperature=config.temperature if config.proposals else 0.0,
        num_samples=max(1, config.proposals),
        seed=config.seed * 1009 + turn,
    )
    steps: list[list[tuple[str, TextCompletion]]] = [[] for _ in parents]
    for prompt, number, group in zip(prompts, owners, generate(prompts, params), strict=True):
        tree = parents[number][0]
        tree.prompt_tokens += group[0].prefill_tokens if steps[number] else group[0].prompt_tokens
        for done in group:
            tree.completion_tokens += done.num_tokens
            steps[number].append((prompt.prefill + done.text, done))
    return steps


def _value(generate: Generate, fresh: list[tuple[Tree[S], Node[S]]], config: TreeConfig) -> None:
    if config.value == "oracle":
        for tree, node in fresh:
            node.value = tree.task.oracle(node.state)
    elif config.value == "log_prob":
        for _, node in fresh:
            node.value = node.log_prob / max(1, node.path_tokens)
    elif fresh:
        verdicts = generate(
            [tree.task.judge(node.state) for tree, node in fresh], SamplingParams(max_tokens=1, temperature=0.0)
        )
        for (tree, node), (verdict,) in zip(fresh, verdicts, strict=True):
            node.value = probability_of_yes(verdict)
            node.judge_tokens = verdict.num_tokens
            tree.judge_tokens += verdict.num_tokens
            tree.completion_tokens += verdict.num_tokens
            tree.prompt_tokens += verdict.prompt_tokens


def probability_of_yes(verdict: TextCompletion) -> float:
    """From the likelier of the two words, given greedily: its probability, or what it leaves to the other one.

    The first token decides, so that a tokenizer that cuts "yes" in pieces does no harm; anything else counts as no
    opinion, 0.5.
    """
    said = verdict.text.strip().lower()
    certainty = math.exp(min(0.0, verdict.log_prob))
    if said and "yes".startswith(said):
        return certainty
    return 1.0 - certainty if said and "no".startswith(said) else 0.5
