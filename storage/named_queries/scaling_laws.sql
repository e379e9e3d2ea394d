-- Which laws were fitted to a run's sweeps, with what parameters and intervals, and did the forecasts come true?
-- @run run = newest: a run, or the beginning of its id
WITH kept AS (SELECT key FROM run_stages WHERE run_id = $run AND status <> 'failed')
SELECT f.sweep, f.law, f.parameter, f.value, f.low, f.high, NULL::DOUBLE AS observed, f.n, f.method
FROM scaling_fits f WHERE f.key IN (FROM kept)
UNION ALL
SELECT sweep, 'forecast', target, predicted, low, high, observed, num_params,
       coalesce(method, 'law') || ', made before the run: ' || (made_at < scored_at)
FROM forecasts WHERE key IN (FROM kept)
ORDER BY 1, 2, 3
