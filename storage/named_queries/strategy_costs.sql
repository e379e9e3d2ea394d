-- How accurate was each measured strategy of answering, and what does it cost per thousand questions?
-- @run run = newest: a run, or the beginning of its id
-- @suite text = null: an evaluation set; by default the first, or our own chains where there is none
WITH compared AS (
    SELECT unnest(facts_json -> '$.comparisons[*]') AS c, facts_json ->> '$.comparisons[0].suite' AS first
    FROM (SELECT facts_json FROM run_stages
          WHERE run_id = $run AND stage = 'account_costs' AND status IN ('ran', 'cached') ORDER BY label LIMIT 1))
SELECT c ->> 'name' AS name, (c ->> 'accuracy')::DOUBLE AS accuracy, (c ->> 'low')::DOUBLE AS low,
       (c ->> 'high')::DOUBLE AS high, (c ->> 'n')::BIGINT AS n,
       (c ->> 'prompt_tokens')::DOUBLE AS prompt_tokens, (c ->> 'tokens_per_item')::DOUBLE AS tokens_per_item,
       (c ->> 'extra_training_usd')::DOUBLE AS extra_training_usd,
       (c ->> 'usd_per_thousand')::DOUBLE AS usd_per_thousand,
       (c ->> 'needs_verifier')::BOOLEAN AS needs_verifier
FROM compared
WHERE c ->> 'needs_verifier' IS NOT NULL AND c ->> 'suite' IS NOT DISTINCT FROM coalesce($suite, first)
