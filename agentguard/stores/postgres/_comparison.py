"""The function of the PostgreSQL store that compares what a call was judged by with what is so now.

It locks the rows of the task's line first, in the order of all functions. What is compared changes only under
these locks. It returns NULL if nothing has changed, and otherwise the tasks as they are now.
"""

from __future__ import annotations

__all__ = ["COMPARISON"]

COMPARISON = """
CREATE OR REPLACE FUNCTION agentguard.changed_basis(
    _ids text[], _fixed text[], _counts bigint[], _asked text[], _digests text[], _sources text[],
    _trusts boolean[], _levels integer[]) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    line text[] := agentguard.line_of(_ids[1]);
    known integer;
    same integer;
    present integer := 0;
    expected integer := 0;
BEGIN
    PERFORM 1 FROM agentguard.tasks WHERE id = ANY (line) ORDER BY depth, id FOR NO KEY UPDATE;
    SELECT count(*), count(*) FILTER (WHERE t.fixed = b.fixed AND _counts[7 * b.n - 6 : 7 * b.n] = ARRAY[
        calls, writes, choice_bits, questions, untrusted::integer, sensitivity, labels])
    INTO known, same FROM agentguard.tasks AS t, unnest(_ids, _fixed) WITH ORDINALITY AS b (id, fixed, n)
    WHERE t.id = b.id;
    IF known < cardinality(_ids) THEN
        RETURN NULL;  -- no call begins in such a task
    END IF;
    IF cardinality(_asked) > 0 THEN
        SELECT count(*), count(e.digest) INTO present, expected
        FROM agentguard.labels AS l LEFT JOIN unnest(_digests, _sources, _trusts, _levels)
            AS e (digest, source, trusted, sensitivity)
            ON (l.digest, l.source, l.trusted, l.sensitivity)
                = (e.digest, e.source, e.trusted, e.sensitivity)
        WHERE l.family = coalesce(line[cardinality(line)], _ids[1]) AND l.digest = ANY (_asked);
    END IF;
    IF same < known OR expected < present OR expected < cardinality(_digests) THEN
        RETURN json_build_object('changed', agentguard.tasks_json(_ids));
    END IF;
    RETURN NULL;
END $$;
"""
