"""Alignment: what policies are paid with and what is truly wanted, over the distance that they went for it."""

from __future__ import annotations

import json

from dashboards import formatting
from dashboards.app.address import Address, link
from dashboards.app.figures.alignment import policies_figure
from dashboards.app.outside import Outside
from dashboards.app.pages.choice import chosen_run
from dashboards.app.rows import Columns, ask, life, typed
from dashboards.app.view import Block, Chart, Column, Control, Controls, Note, Table, Text, Texts, View, missing
from dashboards.facts.alignment import AlignmentFacts, PolicyFacts, alignment_facts
from dashboards.facts.effects import Missing
from storage.home import Home

_CURVES = """
        SELECT s.label, m.step, m.name, m.value FROM run_stages s JOIN metrics m USING (key)
        WHERE s.run_id = $run AND m.name IN ('objective/kl', 'objective/score', 'gold', 'gold_low', 'gold_high')
        ORDER BY s.label, m.step, m.name"""
_SAMPLES = """
        SELECT s.step, s.prompt, s.completion, s.scores_json FROM samples s
        WHERE s.key IN (SELECT key FROM stages WHERE run_id = $run AND label = $label) ORDER BY step, prompt"""
MOST_PROMPTS = 6


def alignment_page(home: Home, address: Address, outside: Outside) -> View:
    """Proxy and gold on one scale; an iteration can be scrubbed to, with texts before and after."""
    run, control = chosen_run(home, address)
    if run is None:
        return missing("Alignment", f"No run yet in {home.shown}.", ("Runs", "/"))
    facts = alignment_facts(life(home, run))
    if isinstance(facts, Missing):
        return View("Alignment", (Controls((control,)), Note(facts.reason, "muted")), address=address.used)
    drawn = [policy for policy in facts.policies if policy.kl_curve]
    labels = [policy.label for policy in drawn]
    blocks: list[Block] = []
    if drawn:
        chosen = next(p for p in drawn if p.label == address.text("policy", labels[0], labels))
        steps = chosen.kl_curve.steps
        wished = address.number("at", steps[-1], steps[0], steps[-1])
        at = min(steps, key=lambda step: abs(step - wished))
        blocks.append(
            Controls(
                (
                    control,
                    Control("policy", "policy", "select", chosen.label, tuple((p.label, p.name) for p in drawn)),
                    Control("at", "iteration", "range", at, low=steps[0], high=steps[-1], step=1, format="count"),
                )
            )
        )
        note = "Hollow: what the policy is paid with. Filled: what is truly wanted. A cross: the alarm."
        blocks.append(
            Chart(
                "policies",
                "Proxy and gold over KL",
                policies_figure(drawn, facts.units, at),
                typed(_CURVES, {"run": run}),
                note,
                440,
            )
        )
        blocks += _texts(home, run, chosen, at)
    else:
        blocks = [
            Controls((control,)),
            Note("No policy of this run has written its distance from where it began.", "muted"),
        ]
    blocks.append(_policies(facts, run))
    return View("Alignment", tuple(blocks), address=address.used, links=(("Its curves", link("/training", run=run)),))


def _texts(home: Home, run: str, policy: PolicyFacts, at: int) -> list[Block]:
    params = {"run": run, "label": policy.label}
    found = ask(home, _SAMPLES, params)
    steps = sorted({step for step in found["step"] if step is not None})
    if not steps:
        return [Note("This policy has kept no texts of its way.", "muted")]
    first, now = steps[0], min(steps, key=lambda step: abs(step - at))
    items = []
    prompts = list(dict.fromkeys(p for p, step in zip(found["prompt"], found["step"], strict=True) if step == now))[
        :MOST_PROMPTS
    ]
    for prompt in prompts:
        for step in dict.fromkeys((first, now)):
            for one, text, scores in _at(found, step, prompt)[:1]:
                items.append(Text(f"iteration {one}", text, prompt, scores))
    return [
        Texts(
            f"Texts of {policy.name}: iteration {first} and {now}",
            tuple(items),
            "Texts are kept at some iterations; the nearest is shown.",
        )
    ]


def _at(found: Columns, step: int, prompt: str) -> list[tuple[int, str, str]]:
    rows = zip(found["step"], found["prompt"], found["completion"], found["scores_json"], strict=True)
    return [
        (
            at,
            text or "",
            ", ".join(
                f"{name} {value:.2f}" for name, value in json.loads(scores or "{}").items() if isinstance(value, float)
            ),
        )
        for at, asked, text, scores in rows
        if at == step and asked == prompt
    ]


def _policies(facts: AlignmentFacts, run: str) -> Table:
    shown = facts.policies
    interval = {"proxy": [p.proxy for p in shown], "gold": [p.gold for p in shown]}
    return Table(
        "table",
        f"Policies, in {facts.units}",
        (
            Column("name", "policy", "text", f"/run?run={run}&stage={{label}}"),
            Column("proxy", "proxy", "number", low="proxy_low", high="proxy_high"),
            Column("gold", "gold", "number", low="gold_low", high="gold_high"),
            Column("kl", "KL", "number"),
            Column("alarm", "alarm", "verdict"),
            Column("reason", "why"),
        ),
        {
            "name": [p.name for p in shown],
            "label": [p.label for p in shown],
            **{
                f"{name}{end}": [None if x is None else getattr(x, part) for x in values]
                for name, values in interval.items()
                for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))
            },
            "kl": [p.kl for p in shown],
            "alarm": ["alarm" if p.alarm else "" if p.alarm is None else "quiet" for p in shown],
            "reason": [p.alarm_reason or formatting.MISSING for p in shown],
        },
        note="What a finished policy earns over the model that it began as, on held-out requests, with 95% intervals.",
    )
