-- What did one stage of one run find out?
-- @stage text: name of the stage's function, as in stages.stage
-- @run run = newest: a run, or the beginning of its id
SELECT label, key, status, facts_json
FROM run_stages
WHERE run_id = $run AND stage = $stage AND status IN ('ran', 'cached')
ORDER BY label
