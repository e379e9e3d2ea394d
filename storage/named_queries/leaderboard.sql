-- In which runs does a metric end best? Its last value in every run, best first.
-- @metric text = loss: name of the metric, as in metrics.name
-- @best low|high = low: which end of the scale is the good one
-- @stage text = null: only in this stage
-- @limit int = 20: how many
SELECT s.run_id, s.label, v.value, v.step, v.n AS points, v.time
FROM last_values v JOIN (SELECT DISTINCT run_id, key, min(label) AS label FROM stages WHERE status <> 'failed'
                         GROUP BY run_id, key) s USING (key)
WHERE v.name = $metric AND ($stage IS NULL OR v.stage = $stage) AND NOT isnan(v.value)
ORDER BY if($best = 'low', v.value, -v.value), s.run_id, s.label LIMIT $limit
