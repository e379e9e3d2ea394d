-- Does reward go up while what people want goes down? Proxy, gold and KL of a run's policies, look by look.
-- @run run = newest: a run, or the beginning of its id
-- @stage text = ppo: the stage that trains policies
WITH points AS (
    SELECT s.label, m.step,
           max(m.value) FILTER (m.name = 'objective/score') AS proxy,
           max(m.value) FILTER (m.name = 'gold') AS gold,
           max(m.value) FILTER (m.name = 'objective/kl') AS kl,
           max(m.value) FILTER (m.name = 'response/length') AS length
    FROM metrics m
    JOIN (SELECT key, min(label) AS label FROM run_stages WHERE run_id = $run AND stage = $stage GROUP BY key) s USING (key)
    GROUP BY ALL)
SELECT *, proxy - first_value(proxy) OVER look AS proxy_gain, gold - first_value(gold) OVER look AS gold_gain
FROM points WHERE gold IS NOT NULL OR kl IS NOT NULL
WINDOW look AS (PARTITION BY label ORDER BY step) ORDER BY label, step
