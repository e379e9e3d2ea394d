-- What did each run pay: made, in vain, and what earlier runs had paid for its cached stages?
-- @limit int = 20: how many, the newest
SELECT run_id, name, profile, status, usd, waste_usd, unfinished_usd, inherited_usd, device_seconds / 3600 AS device_hours,
       energy_joules / 3.6e6 AS energy_kwh, carbon_grams / 1000 AS carbon_kg
FROM cost_by_run LIMIT $limit
