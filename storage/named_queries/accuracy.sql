-- How many items did each model and strategy of a run answer rightly, with 95% intervals (Wilson)?
-- @run run = newest: a run, or the beginning of its id
-- @suite text = null: only this suite
SELECT suite, model, strategy, n, accuracy, low, high, tokens_per_item, seconds_per_item
FROM run_leaderboard WHERE run_id = $run AND ($suite IS NULL OR suite = $suite)
ORDER BY suite, accuracy DESC, tokens_per_item, model, strategy
