"""What each column means, and `docs/tables.md`, which is made from it: `python -m storage.reference`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from storage.layout import sql_type
from storage.tables import SCHEMAS
from storage.views import VIEWS

_RUN = "the run that produced the row"
_KEY = "the artifact that it belongs to: join `stages USING (key)`"
_STAGE = "name of the stage's function"

_SPENT = """group: part of the life, as in `stages`
        tokens: that it processed: trained on, read and generated
        flops: floating-point operations, exact: every matrix product, and causal attention
        seconds: wall clock
        cpu_seconds: processor time of all threads
        energy_joules: with the data centre's overhead (compute.pue); null: neither measured nor modelled
        usd: US dollars, device_seconds × compute.usd_per_core_hour
        hardware: name in `hardware`
        label: of the stage, as in `stages`
        ended_at: when it was booked
        prompt_tokens: of `tokens`, those that an answering model read
        generated_tokens: of `tokens`, those that an answering model sampled
        flops_6nd: by 6ND for training and 2ND for a forward pass, N the parameters a token uses with embeddings
        device_seconds: that are paid for: cpu_seconds on a CPU, seconds on an accelerator
        mfu: flops over device_seconds at the dense peak of the hardware
        peak_memory_bytes: resident on a CPU, allocated on an accelerator
        energy_basis: measured (by which meter) or modelled (from which figures, and why there is no meter)
        carbon_grams: of CO2 equivalents, at compute.carbon_grams_per_kwh"""
# What one row is, then one line per column: name, meaning. Words with | between are the values that it takes.
_TEXT: Mapping[str, tuple[str, str]] = {
    "runs": ("the beginning or the end of a run", """
        run_id: begins with the time at which the run began, UTC
        event: started | ended
        status: running | completed | waiting | failed | interrupted
        name: of the profile
        profile: what `lifespan run` was given
        time: of the event
        config_json: the settings, at the beginning
        host_json: machine and versions, at the beginning"""),
    "stages": ("what a run did with one stage; a stage that failed and then ran has two", """
        run_id: the run; it may have found the artifact in the cache
        stage: name of the stage's function
        label: unique in the run: `ppo[kl_coef=0.1]`
        key: the artifact, 64 hex digits
        kind: of artifact: checkpoint, eval_report, …
        status: ran | cached | waiting | failed
        reason: why it failed, or waits
        started_at: when a worker began with it, the last attempt alone
        ended_at: end
        seconds: wall clock that this run spent, waiting for a worker left out
        facts_json: what the stage found out
        config_json: the settings that bear its identity
        inputs_json: keys of its inputs, by name
        group: part of the life: data | pretraining | sft | rlhf | scaling | emergence | moe | architecture | \
reasoning | cost | report"""),
    "metrics": ("one value of one metric at one step", f"""
        run_id: {_RUN}
        key: {_KEY}
        stage: {_STAGE}
        step: of the stage's loop
        name: of the metric
        value: losses in nats per token, rates per second, shares from 0 to 1
        time: when it was logged"""),
    "costs": ("what it took to make one artifact, killed attempts included as far as a state was saved", f"""
        run_id: {_RUN}
        key: {_KEY}
        stage: {_STAGE}
        {_SPENT}"""),
    "waste": ("an attempt at a stage that made nothing, or whose artifact had to be made again", f"""
        run_id: {_RUN}
        key: of the artifact that the stage was to make
        stage: {_STAGE}
        {_SPENT}
        attempt: from 1 on, of the stage in the run
        outcome: failed | killed | interrupted | waiting (for people) | repeated (its artifact was \
damaged or removed) | saved (what the state \
of a stage that has not ended holds; it becomes part of `costs` with the stage's end)
        reason: the error"""),
    "evals": ("one item, answered by one model with one strategy", f"""
        run_id: {_RUN}
        key: {_KEY}
        stage: {_STAGE}
        suite: chains | puzzles | …
        model: what the life calls the model: base | sft | grpo | …
        strategy: how it was answered: direct | cot | self_consistency@8 | …; of preference pairs: their source
        strategy_family: what a strategy's sizes have in common: direct | cot | self_consistency | best_of | …; \
null where the items are not questions to a reasoning strategy
        strategy_size: samples per item; null where no fixed number is drawn
        needs_verifier: whether the strategy asks what is right while it answers
        greedy: whether it answers once, without sampling
        item_id: the same for every model and strategy, so that answers can be paired
        difficulty: of the item: operations in a chain
        prompt: the question
        answer: what was read from the answer
        target: what is right
        correct: null where nothing can be graded
        score: from 0 to 1 where there is more than right and wrong
        prompt_tokens: of all its calls
        completion_tokens: of all its calls
        seconds: of the item's share of its batch
        details_json: the strategy's own"""),
    "samples": ("one text that a model wrote while it was trained or evaluated", f"""
        run_id: {_RUN}
        key: {_KEY}
        stage: {_STAGE}
        step: of the stage's loop
        prompt: the request
        completion: the text
        scores_json: by name: proxy, gold, …
        tokens: of the completion
        model: of an evaluation: digest of the model, or address and name
        sample: of an evaluation: number of the sample among those of its prompt, parameters and seed
        seed: with which it was drawn; null where nothing is drawn
        status: of an evaluation: "" where there is a text, failed or refused where there is none
        prompt_tokens: as billed: 0 where another sample of the same request paid for the prompt
        seconds: that its request took"""),
    "trees": ("one step of a strategy of several requests", f"""
        run_id: {_RUN}
        key: {_KEY}
        stage: {_STAGE}
        strategy: as in `evals`
        item_id: as in `evals`
        node: number of the step among those of the item
        parent: node from which it went on; null for a root
        depth: steps from its root
        kind: sample | chain | answer | critique | part | program | value | thought | turn
        text: what the model said
        value: as the strategy valued it; null where it did not
        tokens: generated for it
        status: chosen | pruned | expanded | answer | … as the strategy left it"""),
    "preferences": ("one pair of answers and which is better", f"""
        run_id: {_RUN}
        key: {_KEY}
        pair_id: unique in the artifact
        prompt: the request
        chosen: the better answer
        rejected: the other
        annotator: who said so
        gold_margin: gold score of chosen less rejected, in standard deviations
        agrees_with_gold: whether the annotator chose what the gold score would
        details_json: the annotator's own
        source: gold | people | model | file | …
        confidence: the annotator's, from 0 to 1"""),
    "judgements": ("one person's word on one item", """
        batch: in the facts of the stage `sample_answers`
        item_id: of the batch
        annotator: who
        submitted_at: when
        prompt: the request
        answers_json: the answers
        order_json: in which order they were shown
        ranks_json: by answer, 1 is best; null where the item was skipped
        skipped: whether the annotator passed it over
        superseded: the same annotator judged the item again later
        confidence: as the annotator gave it
        comment: the annotator's
        seconds: from showing to sending
        instructions_version: of the instructions that were read
        instructions_sha256: of their text"""),
    "funnel": ("what a step of data preparation left of a source, or why it removed some of it", f"""
        run_id: {_RUN}
        key: {_KEY}
        source: data source
        position: of the step, from 0 (read)
        step: its name
        documents: documents (passages of plain texts) that it left; null in rows with a reason
        bytes: UTF-8 bytes that it left
        changed: documents that stayed in another form, as repaired ones
        reason: why some went; null in the row of what was left
        removed: how many went for that reason"""),
    "removals": ("an example of what a step removed: up to 20 of each source, step and reason", f"""
        run_id: {_RUN}
        key: {_KEY}
        source: data source
        document_id: of the whole text, and behind a dash the number of the passage
        origin: source, file and record from which it was read
        step: of data preparation, as in `funnel`
        reason: why it went
        detail: what was found, as the words of an evaluation item
        excerpt: its beginning, personal data masked"""),
    "documents": ("a document that stayed: a random sample of up to 100 of each source", f"""
        run_id: {_RUN}
        key: {_KEY}
        source: data source
        document_id: of the whole text, and behind a dash the number of the passage
        origin: source, file and record from which it was read
        split: train | valid
        language: ISO 639-1 as detected; empty for generated text
        language_score: its probability, the mean over windows of the text
        chars: length in characters
        excerpt: its beginning, personal data masked"""),
    "quarantine": ("one record of the data that was left out", f"""
        run_id: {_RUN}
        key: {_KEY}
        source: name in the profile
        file: where it stood
        line: from 1
        reason: why it was left out
        excerpt: how it begins"""),
    "scaling_points": ("one measured model of a sweep, at one number of tokens", f"""
        run_id: {_RUN}
        key: {_KEY}
        sweep: dense | ladder | emergence | moe | moe_text | architecture
        variant: of the sweep
        seed: of the run
        num_params: parameters
        num_params_kind: which of them: non_embedding | total | active
        tokens: that it was trained on
        flops: of its training
        loss: nats per token, held out
        details_json: the sweep's own"""),
    "routing": ("how much of one source's text one expert of one layer takes", f"""
        run_id: {_RUN}
        key: {_KEY}
        variant: of the experts
        seed: of the run
        layer: from 0
        expert: from 0
        source: of the text
        assignments: tokens × chosen experts that were counted
        share: of the source's assignments in that layer
        windows: of held-out text"""),
    "scaling_fits": ("one parameter of one fitted law", f"""
        run_id: {_RUN}; `scale-NAME` for a fit that `lifespan scale fit --save NAME` kept
        key: {_KEY}; of such a fit its SHA-256
        sweep: as in `scaling_points`; of such a fit its NAME
        law: chinchilla | kaplan | truth | tied | gamma | isoflop | envelope | …
        parameter: its symbol
        value: estimate
        low: of the 95% interval
        high: of the 95% interval
        n: points that were fitted
        method: how"""),
    "forecasts": ("what was forecast before it was measured: a loss, or what a run will cost", f"""
        run_id: {_RUN}
        key: {_KEY}; of costs the run's id
        sweep: as in `scaling_points`; of costs: cost
        target: what is forecast; of costs: usd of LABEL | usd of the run | hours of the run
        method: law | as the largest run | line through the last two; of costs: past | alike | stated | sum
        num_params: of the model
        tokens: that it will be trained on
        extrapolation: its compute (6ND) over that of the largest fitted run
        predicted: nats per token; of costs US dollars or hours
        low: of the 95% interval
        high: of the 95% interval
        observed: what came out
        made_at: when the forecast was sealed
        scored_at: when it was held against what came out"""),
    "forgetting": ("how well one checkpoint of the life does one evaluation", f"""
        run_id: {_RUN}
        key: {_KEY}
        checkpoint: label of the stage that made it
        position: in the order of training, from 0
        before: label of the checkpoint that it began from
        evaluation: source of text, or task
        unit: bits_per_byte | accuracy
        value: in that unit
        low: of the 95% interval
        high: of the 95% interval
        n: windows or items
        change: against the checkpoint at position 0, paired
        change_low: of the 95% interval
        change_high: of the 95% interval"""),
    "claims": ("one claim that one run's report put on trial, about this one training", """
        run_id: the run
        claim: short name, the same in every run
        title: what is claimed
        verdict: by its interval: held, seen, not seen, not identified, measured, not measured
        seed: of the training
        profile: what `lifespan run` was given
        settings: digest of the settings without seed and compute: runs that share it are replications
        code: digest of the code that made the run's artifacts
        value: in `unit`
        low: of the 95% interval within this training
        high: of the 95% interval within this training
        n: items, requests or windows that the interval is over
        unit: points (a share; 0.01 is one point) | nats | bits | SFT sd | share
        side: what the interval must do for "seen" or "held": above | below | covers the margin
        margin: what it is held against, in `unit`
        numbers: both sides of the comparison in words
        time: when the report was written"""),
    "hardware": ("one device", """
        name: which `prices` and `costs` refer to
        kind: cpu | gpu | tpu
        peak_flops: dense FLOP/s in bf16, on a CPU in fp32
        fp8_flops: dense FLOP/s; null: it has no such units
        fp4_flops: dense FLOP/s; null: it has no such units
        memory_bandwidth: bytes/s
        memory_bytes: of one device
        memory_type: HBM3 | GDDR6 | DDR5-4800 | …
        interconnect: what connects devices, as NVLink 4
        interconnect_bandwidth: bytes/s of one device, both directions together
        power_watts: rated maximum; null: not published
        source: of the figures
        date: of the oldest source, ISO 8601"""),
    "prices": ("one price of one device", """
        hardware: name in `hardware`
        usd_per_hour: US dollars
        provider: who asks it
        date: when it was asked, ISO 8601
        source: where
        commitment: on demand | reserved | spot
        region: the provider's name of it
        usd_low: US dollars, lower end of what is asked where the source gives a range
        usd_high: US dollars, upper end
        origin: catalogue | imported"""),
    "api_prices": ("one price of one hosted model", """
        model: as the provider's client names it
        provider: who asks it
        usd_per_million_input: US dollars for a million tokens read
        usd_per_million_output: US dollars for a million tokens generated
        usd_per_million_cached: US dollars for a million tokens read from the provider's cache; null: not offered
        date: when it was asked, ISO 8601
        source: the file"""),
}  # fmt: skip

LAST_VALUES = """\
SELECT run_id, key, stage, name, max(step) AS step, arg_max_null(value, step) AS value,
       arg_max_null(time, step) AS time, count(*) AS n
FROM metrics GROUP BY run_id, key, stage, name"""


def about(table: str) -> str:
    """What one row of a table is."""
    return _TEXT[table][0] if table in _TEXT else ""


def meanings(table: str) -> dict[str, str]:
    """What each column of a table means; columns that nobody has described are not in it."""
    lines = textwrap.dedent(_TEXT.get(table, ("", ""))[1]).strip().splitlines()
    return {name: meaning for name, _, meaning in (line.partition(": ") for line in lines) if name}


_HEAD = """\
# The tables

This file is made by `python -m storage.reference`; a test holds it against the code.

Everything that a run measures is a row of a table, and every table is a folder of Parquet files that any reader of
Parquet opens without Lifespan: DuckDB, pandas, polars, Spark, a BI tool. With Lifespan, `lifespan query`,
`lifespan sql` and `storage.queries.query` ask the same rows in SQL (DuckDB's dialect), with the views below.

## Files

```
$LIFESPAN_HOME/tables/          or s3://…/tables/ where LIFESPAN_HOME is an address
    metrics/
        4c1f…e0.parquet         one part: the rows of one producer (an artifact's key, or an event of a run)
        compacted-000003.parquet   parts that `lifespan compact` merged, sorted
    stages/ …
    .last/                      derived from metrics by `compact`; may be deleted
```

- A file appears whole, by a rename; names that begin with a dot are unfinished or derived. Files are never changed,
  only replaced: a producer that writes again replaces its part.
- Strings in UTF-8, times as microseconds in UTC (`isAdjustedToUTC`), zstd, statistics in every row group. Every file
  has one more column than the table: `part`, the producer, which is the part's file name.
- `metrics` is sorted by name, run_id, key, step when compacted, the other tables by run_id, key.
- A column that was added after a file was written is absent in it, and null for its rows.
- `*_json` columns hold JSON text; NaN and infinities are null in it. In `value` columns they are numbers.

**Which rows count.** After `lifespan compact`, with no run going on, a folder holds one file and all of its rows count.
At any other moment: of several `compacted-N` files the highest N counts, and of its rows those whose `part` has no file
of its own. As SQL over any folder, at any moment:

```sql
{rule}
```

From Spark, or from pandas without DuckDB, run `lifespan compact` first:

```python
pandas.read_parquet(".lifespan/tables/metrics").drop(columns="part")
spark.read.parquet(".lifespan/tables/metrics").drop("part")
```

From Python with Lifespan:

```python
from storage.home import Home
from storage.queries import Limits, query

home = Home(".lifespan")
query(home, "SELECT * FROM leaderboard")                          # pyarrow.Table
query(home, "FROM metrics WHERE name = $n", {{"n": "loss"}}, as_="pandas")
query(home, "FROM costs", as_="polars", limits=Limits(seconds=10))   # polars is no dependency: pip install polars
```

A query is one statement that only reads; it sees the tables and views, no file, no network, no settings. The rows of
one run: join `stages USING (key)`, for a stage that a run found in the cache keeps its rows under the run that made it.
"""

RULE = """\
WITH files AS (SELECT *, parse_filename(filename, true) AS file
               FROM read_parquet('metrics/*.parquet', union_by_name = true, filename = true)),
     parts AS (SELECT parse_filename(file, true) AS file FROM glob('metrics/*.parquet'))
SELECT * EXCLUDE (part, filename, file) FROM files
WHERE file = part
   OR (file = (SELECT max(file) FROM parts WHERE file LIKE 'compacted-%') AND part NOT IN (FROM parts))"""


def render() -> str:
    """`docs/tables.md`."""
    blocks = [_HEAD.format(rule=RULE).strip(), "## Tables"]
    for table, schema in SCHEMAS.items():
        known = meanings(table)
        lines = [f"### {table}", "", f"One row: {about(table) or 'not described yet'}.", ""]
        lines += ["| column | type | null | meaning |", "|---|---|---|---|"]
        for field in schema:
            kind = sql_type(field.type).replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")
            null = "yes" if field.nullable else ""
            meaning = known.get(field.name, "").replace("|", "\\|")
            lines.append(f"| {field.name} | {kind} | {null} | {meaning} |")
        blocks.append("\n".join(lines))
    blocks.append("## Views\n\nEach is a SELECT over the tables, so any other DuckDB can have it too.")
    for name, sql in {"last_values": LAST_VALUES, **VIEWS}.items():
        blocks.append(f"### {name}\n\n```sql\n{textwrap.dedent(sql).strip()}\n```")
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "docs" / "tables.md"
    target.write_text(render(), encoding="utf-8")
    print(target)
