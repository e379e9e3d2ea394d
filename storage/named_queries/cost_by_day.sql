-- What was paid on each day (UTC), and how much of it in vain?
SELECT (ended_at AT TIME ZONE 'UTC')::DATE AS day, count(DISTINCT run_id) AS runs, sum(usd) AS usd,
       sum(usd) FILTER (outcome NOT IN ('made', 'saved')) AS waste_usd, sum(device_seconds) / 3600 AS device_hours,
       sum(energy_joules) / 3.6e6 AS energy_kwh
FROM ledger WHERE ended_at IS NOT NULL GROUP BY day ORDER BY day DESC
