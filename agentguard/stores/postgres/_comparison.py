"""The function of the PostgreSQL store that compares what a call was judged by with what is so now.

It locks the rows of the task's line first, in the order of all functions. What is compared changes only under
these locks. It returns NULL if nothing has changed, and otherwise the tasks as they are now.
"""

from __future__ import annotations

__all__ = ["COMPARISON"]

COMPARISON = """
-- _tasks: id, fixed part and counts of each task; _labels: digests that were looked for, and what was found
CREATE OR REPLACE FUNCTION agentguard.changed_basis(_tasks json, _labels json) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    ids text[] := ARRAY(SELECT one->>0 FROM json_array_elements(_tasks) AS one);
    known integer;
    same integer;
    present integer := 0;
    expected integer := 0;
BEGIN
    SELECT count(*), count(*) FILTER (WHERE fixed = judged->>1 AND counts = judged->>2) INTO known, same
    FROM (SELECT fixed, _tasks->(array_position(ids, id) - 1) AS judged, json_build_array(calls, writes,
            choice_bits, questions, untrusted::integer, sensitivity, labels, cardinality(history)
        )::text AS counts
        FROM agentguard.tasks WHERE id = ANY (ids) ORDER BY depth, id FOR NO KEY UPDATE) AS line;
    IF known < cardinality(ids) THEN
        RETURN NULL;  -- no call begins in such a task
    END IF;
    IF _labels IS NOT NULL THEN
        SELECT count(*), count(one) INTO present, expected
        FROM agentguard.labels AS l LEFT JOIN json_array_elements(_labels->1) AS one
            ON (l.digest, l.source, l.trusted, l.sensitivity)
                = (one->>0, one->>1, (one->>2)::boolean, (one->>3)::integer)
        WHERE l.family = ids[cardinality(ids)]
            AND l.digest = ANY (ARRAY(SELECT json_array_elements_text(_labels->0)));
        expected := CASE WHEN expected < json_array_length(_labels->1) THEN -1 ELSE expected END;
    END IF;
    IF same < known OR expected <> present THEN
        RETURN json_build_object('changed', agentguard.tasks_json(ids));
    END IF;
    RETURN NULL;
END $$;
"""
