-- Which stages of a run took longest, and what did they do in that time?
-- @run run = newest: a run, or the beginning of its id
-- @limit int = 10: how many
SELECT c.label, c."group" AS part, c.status, c.seconds, c.cpu_seconds / nullif(c.seconds, 0) AS cores_busy, c.tokens,
       c.flops / nullif(c.seconds, 0) / 1e9 AS gflops_per_second, c.usd
FROM run_costs c WHERE c.run_id = $run ORDER BY c.seconds DESC NULLS LAST, c.label LIMIT $limit
