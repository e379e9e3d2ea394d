-- What did a core cost in a run, and how fast did it read and write tokens of the base model?
-- @run run = newest: a run, or the beginning of its id
WITH kept AS (SELECT * FROM run_stages WHERE run_id = $run AND status IN ('ran', 'cached'))
SELECT (SELECT (config_json ->> '$.compute.usd_per_core_hour')::DOUBLE
        FROM runs WHERE run_id = $run AND event = 'started') AS usd_per_core_hour,
       (SELECT (facts_json ->> 'num_params_non_embedding')::DOUBLE
        FROM kept WHERE stage = 'pretrain' ORDER BY label LIMIT 1) AS num_params_non_embedding,
       (SELECT (facts_json ->> 'prefill_tokens_per_second')::DOUBLE
        FROM kept WHERE stage = 'measure_serving' ORDER BY label LIMIT 1) AS prefill_tokens_per_second,
       (SELECT (facts_json ->> 'decode_tokens_per_second')::DOUBLE
        FROM kept WHERE stage = 'measure_serving' ORDER BY label LIMIT 1) AS decode_tokens_per_second
WHERE EXISTS (FROM kept)
