-- What did each stage of training take away from what the model could do before? Against the first checkpoint, paired.
-- @run run = newest: a run, or the beginning of its id
SELECT f.evaluation, f.unit, f.checkpoint, f.before, f.value, f.change, f.change_low, f.change_high,
       CASE WHEN f.change_low > 0 OR f.change_high < 0
            THEN if((f.change > 0) = (f.unit = 'accuracy'), 'better', 'worse') END AS verdict, f.n
FROM forgetting f WHERE f.key IN (SELECT key FROM run_stages WHERE run_id = $run)
ORDER BY f.evaluation, f.position
