-- What does accuracy cost when it is served: dollars per thousand questions against accuracy, and what is on the frontier?
-- @run run = newest: a run, or the beginning of its id
-- @suite text = null: only this suite
WITH kept AS (SELECT * FROM run_stages WHERE run_id = $run AND status <> 'failed'),
price AS (
    SELECT max((facts_json ->> 'price_per_million_input_tokens')::DOUBLE) AS input,
           max((facts_json ->> 'price_per_million_output_tokens')::DOUBLE) AS output
    FROM kept WHERE stage = 'account_costs'),
answered AS (
    SELECT e.suite, e.model, e.strategy, count(e.correct) AS n, avg(e.correct::INT) AS accuracy,
           avg(e.prompt_tokens) AS prompt_tokens, avg(e.completion_tokens) AS completion_tokens
    FROM evals e WHERE e.key IN (SELECT key FROM kept) AND ($suite IS NULL OR e.suite = $suite) GROUP BY ALL),
priced AS (
    SELECT a.*, (a.prompt_tokens * price.input + a.completion_tokens * price.output) / 1e3 AS usd_per_thousand
    FROM answered a, price)
SELECT suite, model, strategy, n, accuracy, prompt_tokens, completion_tokens, usd_per_thousand,
       -- On the frontier: nothing in the suite that costs no more is more accurate.
       accuracy >= max(accuracy) OVER (PARTITION BY suite ORDER BY usd_per_thousand) AS on_frontier
FROM priced ORDER BY suite, usd_per_thousand, accuracy DESC, model, strategy
