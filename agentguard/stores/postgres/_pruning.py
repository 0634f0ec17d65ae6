"""What the PostgreSQL store forgets: a bounded part of it each time, in a transaction of its own.

It takes no row that another transaction has locked (SKIP LOCKED), so it waits for nobody. One process at a
time prunes.
"""

from __future__ import annotations

__all__ = ["KEYS", "PRUNING", "ROWS", "TASKS"]

KEYS, TASKS, ROWS = 4096, 512, 5000
"""The most keys that one round deletes, and the most tasks; with so many rows of tasks it stops early."""

PRUNING = """
CREATE OR REPLACE FUNCTION agentguard.prune(
    _now double precision, _keep double precision, _keep_keys double precision,
    _keys bigint, _tasks bigint, _rows bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    -- a clock that is ahead, of this host or of the server, forgets nothing early
    moment double precision := agentguard.earlier(_now);
    past text;
    part bigint;
    gone bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('agentguard.prune', 0)) THEN
        RETURN; -- another process prunes now
    END IF;
    DELETE FROM agentguard.keys WHERE key = ANY (ARRAY(
        SELECT key FROM agentguard.keys WHERE until <= moment - _keep_keys
        ORDER BY until LIMIT _keys FOR UPDATE SKIP LOCKED));
    DELETE FROM agentguard.credentials WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM agentguard.credentials WHERE expires_at <= moment - _keep
        ORDER BY expires_at LIMIT _tasks FOR UPDATE SKIP LOCKED));
    DELETE FROM agentguard.counters WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM agentguard.counters WHERE until > 0 AND until <= moment - _keep_keys
        ORDER BY until LIMIT _keys FOR UPDATE SKIP LOCKED));
    -- a task with a live credential stays
    FOR past IN
        SELECT id FROM agentguard.tasks AS t WHERE t.over <= moment - _keep
            AND NOT EXISTS (SELECT 1 FROM agentguard.credentials AS c WHERE c.task_id = t.id)
        ORDER BY t.over LIMIT _tasks FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM agentguard.calls WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM agentguard.calls WHERE task_id = past FOR UPDATE SKIP LOCKED));
        GET DIAGNOSTICS part = ROW_COUNT;
        gone := gone + part;
        DELETE FROM agentguard.labels WHERE family = past;
        GET DIAGNOSTICS part = ROW_COUNT;
        gone := gone + part;
        DELETE FROM agentguard.lineage WHERE ancestor = past OR task_id = past;
        GET DIAGNOSTICS part = ROW_COUNT;
        gone := gone + part;
        DELETE FROM agentguard.counters WHERE owner = 'task ' || past;
        GET DIAGNOSTICS part = ROW_COUNT;
        gone := gone + part;
        DELETE FROM agentguard.tasks WHERE id = past;
        EXIT WHEN gone > _rows;
    END LOOP;
    -- a rejection stays as long as its family
    DELETE FROM agentguard.approvals WHERE n = ANY (ARRAY(
        SELECT n FROM agentguard.approvals AS a WHERE a.expires_at <= moment - _keep
            AND (a.status <> 'denied' OR NOT EXISTS (SELECT 1 FROM agentguard.tasks WHERE id = a.family))
        ORDER BY a.expires_at LIMIT _tasks FOR UPDATE SKIP LOCKED));
END $$;
"""
