-- Which sizes and token counts did a run's dense sweep cover, how low did the loss get, and how fast did it train?
-- @run run = newest: a run, or the beginning of its id
WITH mine AS (SELECT DISTINCT key FROM run_stages WHERE run_id = $run AND status IN ('ran', 'cached')),
points AS (SELECT * FROM scaling_points WHERE sweep = 'dense' AND key IN (FROM mine)),
-- What the plan counts, 6ND with the law's N; the exact FLOPs are up to a third more for models as small as these.
trained AS (SELECT key, 6.0 * max(num_params) * max(tokens) AS flops FROM points GROUP BY key)
SELECT min(num_params) AS min_params, max(num_params) AS max_params, min(tokens) AS min_tokens,
       max(tokens) AS max_tokens, min(loss) AS lowest_loss,
       (SELECT sum(t.flops) / sum(c.cpu_seconds)
        FROM trained t JOIN run_costs c ON c.key = t.key AND c.run_id = $run) AS training_flops_per_second
FROM points
HAVING count(*) > 0
