-- What did each stage cost over all runs of the home, waste included?
SELECT stage, "group" AS part, count(*) AS attempts, sum(usd) AS usd,
       sum(usd) FILTER (outcome NOT IN ('made', 'saved')) AS waste_usd, sum(device_seconds) / 3600 AS device_hours,
       sum(tokens)::BIGINT AS tokens, sum(prompt_tokens)::BIGINT AS prompt_tokens,
       sum(generated_tokens)::BIGINT AS generated_tokens, sum(flops) AS flops,
       max(peak_memory_bytes) / 1e9 AS peak_memory_gb
FROM ledger GROUP BY ALL ORDER BY usd DESC NULLS LAST, stage
