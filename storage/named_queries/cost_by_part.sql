-- What did each part of a run's life cost: seconds, tokens, FLOPs, energy, dollars?
-- @run run = newest: a run, or the beginning of its id
SELECT "group" AS part, count(*) AS stages, sum(seconds) AS seconds, sum(tokens)::BIGINT AS tokens, sum(flops) AS flops,
       sum(energy_joules) / 3.6e6 AS energy_kwh, sum(usd) AS usd, sum(usd) / nullif(sum(sum(usd)) OVER (), 0) AS share
FROM run_costs WHERE run_id = $run GROUP BY "group" ORDER BY usd DESC NULLS LAST, part
