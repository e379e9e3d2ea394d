-- Which metrics did a run write, in which stages, and where did they begin and end?
-- @run run = newest: a run, or the beginning of its id
-- @like text = %: only names like this, % for anything
SELECT s.label, v.name, v.n AS points, v.step AS last_step, v.value AS last_value
FROM last_values v
JOIN (SELECT key, min(label) AS label FROM run_stages WHERE run_id = $run GROUP BY key) s USING (key)
WHERE v.name ILIKE $like ORDER BY s.label, v.name
