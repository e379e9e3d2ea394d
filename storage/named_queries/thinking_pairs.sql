-- Which models of the home answered with which strategies, how well, and what does a question and the model itself cost?
-- @suite text = null: an evaluation set; by default our own chains
WITH priced AS (
    SELECT run_id, (facts_json ->> 'price_per_million_input_tokens')::DOUBLE AS input,
           (facts_json ->> 'price_per_million_output_tokens')::DOUBLE AS output
    FROM run_stages WHERE stage = 'account_costs' AND status IN ('ran', 'cached')),
evaluated AS (
    SELECT run_id, key, label, inputs_json FROM run_stages
    WHERE "group" = 'reasoning' AND status IN ('ran', 'cached')
    QUALIFY row_number() OVER (PARTITION BY key ORDER BY started_at, run_id) = 1),
answered AS (
    SELECT s.run_id, any_value(s.inputs_json) AS inputs_json, e.model, e.strategy,
           any_value(e.needs_verifier) AS needs_verifier,
           count(e.correct) AS n, count(*) FILTER (e.correct) AS num_correct, avg(e.prompt_tokens) AS prompt_tokens,
           avg(e.completion_tokens) AS completion_tokens
    FROM evaluated s JOIN evals e USING (key)
    WHERE e.suite = coalesce($suite, 'chains') GROUP BY s.run_id, e.model, e.strategy HAVING count(e.correct) > 0)
SELECT a.run_id, a.model, a.strategy, a.needs_verifier, a.n, a.num_correct, a.prompt_tokens, a.completion_tokens,
       (a.prompt_tokens * p.input + a.completion_tokens * p.output) / 1e6 AS usd_per_question,
       (SELECT min(m.usd) FROM run_models m
        WHERE m.run_id = a.run_id AND contains(a.inputs_json::VARCHAR, m.key)) AS training_usd
FROM answered a JOIN priced p USING (run_id)
ORDER BY a.run_id, a.model, a.strategy
