-- What did a point of accuracy cost: training beyond the base, and dearer answers, against the cheapest way to answer?
-- @run run = newest: a run, or the beginning of its id
-- @suite text = null: an evaluation set; by default the first, or our own chains where there is none
WITH compared AS (
    SELECT unnest(facts_json -> '$.comparisons[*]') AS c, facts_json ->> '$.comparisons[0].suite' AS first
    FROM run_stages WHERE run_id = $run AND stage = 'account_costs' AND status IN ('ran', 'cached')),
ways AS (
    SELECT c ->> 'name' AS name, (c ->> 'accuracy')::DOUBLE AS accuracy, (c ->> 'low')::DOUBLE AS low,
           (c ->> 'high')::DOUBLE AS high, (c ->> 'usd_per_thousand')::DOUBLE AS usd_per_thousand,
           (c ->> 'extra_training_usd')::DOUBLE AS training_usd
    FROM compared WHERE c ->> 'suite' IS NOT DISTINCT FROM coalesce($suite, first)),
least AS (SELECT * FROM ways ORDER BY usd_per_thousand + training_usd, accuracy DESC LIMIT 1)
SELECT w.name, w.accuracy, w.low, w.high, 100 * (w.accuracy - l.accuracy) AS points_gained, l.name AS over,
       CASE WHEN w.accuracy > l.accuracy
            THEN (w.usd_per_thousand - l.usd_per_thousand) / (100 * (w.accuracy - l.accuracy)) END
           AS serving_usd_per_thousand_and_point,
       CASE WHEN w.accuracy > l.accuracy
            THEN (w.training_usd - l.training_usd) / (100 * (w.accuracy - l.accuracy)) END AS training_usd_per_point
FROM ways w, least l WHERE w.name <> l.name ORDER BY w.accuracy DESC, w.usd_per_thousand, w.name
