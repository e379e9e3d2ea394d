"""Ways of answering: the front of accuracy and cost, the items behind a point, and the chain behind an item."""

from __future__ import annotations

from collections import Counter
from typing import Any

from dashboards import formatting, labels
from dashboards.app.address import Address, link
from dashboards.app.figures.answers import front, front_figure, spent, votes_figure
from dashboards.app.figures.trees import STATUSES, Thought, tree_figure
from dashboards.app.outside import Outside
from dashboards.app.pages.choice import chosen_run
from dashboards.app.rows import ask, life, typed
from dashboards.app.view import (
    Block,
    Chart,
    Column,
    Control,
    Controls,
    Note,
    Table,
    Text,
    Texts,
    Tree,
    TreeNode,
    View,
    missing,
)
from dashboards.facts.scores import Score, scores_of
from dashboards.run_data import RunRows, UnreadableFacts, parsed
from storage.home import Home

MOST_ITEMS = 500
_SCORES = "SELECT * FROM run_leaderboard WHERE run_id = $run AND suite = $suite"
_ITEMS = """
        SELECT item_id, difficulty, correct, answer, target, completion_tokens, prompt
        FROM evals WHERE key IN (SELECT key FROM stages WHERE run_id = $run AND status IN ('ran', 'cached'))
        AND suite = $suite AND model = $model AND strategy = $strategy ORDER BY correct, item_id LIMIT 500"""
_ITEM = """
        SELECT model, strategy, strategy_family, strategy_size, prompt, target, answer, correct, completion_tokens,
               prompt_tokens, details_json
        FROM evals WHERE key IN (SELECT key FROM stages WHERE run_id = $run AND status IN ('ran', 'cached'))
        AND suite = $suite AND item_id = $item
        ORDER BY model = $model DESC, strategy = $strategy DESC, model, strategy"""
MOST_NODES = 400
_TREE = f"""
        SELECT node, parent, depth, kind, text, value, tokens, status FROM trees
        WHERE key IN (SELECT key FROM stages WHERE run_id = $run AND status IN ('ran', 'cached'))
        AND item_id = $item AND strategy = $strategy ORDER BY node LIMIT {MOST_NODES}"""


def reasoning_page(home: Home, address: Address, outside: Outside) -> View:
    """The front of one run's strategies on one suite; a point, then an item, opens what lies behind it."""
    run, control = chosen_run(home, address)
    if run is None:
        return missing("Reasoning", f"No run yet in {home.shown}.", ("Runs", "/"))
    rows = life(home, run)
    suites = list(dict.fromkeys(row["suite"] for row in rows.evals if row["correct"] is not None))
    if not suites:
        why = rows.why_missing("reasoning", "Reasoning")
        return View("Reasoning", (Controls((control,)), Note(why, "muted")), address=address.used)
    suite = address.text("suite", "chains", suites)
    scores, unpriced = scored(rows, suite)
    priced = any(s.usd is not None for s in scores)
    per = address.text("per", "dollars" if priced else "tokens", ["dollars", "tokens"] if priced else ["tokens"])
    models = list(dict.fromkeys(s.model for s in scores))
    model = address.text("of", "", ["", *models])
    shown = [s for s in scores if not model or s.model == model]
    blocks: list[Block] = [
        Controls(
            (
                control,
                Control("suite", "suite", "select", suite, tuple((one, one) for one in suites)),
                Control(
                    "of",
                    "model",
                    "select",
                    model,
                    (("", "all"), *((one, labels.label(labels.MODELS, one)) for one in models)),
                ),
                Control("per", "over", "select", per, (("dollars", "dollars"), ("tokens", "tokens"))),
            )
        )
    ]
    if unpriced:
        blocks.append(Note(unpriced, "warn"))
    blocks.append(
        Chart(
            "front",
            "Accuracy against what an answer costs",
            front_figure(shown, per),
            typed(_SCORES, {"run": run, "suite": suite}),
            "95% intervals over items. Diamonds ask a verifier what is right. A click on a point shows its items.",
            420,
        )
    )
    chosen = next(
        (s for s in scores if (s.model, s.strategy) == (address.text("model"), address.text("strategy"))), None
    )
    item = address.text("item")
    if chosen and item:
        blocks += _item(home, run, suite, chosen, item)
    if chosen:
        blocks.append(_items(home, run, suite, chosen))
    blocks.append(_table(shown, per, run, suite))
    return View("Reasoning", tuple(blocks), address=address.used, links=(("Paired items", link("/paired", run_a=run)),))


def scored(rows: RunRows, suite: str) -> tuple[tuple[Score, ...], str]:
    """The scores, and why they have no dollars where they have none."""
    try:
        found = scores_of(rows, suite)
    except UnreadableFacts as error:
        return (), str(error)
    return found, "" if any(
        s.usd is not None for s in found
    ) else "This run has no prices, so strategies stand over tokens."


def _table(scores: list[Score], per: str, run: str, suite: str) -> Table:
    best = front(scores, per)
    return Table(
        "scores",
        "Strategies",
        (
            Column("model", "model", "model"),
            Column(
                "label", "strategy", "text", f"/reasoning?run={run}&suite={suite}&model={{model}}&strategy={{strategy}}"
            ),
            Column("accuracy", "accuracy", "percent", low="low", high="high"),
            Column("n", "n", "count"),
            Column("usd", "dollars per million", "dollars"),
            Column("read", "tokens read", "count"),
            Column("generated", "tokens generated", "count"),
            Column("verifier", "asks a verifier"),
            Column("front", "on the front"),
        ),
        {
            "model": [s.model for s in scores],
            "label": [s.label for s in scores],
            "strategy": [s.strategy for s in scores],
            "accuracy": [s.accuracy.value for s in scores],
            "low": [s.accuracy.low for s in scores],
            "high": [s.accuracy.high for s in scores],
            "n": [s.accuracy.n for s in scores],
            "usd": [spent(s, "dollars") for s in scores],
            "read": [s.prompt_tokens for s in scores],
            "generated": [s.tokens for s in scores],
            "verifier": ["yes" if s.verified else "" for s in scores],
            "front": ["yes" if s in best else "" for s in scores],
        },
        typed(_SCORES, {"run": run, "suite": suite}),
        filter=True,
    )


def _items(home: Home, run: str, suite: str, score: Score) -> Table:
    params = {"run": run, "suite": suite, "model": score.model, "strategy": score.strategy}
    found = ask(home, _ITEMS, params)
    more = f", the first {MOST_ITEMS}" if len(found["item_id"]) == MOST_ITEMS else ""
    href = link("/reasoning", run=run, suite=suite, model=score.model, strategy=score.strategy) + "&item={item_id}"
    return Table(
        "items",
        f"Items of {labels.label(labels.MODELS, score.model)}, {score.label}: wrong ones first{more}",
        (
            Column("item_id", "item", "text", href),
            Column("difficulty", "difficulty", "count"),
            Column("correct", "right", "verdict"),
            Column("answer", "answer"),
            Column("target", "right answer"),
            Column("completion_tokens", "tokens", "count"),
            Column("prompt", "question"),
        ),
        {**found, "correct": ["right" if one else "wrong" for one in found["correct"]]},
        typed(_ITEMS, params),
        filter=True,
    )


def _item(home: Home, run: str, suite: str, score: Score, item: str) -> list[Block]:
    params = {"run": run, "suite": suite, "item": item, "model": score.model, "strategy": score.strategy}
    found = ask(home, _ITEM, params)
    if not found["model"]:
        return [Note(f"No answer to item {item}.", "warn")]
    rows = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    mine = rows[0]
    details = parsed(mine["details_json"])
    blocks: list[Block] = [Texts(f"Item {item}", (answer_text(mine),), f"asked: {mine['prompt']}", wide=True)]
    votes = details.get("votes")
    if isinstance(votes, dict) and votes:
        chart = votes_figure(votes, str(mine["answer"] or ""), str(mine["target"] or ""))
        blocks.append(
            Chart(
                "votes",
                "Its votes",
                chart,
                typed(_ITEM, params),
                "Green: the right answer. Framed: the chosen one.",
                80 + 28 * min(len(votes), 12),
            )
        )
    blocks += _tree(home, params)
    others = tuple(answer_text(row) for row in rows[1:13])
    if others:
        blocks.append(Texts("The same item, answered otherwise", others))
    return blocks


def answer_text(row: dict[str, Any]) -> Text:
    """An answer with what was made of it."""
    details = parsed(row["details_json"])
    name = labels.strategy(row["strategy"], row["strategy_family"] or row["strategy"], row["strategy_size"])
    right = "right" if row["correct"] else "wrong"
    meta = f"{right}: {row['answer'] or 'no answer'} (right answer {row['target']})"
    meta += f" · {formatting.count(row['completion_tokens'])} tokens"
    if details.get("status") not in (None, "answered"):
        meta += f" · {details['status']}"
    text = str(details.get("text") or row["answer"] or "")
    return Text(
        f"{labels.label(labels.MODELS, row['model'])}, {name}",
        text,
        row["prompt"] or "",
        meta,
        "good" if row["correct"] else "bad",
    )


def _tree(home: Home, params: dict[str, str]) -> list[Block]:
    """What a strategy of several requests did for the item, drawn and in words; nothing of one that asks once."""
    asked = {name: params[name] for name in ("run", "item", "strategy")}
    found = ask(home, _TREE, asked)
    if not found["node"]:
        return []
    at = {node: place for place, node in enumerate(found["node"])}
    nodes = [
        Thought(text or "", at.get(parent), value, status or "", tokens)
        for text, parent, value, status, tokens in zip(
            *(found[name] for name in ("text", "parent", "value", "status", "tokens")), strict=True
        )
    ]
    depth = max(found["depth"]) + 1
    ended = Counter(STATUSES.get(node.status, (node.status, ""))[0] for node in nodes)
    told = ", ".join(f"{count} {name}" for name, count in ended.items())
    more = f" Of more nodes the first {MOST_NODES}." if len(nodes) == MOST_NODES else ""
    note = f"{len(nodes)} nodes: {told}. The way to the solution is thick; rest on a node for its value.{more}"
    drawn = tree_figure(nodes)
    words = tuple(TreeNode(node.text, node.parent, node.value, node.status) for node in nodes)
    return [
        Chart("tree", "Its search", drawn, typed(_TREE, asked), note, min(140 + 74 * depth, 760)),
        Tree("The same in words", words),
    ]
