"""Two ways of answering on the same items: where both are right, only one, or neither, and whether that is more than
chance."""

from __future__ import annotations

from collections import Counter

from components.statistics import paired_difference
from dashboards import formatting, labels
from dashboards.app.address import Address
from dashboards.app.figures.answers import OUTCOMES, outcomes_figure
from dashboards.app.outside import Outside
from dashboards.app.pages.choice import chosen_run
from dashboards.app.pages.reasoning import answer_text
from dashboards.app.rows import Columns, ask, typed
from dashboards.app.view import Block, Chart, Column, Control, Controls, Fact, Facts, Note, Table, Texts, View, missing
from storage.home import Home

MOST_ITEMS = 1000
_WAYS = """
        SELECT suite, model, strategy, strategy_family, strategy_size, accuracy
        FROM run_leaderboard WHERE run_id = $run ORDER BY suite, model, accuracy DESC"""
_PAIRS = """
        SELECT item_id, outcome, difficulty, target, answer_a, answer_b, tokens_a, tokens_b, prompt, correct_a,
               correct_b
        FROM paired_items
        WHERE suite = $suite AND run_a = $run_a AND model_a = $model_a AND strategy_a = $strategy_a
          AND run_b = $run_b AND model_b = $model_b AND strategy_b = $strategy_b
        ORDER BY item_id"""
_BOTH = """
        SELECT s.run_id, model, strategy, strategy_family, strategy_size, prompt, target, answer, correct,
               completion_tokens, prompt_tokens, details_json
        FROM (SELECT DISTINCT run_id, key FROM stages WHERE status IN ('ran', 'cached')) s JOIN evals e USING (key)
        WHERE suite = $suite AND item_id = $item AND s.run_id = $run AND model = $model AND strategy = $strategy"""


def paired_page(home: Home, address: Address, outside: Outside) -> View:
    """Side A and side B, each a run, a model and a strategy."""
    run_a, control_a = chosen_run(home, address, "run_a", "A: run")
    if run_a is None:
        return missing("Paired items", f"No run yet in {home.shown}.", ("Runs", "/"))
    if "run_b" not in address.given:
        address = Address({**address.given, "run_b": run_a}, address.used)
    run_b, control_b = chosen_run(home, address, "run_b", "B: run")
    assert run_b is not None
    ways_a, ways_b = _ways(home, run_a), _ways(home, run_b)
    suites = [
        suite for suite in dict.fromkeys(suite for suite, _, _ in ways_a) if any(suite == one for one, _, _ in ways_b)
    ]
    if not suites:
        note = Note("These two runs have answered no suite in common.", "muted")
        return View("Paired items", (Controls((control_a, control_b)), note), address=address.used)
    suite = address.text("suite", "chains", suites)
    options_a = [(way, name) for one, way, name in ways_a if one == suite]
    options_b = [(way, name) for one, way, name in ways_b if one == suite]
    a = address.text("a", options_a[0][0], [way for way, _ in options_a])
    b = address.text("b", options_b[-1 if run_a == run_b else 0][0], [way for way, _ in options_b])
    (model_a, _, strategy_a), (model_b, _, strategy_b) = a.partition(":"), b.partition(":")
    params = {
        "suite": suite,
        "run_a": run_a,
        "model_a": model_a,
        "strategy_a": strategy_a,
        "run_b": run_b,
        "model_b": model_b,
        "strategy_b": strategy_b,
    }
    found = ask(home, _PAIRS, params)
    outcome = address.text("outcome", "", ["", *OUTCOMES])
    blocks: list[Block] = [
        Controls(
            (
                control_a,
                Control("a", "A", "select", a, tuple(options_a)),
                control_b,
                Control("b", "B", "select", b, tuple(options_b)),
                Control("suite", "suite", "select", suite, tuple((one, one) for one in suites)),
                Control("outcome", "items", "select", outcome, (("", "all"), *((one, one) for one in OUTCOMES))),
            )
        )
    ]
    if not found["item_id"]:
        return View("Paired items", (*blocks, Note("The two share no items.", "muted")), address=address.used)
    names = dict(options_a)[a], dict(options_b)[b]
    blocks += paired_blocks(found, names, typed(_PAIRS, params))
    item = address.text("item")
    if item in found["item_id"]:
        sides = []
        for run, model, strategy in ((run_a, model_a, strategy_a), (run_b, model_b, strategy_b)):
            of = {"suite": suite, "item": item, "run": run, "model": model, "strategy": strategy}
            both = ask(home, _BOTH, of)
            sides += [answer_text(dict(zip(both, row, strict=True))) for row in zip(*both.values(), strict=True)][:1]
        blocks.append(Texts(f"Item {item}", tuple(sides), f"asked: {found['prompt'][found['item_id'].index(item)]}"))
    blocks.append(_items(found, outcome, typed(_PAIRS, params), address))
    return View("Paired items", tuple(blocks), address=address.used)


def _ways(home: Home, run: str) -> list[tuple[str, str, str]]:
    """Suite, `model:strategy`, and what people read."""
    found = ask(home, _WAYS, {"run": run})
    return [
        (
            suite,
            f"{model}:{strategy}",
            f"{labels.label(labels.MODELS, model)}, {labels.strategy(strategy, family or strategy, size)}",
        )
        for suite, model, strategy, family, size, _ in zip(*found.values(), strict=True)
    ]


def paired_blocks(found: Columns, names: tuple[str, str], sql: str) -> list[Block]:
    """The four counts, and the difference with Tango's interval and McNemar's exact test."""
    counts = Counter(found["outcome"])
    gap = paired_difference(found["correct_a"], found["correct_b"])
    clear = gap.p_value < 0.05
    facts = Facts(
        (
            Fact("items in common", f"{gap.n:,}"),
            Fact(
                "A minus B, points [95%, Tango]",
                f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]",
            ),
            Fact("McNemar's exact p", f"{gap.p_value:.3g}", tone="good" if clear else "muted"),
            Fact("verdict", "they differ" if clear else "no difference seen", tone="good" if clear else "muted"),
            Fact("decided by", f"{counts['only a'] + counts['only b']:,} items that one side alone got right"),
        )
    )
    chart = Chart(
        "outcomes", "Who is right where", outcomes_figure(counts, *names), sql, "A click shows the items.", 240
    )
    return [facts, chart]


def _items(found: Columns, outcome: str, sql: str, address: Address) -> Table:
    chosen = [i for i, one in enumerate(found["outcome"]) if not outcome or one == outcome][:MOST_ITEMS]
    rows = {name: [values[i] for i in chosen] for name, values in found.items()}
    names = ("run_a", "run_b", "a", "b", "suite", "outcome")
    base = "&".join(f"{name}={address.used[name]}" for name in names if name in address.used)
    return Table(
        "items",
        f"{len(chosen):,} items" + (f": {outcome}" if outcome else ""),
        (
            Column("item_id", "item", "text", f"/paired?{base}&item={{item_id}}"),
            Column("outcome", "right"),
            Column("difficulty", "difficulty", "count"),
            Column("target", "right answer"),
            Column("answer_a", "A's answer"),
            Column("answer_b", "B's answer"),
            Column("tokens_a", "A's tokens", "count"),
            Column("tokens_b", "B's tokens", "count"),
            Column("prompt", "question"),
        ),
        rows,
        sql,
        filter=True,
        empty=formatting.MISSING,
    )
