"""The statements that bring the SQLite store's file from one schema version to the next.

A step stays as it was written, though it repeats what the newest tables are made of: a later version changes
those, and a file is brought through each version in turn.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MIGRATIONS"]

TO_3 = """
ALTER TABLE tasks ADD COLUMN sensitivity INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN labels INTEGER NOT NULL DEFAULT 0;
UPDATE tasks SET sensitivity = 3 WHERE calls > 0;
UPDATE tasks SET fixed = json_set(fixed, '$.words', '', '$.kinds', json('[]'), '$.origins', json('[]'));
CREATE TABLE labels (
    family TEXT NOT NULL, digest TEXT NOT NULL, source TEXT NOT NULL, trusted INTEGER NOT NULL,
    sensitivity INTEGER NOT NULL, PRIMARY KEY (family, digest, source)) STRICT, WITHOUT ROWID"""

TO_4 = """
ALTER TABLE tasks ADD COLUMN questions INTEGER NOT NULL DEFAULT 0;
ALTER TABLE approvals ADD COLUMN path TEXT NOT NULL DEFAULT 'escalation';
ALTER TABLE approvals ADD COLUMN purpose TEXT NOT NULL DEFAULT '';
ALTER TABLE approvals ADD COLUMN display TEXT NOT NULL DEFAULT '{}';
ALTER TABLE approvals ADD COLUMN shown_digest TEXT NOT NULL DEFAULT '';
ALTER TABLE approvals ADD COLUMN family TEXT NOT NULL DEFAULT '';
UPDATE tasks SET questions = (
    SELECT count(*) FROM approvals WHERE task_id = tasks.id
    OR task_id IN (SELECT task_id FROM lineage WHERE ancestor = tasks.id));
DELETE FROM approvals WHERE status != 'denied';
UPDATE approvals SET shown_digest = digest, family = coalesce(
    (SELECT json_extract(fixed, '$.lineage[#-1]') FROM tasks WHERE tasks.id = task_id), task_id);
CREATE INDEX approvals_denied ON approvals (family, tool, shown_digest) WHERE status = 'denied';
CREATE INDEX tasks_active ON tasks (json_extract(fixed, '$.identity[0]')) WHERE status = 'active';
CREATE INDEX lineage_task ON lineage (task_id);
CREATE INDEX calls_task ON calls (task_id);
CREATE INDEX credentials_task ON credentials (task_id);
CREATE INDEX credentials_expiry ON credentials (expires_at);
CREATE TABLE writes (id TEXT NOT NULL, n INTEGER NOT NULL) STRICT;
INSERT INTO writes VALUES (lower(hex(randomblob(16))), 0)"""

TO_5 = """
ALTER TABLE calls ADD COLUMN write_number INTEGER;
INSERT INTO calls SELECT '~', id, '', '', '', NULL, 0, n FROM writes;
DROP TABLE writes;
DROP INDEX calls_task;
DROP INDEX credentials_expiry;
DROP INDEX keys_until"""

TO_6 = """
CREATE INDEX tasks_user ON tasks (json_extract(fixed, '$.login[1]'))
    WHERE status = 'active' AND json_extract(fixed, '$.login[1]') IS NOT NULL;
CREATE INDEX tasks_session ON tasks (json_extract(fixed, '$.login[2]'))
    WHERE status = 'active' AND json_extract(fixed, '$.login[2]') IS NOT NULL;
CREATE INDEX tasks_token ON tasks (json_extract(fixed, '$.login[3]'))
    WHERE status = 'active' AND json_extract(fixed, '$.login[3]') IS NOT NULL"""

TO_7 = "ALTER TABLE tasks ADD COLUMN choice_bits INTEGER NOT NULL DEFAULT 0"

TO_8 = """
ALTER TABLE calls ADD COLUMN counted TEXT;
CREATE TABLE counters (
    owner TEXT NOT NULL, name TEXT NOT NULL, bucket INTEGER NOT NULL, value INTEGER NOT NULL,
    until REAL NOT NULL, PRIMARY KEY (owner, name, bucket)) STRICT, WITHOUT ROWID"""

MIGRATIONS: Mapping[int, str] = {2: TO_3, 3: TO_4, 4: TO_5, 5: TO_6, 6: TO_7, 7: TO_8}
"""By the version that a file has.

To 3: values have labels. Of a task of version 2 nothing says what it has read. So if it has made a call, it
counts as one that has read the most sensitive data, and nobody vouches for the values in its mandate.
To 4: an approval keeps what a person was shown, and a task counts its questions. A rejection of version 3
still holds. Any other approval of it is dropped, for its call is named otherwise now: a person is asked anew.
Writes are numbered, so that an older copy of the file is noticed.
To 5: the number stands in a page that a call changes anyway, and the indexes of the pruning are gone.
To 6: a task keeps the login of its subject token, and is found by it.
To 7: a task counts what its calls say by the choice among values. What they have said before is not known.
To 8: calls that were done are counted. Nothing is counted in a task that began before.
"""
