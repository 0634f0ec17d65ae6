"""The functions of the PostgreSQL store for numbers of calls; see `model.counts`.

A list of cells is one array of texts: owner, name and first bucket of each. A call that was judged by numbers
has what it saw behind each of these. An addition has owner, name, bucket, amount, group and the time until
which it is looked at.

Two calls of one family, or with one window, must not both find the numbers that they saw. So each locks the
owners of all its numbers, in the order of their digests, behind the rows of its tasks. Each statement after
that sees what the other has written (READ COMMITTED).
"""

from __future__ import annotations

__all__ = ["COUNTERS"]

COUNTERS = """
-- how much of a number the additions of one call are
CREATE OR REPLACE FUNCTION agentguard.added_by(_additions text[], _owner text, _name text, _since bigint)
RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(sum(_additions[i + 3]::bigint), 0)::bigint
    FROM generate_series(1, coalesce(cardinality(_additions), 0), 6) AS i
    WHERE _additions[i] = _owner AND _additions[i + 1] = _name AND _additions[i + 2]::bigint >= _since
$$;

CREATE OR REPLACE FUNCTION agentguard.number_of(_owner text, _name text, _since bigint) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(value), 0)::bigint FROM agentguard.counters
    WHERE owner = _owner AND name = _name AND bucket >= _since
$$;

CREATE OR REPLACE FUNCTION agentguard.counted(
    _cells text[], _key text, _task text, _tool text, _path text) RETURNS bigint[]
LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(
        agentguard.number_of(_cells[i], _cells[i + 1], _cells[i + 2]::bigint)
            - agentguard.added_by(before.counted, _cells[i], _cells[i + 1], _cells[i + 2]::bigint)
        ORDER BY i), '{}')
    FROM generate_series(1, cardinality(_cells), 3) AS i
    LEFT JOIN (SELECT counted FROM agentguard.calls
        WHERE key = _key AND suspended AND task_id = _task AND tool = _tool AND path = _path
        LIMIT 1) AS before ON true
$$;

CREATE OR REPLACE FUNCTION agentguard.lock_owners(_owners text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    place bigint;
BEGIN
    FOR place IN
        SELECT DISTINCT hashtextextended('agentguard.counters ' || one, 0)
        FROM unnest(_owners) AS one ORDER BY 1
    LOOP
        PERFORM pg_advisory_xact_lock(place);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION agentguard.put_number(
    _owner text, _name text, _bucket bigint, _amount bigint, _until double precision) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO agentguard.counters AS c VALUES (_owner, _name, _bucket, _amount, _until)
    ON CONFLICT (owner, name, bucket) DO UPDATE
        SET value = c.value + excluded.value, until = greatest(c.until, excluded.until)
$$;

CREATE OR REPLACE FUNCTION agentguard.take_number(
    _owner text, _name text, _bucket bigint, _amount bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE agentguard.counters SET value = value - _amount
    WHERE owner = _owner AND name = _name AND bucket = _bucket;
    DELETE FROM agentguard.counters
    WHERE owner = _owner AND name = _name AND bucket = _bucket AND value <= 0;
    RETURN FOUND;
END $$;

-- the caller holds the locks of the owners
CREATE OR REPLACE FUNCTION agentguard.take_back(_additions text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. coalesce(cardinality(_additions), 0) BY 6 LOOP
        IF agentguard.take_number(
                _additions[i], _additions[i + 1], _additions[i + 2]::bigint, _additions[i + 3]::bigint)
            AND _additions[i + 4] <> '' THEN
            PERFORM agentguard.take_number(_additions[i], _additions[i + 4], _additions[i + 2]::bigint, 1);
        END IF;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION agentguard.begin_counted_call(
    _id text, _key text, _task text, _tool text, _path text, _changes boolean, _choice_bits bigint,
    _approval text, _now double precision, _credential text[], _expires double precision,
    _seen text[], _additions text[], _most bigint, _values bigint) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    line text[] := agentguard.line_of(_task);
    before text[];
    present bigint;
    refusal json;
BEGIN
    PERFORM 1 FROM agentguard.tasks WHERE id = ANY (line) ORDER BY depth, id FOR NO KEY UPDATE;
    PERFORM agentguard.lock_owners(
        ARRAY(SELECT _seen[i] FROM generate_series(1, cardinality(_seen), 4) AS i)
        || ARRAY(SELECT _additions[i] FROM generate_series(1, cardinality(_additions), 6) AS i));
    SELECT counted INTO before FROM agentguard.calls
    WHERE key = _key AND suspended AND task_id = _task AND tool = _tool AND path = _path LIMIT 1;
    FOR i IN 1 .. cardinality(_seen) BY 4 LOOP
        present := agentguard.number_of(_seen[i], _seen[i + 1], _seen[i + 2]::bigint)
            - agentguard.added_by(before, _seen[i], _seen[i + 1], _seen[i + 2]::bigint);
        IF present <> _seen[i + 3]::bigint THEN
            RETURN json_build_object('numbers', 'changed');
        END IF;
    END LOOP;
    FOR i IN 1 .. cardinality(_additions) BY 6 LOOP
        SELECT value INTO present FROM agentguard.counters
        WHERE owner = _additions[i] AND name = _additions[i + 1] AND bucket = _additions[i + 2]::bigint;
        IF coalesce(present, 0) + _additions[i + 3]::bigint > _most THEN
            RETURN json_build_object('full', (i - 1) / 6, 'number', present);
        END IF;
        IF present IS NULL AND _additions[i + 4] <> '' THEN
            SELECT value INTO present FROM agentguard.counters WHERE owner = _additions[i]
                AND name = _additions[i + 4] AND bucket = _additions[i + 2]::bigint;
            IF coalesce(present, 0) >= _values THEN
                RETURN json_build_object('full', (i - 1) / 6, 'values', present);
            END IF;
        END IF;
    END LOOP;
    refusal := agentguard.begin_call(
        _id, _key, _task, _tool, _path, _changes, _choice_bits, _approval, _now, _credential, _expires);
    IF refusal IS NOT NULL THEN
        RETURN refusal;
    END IF;
    PERFORM agentguard.take_back(before);
    FOR i IN 1 .. cardinality(_additions) BY 6 LOOP
        IF _additions[i + 4] <> '' AND NOT EXISTS (SELECT 1 FROM agentguard.counters
                WHERE owner = _additions[i] AND name = _additions[i + 1]
                    AND bucket = _additions[i + 2]::bigint) THEN
            PERFORM agentguard.put_number(
                _additions[i], _additions[i + 4], _additions[i + 2]::bigint, 1,
                _additions[i + 5]::double precision);
        END IF;
        PERFORM agentguard.put_number(
            _additions[i], _additions[i + 1], _additions[i + 2]::bigint, _additions[i + 3]::bigint,
            _additions[i + 5]::double precision);
    END LOOP;
    UPDATE agentguard.calls SET counted = _additions WHERE id = _id AND NOT suspended;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION agentguard.undo_call(_id text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    added text[];
    task text;
BEGIN
    SELECT counted, task_id INTO added, task FROM agentguard.calls WHERE id = _id AND NOT suspended;
    IF added IS NOT NULL THEN
        -- before the owners, as in each function
        PERFORM 1 FROM agentguard.tasks WHERE id = ANY (agentguard.line_of(task))
        ORDER BY depth, id FOR NO KEY UPDATE;
        PERFORM agentguard.lock_owners(
            ARRAY(SELECT added[i] FROM generate_series(1, cardinality(added), 6) AS i));
        -- of two that end the call, the first takes it back
        UPDATE agentguard.calls SET counted = NULL WHERE id = _id AND NOT suspended AND counted IS NOT NULL;
        IF FOUND THEN
            PERFORM agentguard.take_back(added);
        END IF;
    END IF;
END $$;
"""
