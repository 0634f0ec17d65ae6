"""The functions of the PostgreSQL store: one for each method that writes, so that it is one round trip.

A function is one transaction. Each of them locks rows in the same order, so that two never wait for each
other: first tasks, the oldest of a family first, then by id; then the owners of numbers, an approval, calls,
credentials and keys.
A call that counts on its family so waits for the one before it, and sees what that one has counted: each
statement of a function sees what was committed before the statement (READ COMMITTED).

The decisions are those of `_rules`. A function that may refuse checks first and writes then. If it refuses,
it has written nothing, and it returns as JSON what it has seen: Python makes the error of that, by `_rules`.
A function that has done its work returns NULL, or its result.

`_now` is the clock of the guard. The time that the function has waited for a lock is added to it.
"""

from __future__ import annotations

from agentguard.stores.postgres._approval_functions import APPROVALS
from agentguard.stores.postgres._comparison import COMPARISON
from agentguard.stores.postgres._counter_functions import COUNTERS
from agentguard.stores.postgres._pruning import PRUNING

__all__ = ["FUNCTIONS"]

_SHARED = """
CREATE OR REPLACE FUNCTION agentguard.after_wait(_now double precision) RETURNS double precision
LANGUAGE sql VOLATILE AS $$
    SELECT _now + extract(epoch FROM clock_timestamp() - statement_timestamp())
$$;

-- the earlier of two clocks: one that is ahead makes nobody forget a revocation or a key that was used
CREATE OR REPLACE FUNCTION agentguard.earlier(_now double precision) RETURNS double precision
LANGUAGE sql VOLATILE AS $$
    SELECT least(_now, extract(epoch FROM clock_timestamp())::double precision)
$$;

-- a task and its ancestors, or NULL
CREATE OR REPLACE FUNCTION agentguard.line_of(_task text) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT id || lineage FROM agentguard.tasks WHERE id = _task
$$;

-- the rows of some tasks, in the order in which Python reads them
CREATE OR REPLACE FUNCTION agentguard.tasks_json(_ids text[]) RETURNS json
LANGUAGE sql STABLE AS $$
    SELECT coalesce(json_agg(json_build_array(id, fixed, deadline, history, status, calls, writes, untrusted,
        sensitivity, labels, questions, choice_bits)), '[]')
    FROM agentguard.tasks WHERE id = ANY (_ids)
$$;

CREATE OR REPLACE FUNCTION agentguard.approval_json(_id text) RETURNS json
LANGUAGE sql STABLE AS $$
    SELECT json_build_array(id, call_key, task_id, tool, digest, policy_version, expires_at, status, approver,
        reason, path, purpose, display, shown_digest)
    FROM agentguard.approvals WHERE id = _id
$$;

CREATE OR REPLACE FUNCTION agentguard.rejection_of(_family text, _tool text, _shown text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT id FROM agentguard.approvals
    WHERE family = _family AND tool = _tool AND shown_digest = _shown AND status = 'denied'
    ORDER BY answered_at, n LIMIT 1
$$;

CREATE OR REPLACE FUNCTION agentguard.put_credential(
    _call text, _task text, _broker text, _handle text, _expires double precision, _owner text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM agentguard.credentials WHERE call_id = _call AND broker = _broker AND handle = _handle;
    INSERT INTO agentguard.credentials VALUES (_call, _task, _broker, _handle, _expires, _owner);
END $$;

CREATE OR REPLACE FUNCTION agentguard.remember(
    _key text, _until double precision, _now double precision) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO agentguard.keys AS k VALUES (_key, _until)
    ON CONFLICT (key) DO UPDATE SET until = greatest(k.until, excluded.until)
        WHERE k.until <= agentguard.earlier(_now);
    IF FOUND THEN
        RETURN true;
    END IF;
    UPDATE agentguard.keys SET until = greatest(until, _until) WHERE key = _key;
    RETURN false;
END $$;
"""

_TASKS = """
CREATE OR REPLACE FUNCTION agentguard.create_task(
    _id text, _lineage text[], _fixed text, _subject text, _login text[], _deadline double precision,
    _max_calls numeric, _max_writes numeric, _max_questions numeric,
    _status text, _calls bigint, _writes bigint,
    _history text[], _untrusted boolean, _sensitivity integer, _labels bigint, _questions bigint,
    _max_choice_bits numeric, _choice_bits bigint)
RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    -- the end of an ancestor waits for this, and ends the new task too, or this sees that end
    PERFORM 1 FROM agentguard.tasks WHERE id = ANY (_lineage) ORDER BY depth, id FOR NO KEY UPDATE;
    INSERT INTO agentguard.tasks VALUES (
        _id, cardinality(_lineage), _lineage, _fixed, _subject, _login[1], _login[2], _login[3], _login[4],
        _deadline, _deadline, _max_calls, _max_writes, _max_questions, _status, _calls, _writes, _history,
        _untrusted, _sensitivity, _labels, _questions, _max_choice_bits, _choice_bits)
    ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO agentguard.lineage SELECT DISTINCT unnest(_lineage), _id;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION agentguard.end_task(
    _task text, _status text, _now double precision, _calls text[], _brokers text[], _handles text[],
    _expiries double precision[], _owners text[]) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    family text[];
    ended text[];
BEGIN
    PERFORM 1 FROM agentguard.tasks WHERE id = _task FOR NO KEY UPDATE;
    SELECT array_agg(id) INTO family FROM (
        SELECT id FROM agentguard.tasks
        WHERE (id = _task OR id IN (SELECT task_id FROM agentguard.lineage WHERE ancestor = _task))
            AND status = 'active'
        ORDER BY depth, id FOR NO KEY UPDATE) AS active;
    _now := agentguard.after_wait(_now);
    WITH over AS (
        UPDATE agentguard.tasks
        SET status = CASE WHEN deadline <= _now THEN 'expired' ELSE _status END, over = least(_now, deadline)
        WHERE id = ANY (family) AND status = 'active' RETURNING id)
    SELECT coalesce(array_agg(id ORDER BY id <> _task, id), '{}') INTO ended FROM over;
    PERFORM agentguard.put_credential(n.call || t.id, t.id, n.broker, n.handle || t.id, n.expires, n.owner)
    FROM unnest(ended) AS t (id),
        unnest(_calls, _brokers, _handles, _expiries, _owners) AS n (call, broker, handle, expires, owner);
    RETURN ended;
END $$;
"""

_CALLS = """
CREATE OR REPLACE FUNCTION agentguard.begin_call(
    _id text, _key text, _task text, _tool text, _path text, _changes boolean, _choice_bits bigint,
    _approval text, _now double precision, _credential text[], _expires double precision) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    line text[] := agentguard.line_of(_task);
    known integer;
    over boolean;
    spent boolean;
    running boolean;
    before text;
    resumed boolean;
    usable boolean := true;
BEGIN
    SELECT count(*), bool_or(ends <= agentguard.after_wait(_now)), bool_or(is_spent)
    INTO known, over, spent FROM (
        SELECT CASE WHEN status = 'active' THEN deadline ELSE '-infinity' END AS ends,
            coalesce(calls >= max_calls, false)
                OR (_changes AND coalesce(writes >= max_writes, false))
                OR (_choice_bits > 0 AND coalesce(choice_bits + _choice_bits > max_choice_bits, false))
                AS is_spent
        FROM agentguard.tasks WHERE id = ANY (line) ORDER BY depth, id FOR NO KEY UPDATE) AS family;
    SELECT approval_id INTO before FROM agentguard.calls
    WHERE key = _key AND suspended AND task_id = _task AND tool = _tool AND path = _path;
    resumed := FOUND;
    running := EXISTS (SELECT 1 FROM agentguard.calls WHERE id = _id AND NOT suspended);
    IF _approval IS NOT NULL THEN
        SELECT (call_key, task_id, tool) = (_key, _task, _tool) AND CASE status
            WHEN 'used' THEN coalesce(id = before, false)
            WHEN 'approved' THEN agentguard.after_wait(_now) < expires_at
            ELSE false END
        INTO usable FROM agentguard.approvals WHERE id = _approval FOR NO KEY UPDATE;
    END IF;
    IF line IS NULL OR known < cardinality(line) OR over OR (spent AND NOT resumed) OR running
            OR usable IS NOT TRUE THEN
        RETURN json_build_object(
            'now', agentguard.after_wait(_now), 'line', coalesce(line, ARRAY[_task]),
            'tasks', agentguard.tasks_json(line), 'resumed', resumed, 'running', running, 'before', before,
            'approval', agentguard.approval_json(_approval));
    END IF;
    IF resumed THEN
        DELETE FROM agentguard.calls
        WHERE key = _key AND suspended AND task_id = _task AND tool = _tool AND path = _path;
    ELSE
        UPDATE agentguard.tasks
        SET calls = calls + 1, writes = writes + _changes::integer, choice_bits = choice_bits + _choice_bits,
            history = CASE WHEN _tool = ANY (history) THEN history ELSE history || _tool END
        WHERE id = ANY (line);
    END IF;
    IF _approval IS NOT NULL THEN
        UPDATE agentguard.approvals SET status = 'used' WHERE id = _approval AND status <> 'used';
    END IF;
    INSERT INTO agentguard.calls VALUES (_id, _key, _task, _tool, _path, _approval, false);
    IF _credential IS NOT NULL THEN
        PERFORM agentguard.put_credential(
            _credential[1], _credential[2], _credential[3], _credential[4], _expires, _credential[5]);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION agentguard.track(
    _now double precision, _credential text[], _expires double precision) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    line text[] := agentguard.line_of(_credential[2]);
    known integer;
    over boolean;
BEGIN
    SELECT count(*), bool_or(ends <= agentguard.after_wait(_now)) INTO known, over FROM (
        SELECT CASE WHEN status = 'active' THEN deadline ELSE '-infinity' END AS ends
        FROM agentguard.tasks WHERE id = ANY (line) ORDER BY depth, id FOR NO KEY UPDATE) AS family;
    PERFORM agentguard.put_credential(
        _credential[1], _credential[2], _credential[3], _credential[4], _expires, _credential[5]);
    IF line IS NULL OR known < cardinality(line) OR over THEN
        RETURN json_build_object(
            'now', agentguard.after_wait(_now), 'line', coalesce(line, ARRAY[_credential[2]]),
            'tasks', agentguard.tasks_json(line));
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION agentguard.end_call(
    _id text, _suspends boolean, _revoked boolean, _key text, _until double precision, _now double precision)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM agentguard.close_call(_id, _suspends);
    IF _revoked THEN
        DELETE FROM agentguard.credentials WHERE call_id = _id;
    END IF;
    IF _key IS NOT NULL THEN
        PERFORM agentguard.remember(_key, _until, _now);
    END IF;
END $$;

-- whether the call was running
CREATE OR REPLACE FUNCTION agentguard.close_call(_id text, _suspends boolean) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT _suspends THEN
        DELETE FROM agentguard.calls WHERE id = _id AND NOT suspended;
        RETURN FOUND;
    END IF;
    DELETE FROM agentguard.calls AS c USING agentguard.calls AS ending
    WHERE ending.id = _id AND NOT ending.suspended AND c.suspended
        AND (c.key, c.task_id, c.tool, c.path) = (ending.key, ending.task_id, ending.tool, ending.path);
    UPDATE agentguard.calls SET suspended = true WHERE id = _id AND NOT suspended;
    RETURN FOUND;
END $$;

CREATE OR REPLACE FUNCTION agentguard.end_reading_call(
    _id text, _suspends boolean, _revoked boolean, _key text, _until double precision, _now double precision,
    _untrusted boolean, _sensitivity integer, _digests text[], _sources text[], _trusts boolean[],
    _levels integer[], _limit bigint, _trusted_limit bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    task text;
    line text[];
    root text;
    present bigint;
    added bigint;
BEGIN
    SELECT task_id INTO task FROM agentguard.calls WHERE id = _id AND NOT suspended;
    line := agentguard.line_of(task);
    root := line[cardinality(line)];
    PERFORM 1 FROM agentguard.tasks
    WHERE id = ANY (line) OR (cardinality(_digests) > 0
        AND id IN (SELECT task_id FROM agentguard.lineage WHERE ancestor = root))
    ORDER BY depth, id FOR NO KEY UPDATE;
    IF agentguard.close_call(_id, _suspends) THEN
        UPDATE agentguard.tasks
        SET untrusted = untrusted OR _untrusted, sensitivity = greatest(sensitivity, _sensitivity)
        WHERE id = ANY (line);
        SELECT labels INTO present FROM agentguard.tasks WHERE id = task;
    END IF;
    IF present IS NOT NULL AND cardinality(_digests) > 0 THEN
        -- the first ones have room; after `_limit` of them, only trusted ones up to `_trusted_limit`
        INSERT INTO agentguard.labels (family, digest, source, trusted, sensitivity)
        SELECT root, digest, source, trusted, sensitivity FROM (
            SELECT *, n <= _limit - present AS early,
                row_number() OVER (PARTITION BY trusted AND n > _limit - present ORDER BY n) AS rank
            FROM unnest(_digests, _sources, _trusts, _levels) WITH ORDINALITY
                AS l (digest, source, trusted, sensitivity, n)) AS labels
        WHERE early OR (trusted AND rank <= _trusted_limit - greatest(_limit, present))
        ORDER BY n ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS added = ROW_COUNT;
        UPDATE agentguard.tasks SET labels = labels + added
        WHERE added > 0
            AND (id = root OR id IN (SELECT task_id FROM agentguard.lineage WHERE ancestor = root));
    END IF;
    IF _revoked THEN
        DELETE FROM agentguard.credentials WHERE call_id = _id;
    END IF;
    IF _key IS NOT NULL THEN
        PERFORM agentguard.remember(_key, _until, _now);
    END IF;
END $$;
"""

FUNCTIONS = _SHARED + _TASKS + _CALLS + COUNTERS + APPROVALS + COMPARISON + PRUNING
