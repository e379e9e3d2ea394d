-- What changed between two runs: settings, and the accuracies and costs that followed?
-- @before run: the earlier run, or the beginning of its id
-- @after run = newest: the later one
WITH settings AS (
    SELECT r.run_id, 'setting' AS what, substr(t.fullkey, 3) AS name, t.atom::VARCHAR AS value
    FROM runs r, json_tree(r.config_json) t
    WHERE r.event = 'started' AND r.run_id IN ($before, $after) AND t.atom IS NOT NULL),
accuracies AS (
    SELECT run_id, 'accuracy' AS what, concat_ws(' ', suite, model, strategy) AS name, round(accuracy, 4)::VARCHAR AS value
    FROM run_leaderboard WHERE run_id IN ($before, $after)),
costs AS (
    SELECT run_id, 'seconds' AS what, label AS name, round(seconds, 1)::VARCHAR AS value
    FROM run_costs WHERE run_id IN ($before, $after)),
together AS (FROM settings UNION ALL FROM accuracies UNION ALL FROM costs)
SELECT what, name, max(value) FILTER (run_id = $before) AS before, max(value) FILTER (run_id = $after) AS after
FROM together GROUP BY what, name
HAVING before IS DISTINCT FROM after ORDER BY what = 'setting' DESC, what, name
