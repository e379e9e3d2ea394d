-- What was paid for each tag of the runs, such as team and project?
-- @tag text = null: only this tag
SELECT t.tag, t.value, count(DISTINCT l.run_id) AS runs, sum(l.usd) AS usd,
       sum(l.usd) FILTER (l.outcome NOT IN ('made', 'saved')) AS waste_usd, sum(l.device_seconds) / 3600 AS device_hours
FROM run_tags t JOIN ledger l USING (run_id) WHERE $tag IS NULL OR t.tag = $tag
GROUP BY t.tag, t.value ORDER BY t.tag, usd DESC, t.value
