"""The functions of the PostgreSQL store for approvals (see `_functions`).

`_row` is an approval without its expiry: id, call key, task, tool, digest, policy version, status, reason,
path, purpose, display, shown digest, approver. `_statements` makes it.
"""

from __future__ import annotations

__all__ = ["APPROVALS"]

APPROVALS = """
CREATE OR REPLACE FUNCTION agentguard.save_approval(
    _row text[], _expires double precision, _now double precision) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    line text[] := agentguard.line_of(_row[3]);
    known integer;
    over boolean;
    spent boolean;
    root text;
    rejected text;
BEGIN
    SELECT count(*), bool_or(ends <= agentguard.after_wait(_now)), bool_or(is_spent)
    INTO known, over, spent FROM (
        SELECT CASE WHEN status = 'active' THEN deadline ELSE '-infinity' END AS ends,
            coalesce(questions >= max_questions, false) AS is_spent
        FROM agentguard.tasks WHERE id = ANY (line) ORDER BY depth, id FOR NO KEY UPDATE) AS family;
    IF EXISTS (SELECT 1 FROM agentguard.approvals WHERE id = _row[1]) THEN
        RETURN json_build_object('recorded', agentguard.approval_json(_row[1]));
    END IF;
    root := coalesce(line[cardinality(line)], _row[3]);
    rejected := agentguard.rejection_of(root, _row[4], _row[12]);
    IF _row[7] <> 'pending' OR line IS NULL OR known < cardinality(line) OR over OR spent
            OR rejected IS NOT NULL THEN
        RETURN json_build_object(
            'now', agentguard.after_wait(_now), 'line', coalesce(line, ARRAY[_row[3]]),
            'tasks', agentguard.tasks_json(line), 'rejection', agentguard.approval_json(rejected));
    END IF;
    UPDATE agentguard.tasks SET questions = questions + 1 WHERE id = ANY (line);
    INSERT INTO agentguard.approvals (
        id, call_key, task_id, tool, digest, policy_version, expires_at, status, approver, reason, path,
        purpose, display, shown_digest, family)
    VALUES (_row[1], _row[2], _row[3], _row[4], _row[5], _row[6], _expires, _row[7], _row[13], _row[8],
        _row[9], _row[10], _row[11], _row[12], root);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION agentguard.answer_approval(
    _row text[], _expires double precision, _now double precision) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    question agentguard.approvals;
    rejected text;
BEGIN
    SELECT * INTO question FROM agentguard.approvals WHERE id = _row[1] FOR NO KEY UPDATE;
    rejected := agentguard.rejection_of(question.family, _row[4], _row[12]);
    IF question.status = 'pending' AND question.expires_at = _expires
        AND ARRAY[question.call_key, question.task_id, question.tool, question.digest,
            question.policy_version, question.path, question.purpose, question.display,
            question.shown_digest] = _row[2:6] || _row[9:12]
        AND (_row[7] = 'denied' OR (_row[7] = 'approved' AND rejected IS NULL
            AND agentguard.after_wait(_now) < _expires))
    THEN
        UPDATE agentguard.approvals SET status = _row[7], reason = _row[8], approver = _row[13],
            answered_at = extract(epoch FROM clock_timestamp())
        WHERE id = _row[1];
        RETURN NULL;
    END IF;
    RETURN json_build_object(
        'now', agentguard.after_wait(_now), 'recorded', agentguard.approval_json(_row[1]),
        'rejection', agentguard.approval_json(rejected));
END $$;
"""
