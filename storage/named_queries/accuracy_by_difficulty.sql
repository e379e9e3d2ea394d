-- Where does each strategy break down: accuracy by the difficulty of the item?
-- @run run = newest: a run, or the beginning of its id
-- @suite text = null: only this suite
SELECT e.suite, e.model, e.strategy, e.difficulty, count(e.correct) AS n, avg(e.correct::INT) AS accuracy,
       avg(e.completion_tokens) AS tokens_per_item
FROM evals e
WHERE e.key IN (SELECT key FROM run_stages WHERE run_id = $run AND status <> 'failed')
  AND ($suite IS NULL OR e.suite = $suite)
GROUP BY ALL ORDER BY e.suite, e.model, e.strategy, e.difficulty
