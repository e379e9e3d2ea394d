-- Which runs are there, newest first, and how did they end?
-- @limit int = 20: how many
SELECT run_id, name, profile, status, started_at, seconds, ran, cached, failed
FROM latest_runs ORDER BY started_at DESC, run_id LIMIT $limit
