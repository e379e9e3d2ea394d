-- What does a run's model cost to serve: dollars per million tokens, tokens per second, and when does serving outweigh training?
-- @run run = newest: a run, or the beginning of its id
WITH kept AS (SELECT * FROM run_stages WHERE run_id = $run AND status <> 'failed'),
serving AS (SELECT facts_json AS facts FROM kept WHERE stage = 'measure_serving'),
report AS (SELECT facts_json AS facts FROM kept WHERE stage = 'account_costs')
SELECT (report.facts ->> 'price_per_million_input_tokens')::DOUBLE AS usd_per_million_input_tokens,
       (report.facts ->> 'price_per_million_output_tokens')::DOUBLE AS usd_per_million_output_tokens,
       (report.facts ->> 'price_per_million_output_tokens_low')::DOUBLE AS usd_per_million_output_tokens_low,
       (report.facts ->> 'price_per_million_output_tokens_high')::DOUBLE AS usd_per_million_output_tokens_high,
       (serving.facts ->> 'prefill_tokens_per_second')::DOUBLE AS prefill_tokens_per_second,
       (serving.facts ->> 'decode_tokens_per_second')::DOUBLE AS decode_tokens_per_second,
       (report.facts ->> 'training_usd')::DOUBLE AS training_usd,
       (report.facts ->> 'break_even_tokens')::DOUBLE AS break_even_output_tokens,
       (report.facts ->> 'break_even_tokens_low')::DOUBLE AS break_even_output_tokens_low,
       (report.facts ->> 'break_even_tokens_high')::DOUBLE AS break_even_output_tokens_high
FROM report FULL JOIN serving ON true
