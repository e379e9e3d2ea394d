-- How fast did a run's stages go through their tokens, start-up and evaluation included?
-- @run run = newest: a run, or the beginning of its id
WITH steady AS (
    SELECT key, median(value) AS median FROM metrics
    WHERE name = 'tokens_per_second' AND key IN (SELECT key FROM run_costs WHERE run_id = $run) GROUP BY key)
SELECT c.label, c.tokens, c.seconds, c.tokens / nullif(c.seconds, 0) AS tokens_per_second,
       steady.median AS tokens_per_second_in_the_loop, c.flops / nullif(c.tokens, 0) AS flops_per_token, c.hardware
FROM run_costs c LEFT JOIN steady USING (key)
WHERE c.run_id = $run AND c.tokens > 0 ORDER BY tokens_per_second DESC, c.label
