-- Why were records of the data left out, how many, and what does one look like?
-- @run run = newest: a run, or the beginning of its id
SELECT q.reason, q.source, count(*) AS records, count(DISTINCT q.file) AS files, min(q.file) AS for_example,
       arg_min(q.line, q.file) AS line, arg_min(q.excerpt, q.file) AS excerpt
FROM quarantine q WHERE q.key IN (SELECT key FROM run_stages WHERE run_id = $run)
GROUP BY q.reason, q.source ORDER BY records DESC, q.reason, q.source
