-- What did the stages of one run find out?
-- @run run = newest: a run, or the beginning of its id
-- @stage text = null: only this stage, as in stages.stage
SELECT stage, label, key, facts_json
FROM run_stages
WHERE run_id = $run AND ($stage IS NULL OR stage = $stage) AND status IN ('ran', 'cached')
ORDER BY started_at, label
