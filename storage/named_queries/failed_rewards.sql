-- On which answers did a reward fail, and what did it say?
-- @run run = newest: a run, or the beginning of its id
-- @limit int = 20: how many
SELECT s.stage, s.step, r.name AS reward, r.reason, s.prompt, s.completion
FROM samples s,
     LATERAL (SELECT unnest(json_keys(s.scores_json, '$.failed')) AS name,
                     s.scores_json -> '$.failed' ->> name AS reason) r
WHERE s.key IN (SELECT key FROM run_stages WHERE run_id = $run) AND json_exists(s.scores_json, '$.failed')
ORDER BY s.stage, s.step, s.prompt LIMIT $limit
