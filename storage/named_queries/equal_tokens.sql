-- Which way of thinking is best when none may spend more tokens than a budget? Of each family the largest that fits.
-- @tokens float = 64: completion tokens per item, on average
-- @run run = newest: a run, or the beginning of its id
-- @suite text = null: only this suite
SELECT suite, model, coalesce(strategy_family, strategy) AS family, strategy, n, accuracy, low, high, tokens_per_item
FROM run_leaderboard
WHERE run_id = $run AND tokens_per_item <= $tokens AND ($suite IS NULL OR suite = $suite)
QUALIFY row_number() OVER (PARTITION BY suite, model, family ORDER BY tokens_per_item DESC, strategy) = 1
ORDER BY suite, accuracy DESC, tokens_per_item, model, family
