-- What did each model of a run take, with everything that it was made from?
-- @run run = newest: a run, or the beginning of its id
SELECT model, stages, own_usd, usd, tokens, flops, energy_joules / 3.6e6 AS energy_kwh
FROM run_models WHERE run_id = $run ORDER BY usd DESC, model
