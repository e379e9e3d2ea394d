-- Which way of thinking is best when none may cost more than a budget? Of each family the dearest that fits.
-- @usd float = 1: dollars per million items, prompts included, at the run's own prices
-- @run run = newest: a run, or the beginning of its id
-- @suite text = null: only this suite
WITH kept AS (SELECT * FROM run_stages WHERE run_id = $run AND status <> 'failed'),
price AS (
    SELECT max((facts_json ->> 'price_per_million_input_tokens')::DOUBLE) AS input,
           max((facts_json ->> 'price_per_million_output_tokens')::DOUBLE) AS output
    FROM kept WHERE stage = 'account_costs'),
answered AS (
    SELECT suite, model, strategy, avg(prompt_tokens) AS read, avg(completion_tokens) AS generated
    FROM evals WHERE key IN (SELECT key FROM kept) GROUP BY ALL),
priced AS (
    SELECT l.*, a.read * price.input + a.generated * price.output AS usd_per_million
    FROM run_leaderboard l JOIN answered a USING (suite, model, strategy), price WHERE l.run_id = $run)
SELECT suite, model, coalesce(strategy_family, strategy) AS family, strategy, n, accuracy, low, high, usd_per_million
FROM priced
WHERE usd_per_million <= $usd AND ($suite IS NULL OR suite = $suite)
QUALIFY row_number() OVER (PARTITION BY suite, model, family ORDER BY usd_per_million DESC, strategy) = 1
ORDER BY suite, accuracy DESC, usd_per_million, model, family
