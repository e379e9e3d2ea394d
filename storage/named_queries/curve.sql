-- How did one metric of one run go, step by step?
-- @metric text = loss: name of the metric, as in metrics.name
-- @run run = newest: a run, or the beginning of its id
-- @stage text = null: only in this stage
WITH made AS (SELECT key, min(label) AS label FROM run_stages WHERE run_id = $run AND status <> 'failed' GROUP BY key),
     -- The run that made the artifact, which may be an earlier one: the table is sorted by it.
     makers AS (SELECT DISTINCT run_id FROM last_values WHERE key IN (SELECT key FROM made))
SELECT label, m.step, m.value, m.time
FROM metrics m JOIN made USING (key)
WHERE m.name = $metric AND m.run_id IN (SELECT run_id FROM makers) AND ($stage IS NULL OR m.stage = $stage)
ORDER BY label, m.step, m.time
