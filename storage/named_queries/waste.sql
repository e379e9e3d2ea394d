-- What came to nothing: failed, killed, interrupted and repeated attempts, the dearest first?
-- @run run = newest: a run, or the beginning of its id
SELECT run_id, label, attempt, outcome, seconds, device_seconds, tokens, usd, reason
FROM waste
WHERE outcome <> 'saved' AND run_id = $run
ORDER BY usd DESC, run_id, label, attempt
