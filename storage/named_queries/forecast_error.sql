-- How far off were estimates of cost and time, made before a run, from what it then took?
-- @limit int = 50: how many, the newest
SELECT run_id, target, method, predicted, low, high, observed, observed / nullif(predicted, 0) AS observed_over_predicted,
       observed BETWEEN low AND high AS inside, made_at
FROM forecasts WHERE sweep = 'cost' ORDER BY made_at DESC, run_id, abs(predicted - observed) DESC NULLS LAST, target
LIMIT $limit
