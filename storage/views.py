"""What people ask of the tables most, as views: `SELECT * FROM leaderboard`."""

from __future__ import annotations

# The last word on each stage of each run. A window is computed over all that it is given: a view of the newest run
# alone filters `stages` first, and one of every run is filtered by `run_id = $run`, which DuckDB carries below it.
_LAST_WORD = """
        SELECT * FROM {stages}
        QUALIFY row_number() OVER (
            PARTITION BY run_id, label ORDER BY ended_at DESC NULLS LAST, started_at DESC) = 1
        ORDER BY run_id, started_at, label"""
_NEWEST_RUN = "(SELECT run_id FROM runs WHERE event = 'started' ORDER BY time DESC, run_id LIMIT 1)"
_NEWEST = _LAST_WORD.format(stages=f"(SELECT * FROM stages WHERE run_id IN {_NEWEST_RUN})")
_COSTS = """
        SELECT s.run_id, s.stage, s.label, s."group", s.status, s.key, c.run_id AS paid_by_run,
               c.* EXCLUDE (run_id, key)
        FROM (SELECT * FROM {run_stages} WHERE status IN ('ran', 'cached')
              QUALIFY row_number() OVER (PARTITION BY run_id, key ORDER BY started_at, label) = 1) s
        JOIN (SELECT key, max(run_id) AS run_id, sum(tokens)::BIGINT AS tokens,
                     sum(prompt_tokens)::BIGINT AS prompt_tokens, sum(generated_tokens)::BIGINT AS generated_tokens,
                     sum(flops) AS flops, sum(flops_6nd) AS flops_6nd, sum(seconds) AS seconds,
                     sum(cpu_seconds) AS cpu_seconds, sum(device_seconds) AS device_seconds, max(mfu) AS mfu,
                     max(peak_memory_bytes) AS peak_memory_bytes, sum(energy_joules) AS energy_joules,
                     max(energy_basis) AS energy_basis, sum(carbon_grams) AS carbon_grams,
                     sum(usd) AS usd, string_agg(DISTINCT hardware, ', ' ORDER BY hardware) AS hardware
              FROM costs GROUP BY key) c USING (key)
        ORDER BY s.started_at, s.run_id, s.label"""

# Views over views: `run_costs` and `run_leaderboard` tell of every run, `stage_costs` and `leaderboard` of the newest.
VIEWS: dict[str, str] = {
    # One row per run, newest first. A run that was killed has no end: its status stays 'running'.
    "latest_runs": """
        WITH counts AS (
            SELECT run_id, count(*) FILTER (status = 'ran') AS ran, count(*) FILTER (status = 'cached') AS cached,
                   count(*) FILTER (status = 'failed') AS failed
            FROM stages GROUP BY run_id)
        SELECT s.run_id, s.name, s.profile, coalesce(e.status, s.status) AS status, s.time AS started_at,
               e.time AS ended_at, epoch(e.time) - epoch(s.time) AS seconds, coalesce(ran, 0) AS ran,
               coalesce(cached, 0) AS cached, coalesce(failed, 0) AS failed
        FROM (SELECT * FROM runs WHERE event = 'started'
              QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY time DESC) = 1) s
        LEFT JOIN (SELECT * FROM runs WHERE event = 'ended'
                   QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY time DESC) = 1) e USING (run_id)
        LEFT JOIN counts USING (run_id)
        ORDER BY started_at DESC, run_id""",
    # The run that started last, whether it has ended or not.
    "current_run": "SELECT * FROM latest_runs ORDER BY started_at DESC, run_id LIMIT 1",
    # Last word on each stage of each run: a stage that failed and then ran has two rows in `stages`.
    "run_stages": _LAST_WORD.format(stages="stages"),
    # What each stage of each run cost when its artifact was made, by this run or by an earlier one.
    # A key that two labels share was paid for once.
    "run_costs": _COSTS.format(run_stages="run_stages"),
    # The points of all stages, those included that run now or were killed; `storage.queries` adds the live files.
    "live_metrics": "SELECT run_id, key, stage, step, name, value, time FROM metrics",
    "stage_costs": _COSTS.format(run_stages=f"({_NEWEST})"),
    # The ledger of a home: every attempt that was paid for, each once, by the run that paid. What a saved state holds
    # is part of `costs` as soon as the stage has ended.
    "ledger": """
        SELECT run_id, key, stage, label, "group", 'made' AS outcome, NULL::VARCHAR AS reason,
               * EXCLUDE (run_id, key, stage, label, "group")
        FROM costs
        UNION ALL BY NAME
        SELECT * EXCLUDE (attempt) FROM waste WHERE outcome <> 'saved' OR key NOT IN (SELECT key FROM costs)""",
    # One row per run: dollars that it paid itself, of them those that came to nothing, and those that earlier runs paid
    # for what it found in the cache.
    "cost_by_run": """
        WITH paid AS (
            SELECT run_id, sum(usd) AS usd,
                   coalesce(sum(usd) FILTER (outcome NOT IN ('made', 'saved')), 0) AS waste_usd,
                   coalesce(sum(usd) FILTER (outcome = 'saved'), 0) AS unfinished_usd, sum(flops) AS flops,
                   sum(tokens)::BIGINT AS tokens, sum(device_seconds) AS device_seconds,
                   sum(energy_joules) AS energy_joules, sum(carbon_grams) AS carbon_grams
            FROM ledger GROUP BY run_id),
        inherited AS (SELECT run_id, sum(usd) AS usd FROM run_costs WHERE paid_by_run <> run_id GROUP BY run_id)
        SELECT r.run_id, r.name, r.profile, r.status, r.started_at, r.seconds, coalesce(p.usd, 0) AS usd,
               coalesce(waste_usd, 0) AS waste_usd, coalesce(unfinished_usd, 0) AS unfinished_usd,
               coalesce(i.usd, 0) AS inherited_usd, tokens, flops, device_seconds, energy_joules, carbon_grams
        FROM latest_runs r LEFT JOIN paid p USING (run_id) LEFT JOIN inherited i USING (run_id)
        ORDER BY r.started_at DESC, r.run_id""",
    # One row per tag of a run: `[tags]` of its profile, such as team and project.
    "run_tags": """
        SELECT DISTINCT run_id, unnest(json_keys(config_json -> '$.tags')) AS tag,
               config_json -> '$.tags' ->> tag AS value
        FROM runs WHERE event = 'started' ORDER BY ALL""",
    # What each model of each run took with all that it was made from, each artifact once: `own_usd` of its own stage.
    "run_models": """
        WITH RECURSIVE made AS (
            SELECT DISTINCT run_id, label, stage, kind, key, inputs_json FROM run_stages
            WHERE status IN ('ran', 'cached')),
        needs AS (
            SELECT run_id, key, unnest(regexp_extract_all(inputs_json::VARCHAR, '[0-9a-f]{64}')) AS need FROM made),
        reach AS (
            SELECT run_id, label, key AS model, key FROM made WHERE kind IN ('checkpoint', 'reward_model')
            UNION
            SELECT r.run_id, r.label, r.model, n.need
            FROM reach r JOIN needs n ON n.run_id = r.run_id AND n.key = r.key)
        SELECT r.run_id, r.label AS model, any_value(r.model) AS key, count(c.key) AS stages,
               max(c.usd) FILTER (c.key = r.model) AS own_usd, sum(c.usd) AS usd, sum(c.tokens)::BIGINT AS tokens,
               sum(c.flops) AS flops, sum(c.energy_joules) AS energy_joules
        FROM reach r JOIN run_costs c ON c.run_id = r.run_id AND c.key = r.key
        GROUP BY r.run_id, r.label ORDER BY r.run_id, usd DESC, r.label""",
    # Accuracy with its Wilson 95% interval (Wilson 1927; z = 1.959964), per suite, model and strategy. There is none
    # where items share a prompt, as preference pairs do: they are not independent (the report's is over requests).
    "run_leaderboard": """
        WITH answered AS (
            SELECT s.run_id, suite, model, strategy, strategy_family, strategy_size, needs_verifier, greedy,
                   count(correct) AS n, count(*) FILTER (correct) AS num_correct,
                   count(DISTINCT prompt) = count(prompt) AS independent,
                   avg(score) AS score, avg(completion_tokens) AS tokens_per_item, avg(e.seconds) AS seconds_per_item
            FROM (SELECT DISTINCT run_id, key FROM run_stages WHERE status <> 'failed') s JOIN evals e USING (key)
            GROUP BY ALL),
        wilson AS (
            SELECT *, num_correct / nullif(n, 0) AS p, 1.959963984540054 AS z, 1 + z * z / nullif(n, 0) AS scale,
                   (p + z * z / (2 * nullif(n, 0))) / scale AS middle,
                   z * sqrt(p * (1 - p) / nullif(n, 0) + z * z / (4 * nullif(n, 0) ** 2)) / scale AS half
            FROM answered)
        SELECT run_id, suite, model, strategy, strategy_family, strategy_size, needs_verifier, greedy, n, p AS accuracy,
               if(n > 0 AND independent, greatest(0, middle - half), NULL) AS low,
               if(n > 0 AND independent, least(1, middle + half), NULL) AS high,
               score, tokens_per_item, seconds_per_item
        FROM wilson ORDER BY suite, accuracy DESC, tokens_per_item, model, strategy, run_id""",
    "leaderboard": "SELECT * FROM run_leaderboard WHERE run_id IN (SELECT run_id FROM current_run)",
    # The last word on each claim for each seed; lives that share settings and code differ in the seed alone. A later
    # run of a part of the life does not unsay what a whole one measured.
    "verdicts": """
        SELECT claim, profile, settings, code, seed, time::DATE AS date, verdict, value, low, high, n, unit, side,
               margin, title, numbers, run_id
        FROM claims
        QUALIFY row_number() OVER (PARTITION BY claim, settings, code, seed
                                   ORDER BY verdict = 'not measured', time DESC, run_id DESC) = 1
        ORDER BY claim, profile, settings, code, seed""",
    # Every forecast that was scored, once; error: observed - predicted, nats; interval_score: Gneiting and Raftery
    # 2007, eq. 43, at 95%; standardised_error: in the standard deviations that a normal 95% interval claims.
    "forecast_scores": """
        SELECT sweep, target, coalesce(method, 'law') AS method, num_params, tokens, extrapolation,
               predicted, low, high, observed, observed - predicted AS error,
               observed / predicted - 1 AS relative_error,
               observed BETWEEN low AND high AS inside,
               high - low + 40 * (greatest(low - observed, 0) + greatest(observed - high, 0)) AS interval_score,
               (observed - predicted) / nullif((high - low) / 3.92, 0) AS standardised_error, made_at, scored_at,
               run_id, key
        FROM forecasts WHERE observed IS NOT NULL AND predicted IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY key, sweep, target, method ORDER BY scored_at, run_id) = 1
        ORDER BY scored_at, sweep, target, method""",
    # Metrics of the newest run's alignment and reasoning stages that tell of reward and its price, long form.
    "reward_curves": """
        SELECT s.run_id, s.label, s.stage, s.key, m.step, m.name, m.value
        FROM (SELECT * FROM run_stages WHERE run_id IN (SELECT run_id FROM current_run)) s JOIN metrics m USING (key)
        WHERE regexp_matches(lower(m.name), '(^|[._/ ])(reward|score|gold|proxy|kl|margin|exact_match|accuracy)')
          AND s."group" IN ('rlhf', 'reasoning')
        ORDER BY s.label, m.name, m.step, m.time""",
    # One row per run, with the numbers that people compare runs by; null where the run has none. The best accuracy is
    # that of a strategy that asks no verifier, with Wilson's 95% interval; gold that of the best aligned policy.
    "run_summary": """
        WITH made AS (
            SELECT DISTINCT run_id, key FROM stages WHERE status IN ('ran', 'cached')),
        spent AS (
            SELECT run_id, sum(usd) AS usd, sum(energy_joules) AS energy_joules
            FROM made JOIN (SELECT key, sum(usd) AS usd, sum(energy_joules) AS energy_joules FROM costs GROUP BY key)
                 USING (key) GROUP BY run_id),
        answered AS (
            SELECT key, suite, model, strategy, count(correct) AS n, count(*) FILTER (correct) AS num_correct,
                   avg(completion_tokens) AS tokens
            FROM evals WHERE NOT coalesce(needs_verifier, false) AND strategy_family IS NOT NULL GROUP BY ALL),
        best AS (
            SELECT run_id, unnest(arg_max(a, (num_correct / n, -tokens)))
            FROM made JOIN answered a USING (key) WHERE n > 0 GROUP BY run_id),
        graded AS (
            SELECT run_id, suite, model, strategy, n, num_correct / n AS p, 1.959964 ** 2 AS zz,
                   (p + zz / (2 * n)) / (1 + zz / n) AS middle,
                   1.959964 * sqrt(p * (1 - p) / n + zz / (4 * n ** 2)) / (1 + zz / n) AS half
            FROM best),
        found AS (
            SELECT run_id, stage, label, json_extract_string(facts_json,
                ['$.loss', '$.gold', '$.gold_low', '$.gold_high', '$.alarm']) AS f
            FROM stages WHERE status IN ('ran', 'cached') AND stage IN ('pretrain', 'ppo', 'dpo', 'grpo')),
        told AS (
            SELECT run_id, max(f[1]::DOUBLE) FILTER (stage = 'pretrain' AND label = stage) AS held_out_loss,
                   arg_max({'v': f[2]::DOUBLE, 'l': f[3]::DOUBLE, 'h': f[4]::DOUBLE, 'p': label}, f[2]::DOUBLE)
                       FILTER (f[2] IS NOT NULL AND stage <> 'pretrain') AS gold,
                   count(*) FILTER (f[5] = 'true') AS alarms
            FROM found GROUP BY run_id),
        foretold AS (
            SELECT made.run_id, arg_max(predicted - observed, (num_params, tokens)) AS error
            FROM made JOIN forecasts f USING (key)
            WHERE method = 'law' AND isfinite(observed) GROUP BY made.run_id),
        said AS (
            SELECT run_id, count(*) FILTER (verdict IN ('held', 'seen')) AS seen,
                   count(*) FILTER (verdict LIKE 'not seen%' OR verdict = 'not identified') AS not_seen
            FROM claims GROUP BY run_id)
        SELECT r.run_id, r.name, r.profile, r.status, r.started_at, r.seconds, spent.usd, spent.energy_joules,
               told.held_out_loss, g.p AS accuracy, greatest(0, g.middle - g.half) AS accuracy_low,
               least(1, g.middle + g.half) AS accuracy_high, g.n AS accuracy_n, g.suite, g.model, g.strategy,
               told.gold.v AS gold, told.gold.l AS gold_low, told.gold.h AS gold_high, told.gold.p AS gold_policy,
               foretold.error AS forecast_error, coalesce(told.alarms, 0) AS alarms, coalesce(said.seen, 0) AS seen,
               coalesce(said.not_seen, 0) AS not_seen, r.ran, r.cached, r.failed
        FROM latest_runs r LEFT JOIN spent USING (run_id) LEFT JOIN graded g USING (run_id)
        LEFT JOIN told USING (run_id) LEFT JOIN foretold USING (run_id) LEFT JOIN said USING (run_id)
        ORDER BY r.started_at DESC, r.run_id""",
    # One item that two (run, model, strategy) have answered, with which of them was right. Filter both sides: without
    # that there is a row for every two strategies of every two runs.
    "paired_items": """
        WITH answers AS (
            SELECT s.run_id, e.key, suite, model, strategy, item_id, difficulty, prompt, target, answer, correct,
                   completion_tokens
            FROM (SELECT DISTINCT run_id, key FROM stages WHERE status IN ('ran', 'cached')) s JOIN evals e USING (key)
            WHERE correct IS NOT NULL)
        SELECT a.run_id AS run_a, a.model AS model_a, a.strategy AS strategy_a, b.run_id AS run_b, b.model AS model_b,
               b.strategy AS strategy_b, a.suite, a.item_id, a.difficulty, a.prompt, a.target, a.answer AS answer_a,
               b.answer AS answer_b, a.correct AS correct_a, b.correct AS correct_b,
               CASE WHEN a.correct AND b.correct THEN 'both' WHEN a.correct THEN 'only a' WHEN b.correct THEN 'only b'
                    ELSE 'neither' END AS outcome,
               a.completion_tokens AS tokens_a, b.completion_tokens AS tokens_b, a.key AS key_a, b.key AS key_b
        FROM answers a JOIN answers b ON a.suite = b.suite AND a.item_id = b.item_id
        ORDER BY a.suite, a.item_id, a.run_id, a.model, a.strategy, b.run_id, b.model, b.strategy, a.key, b.key""",
}
