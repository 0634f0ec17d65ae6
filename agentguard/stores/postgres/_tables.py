"""The tables of the PostgreSQL store.

`agentguard.` stands for the schema that the store is in. All texts have the collation "C": an index is
smaller and faster by it, and identifiers are ordered as Python orders them. Times are seconds since the
epoch, as Python's floats are.

A row of `tasks` is written by each call, so no index is on a column that a call changes: PostgreSQL then
writes the new row into the free part of the old one's page, and no index at all. The handle of a credential
is in no index: it may be a sealed token of some kilobytes, and PostgreSQL indexes at most 2704 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MIGRATIONS", "TABLES", "VERSION"]

VERSION = 4
"""The version of the tables and of the functions. A change of either makes a new one."""

_TO_2 = """
ALTER TABLE agentguard.tasks ADD COLUMN max_choice_bits numeric;
ALTER TABLE agentguard.tasks ADD COLUMN choice_bits bigint NOT NULL DEFAULT 0;
UPDATE agentguard.tasks SET max_choice_bits = 1024;
DROP FUNCTION agentguard.create_task(
    text, text[], text, text, text[], double precision, numeric, numeric, numeric, text, bigint, bigint,
    text[], boolean, integer, bigint, bigint);
DROP FUNCTION agentguard.begin_call(
    text, text, text, text, text, boolean, text, double precision, text[], double precision);
"""

_COUNTERS = """
CREATE TABLE agentguard.counters (
    owner text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    bucket bigint NOT NULL,
    value bigint NOT NULL,
    until double precision NOT NULL,
    PRIMARY KEY (owner, name, bucket)
) WITH (fillfactor = 70);
CREATE INDEX counters_until ON agentguard.counters (until) WHERE until > 0;
"""

_TO_4 = "ALTER TABLE agentguard.calls ADD COLUMN counted text[];" + _COUNTERS

MIGRATIONS: Mapping[int, str] = {1: _TO_2, 2: "", 3: _TO_4}
"""By the version that a store has: what brings its tables to the next one. The functions are made anew.

To 2: a task counts what its calls say by the choice among values.
To 3: a function more.
To 4: calls that were done are counted. Nothing is counted in a task that began before.
"""

TABLES = (
    """
CREATE TABLE agentguard.version (number integer NOT NULL);

CREATE TABLE agentguard.tasks (
    id text COLLATE "C" PRIMARY KEY,
    depth integer NOT NULL,
    lineage text[] NOT NULL,
    fixed text NOT NULL,
    subject text COLLATE "C" NOT NULL,
    login_issuer text COLLATE "C",
    login_subject text COLLATE "C",
    login_session text COLLATE "C",
    login_jti text COLLATE "C",
    deadline double precision NOT NULL,
    over double precision NOT NULL,
    max_calls numeric,
    max_writes numeric,
    max_questions numeric,
    status text COLLATE "C" NOT NULL,
    calls bigint NOT NULL,
    writes bigint NOT NULL,
    history text[] NOT NULL,
    untrusted boolean NOT NULL,
    sensitivity integer NOT NULL,
    labels bigint NOT NULL,
    questions bigint NOT NULL,
    max_choice_bits numeric,
    choice_bits bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE INDEX tasks_over ON agentguard.tasks (over);
CREATE INDEX tasks_active ON agentguard.tasks (subject) WHERE status = 'active';
CREATE INDEX tasks_user ON agentguard.tasks (login_subject)
    WHERE status = 'active' AND login_subject IS NOT NULL;
CREATE INDEX tasks_session ON agentguard.tasks (login_session)
    WHERE status = 'active' AND login_session IS NOT NULL;
CREATE INDEX tasks_token ON agentguard.tasks (login_jti)
    WHERE status = 'active' AND login_jti IS NOT NULL;

CREATE TABLE agentguard.lineage (
    ancestor text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (ancestor, task_id)
);
CREATE INDEX lineage_task ON agentguard.lineage (task_id);

CREATE TABLE agentguard.labels (
    n bigint GENERATED ALWAYS AS IDENTITY,
    family text COLLATE "C" NOT NULL,
    digest text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    trusted boolean NOT NULL,
    sensitivity integer NOT NULL,
    PRIMARY KEY (family, digest, source)
);

CREATE TABLE agentguard.calls (
    id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    tool text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    approval_id text COLLATE "C",
    suspended boolean NOT NULL,
    counted text[]
);
CREATE UNIQUE INDEX calls_running ON agentguard.calls (id) WHERE NOT suspended;
CREATE INDEX calls_suspended ON agentguard.calls (key) WHERE suspended;
CREATE INDEX calls_task ON agentguard.calls (task_id);

CREATE TABLE agentguard.credentials (
    call_id text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    broker text COLLATE "C" NOT NULL,
    handle text COLLATE "C" NOT NULL,
    expires_at double precision NOT NULL,
    owner text COLLATE "C" NOT NULL
);
CREATE INDEX credentials_call ON agentguard.credentials (call_id);
CREATE INDEX credentials_task ON agentguard.credentials (task_id);
CREATE INDEX credentials_expiry ON agentguard.credentials (expires_at);

CREATE TABLE agentguard.keys (
    key text COLLATE "C" PRIMARY KEY,
    until double precision NOT NULL
);
CREATE INDEX keys_until ON agentguard.keys (until);

CREATE TABLE agentguard.approvals (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    call_key text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    tool text COLLATE "C" NOT NULL,
    digest text COLLATE "C" NOT NULL,
    policy_version text COLLATE "C" NOT NULL,
    expires_at double precision NOT NULL,
    status text COLLATE "C" NOT NULL,
    approver text COLLATE "C",
    reason text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    purpose text COLLATE "C" NOT NULL,
    display text COLLATE "C" NOT NULL,
    shown_digest text COLLATE "C" NOT NULL,
    family text COLLATE "C" NOT NULL,
    answered_at double precision
);
CREATE INDEX approvals_call ON agentguard.approvals (call_key, n);
CREATE INDEX approvals_expiry ON agentguard.approvals (expires_at);
CREATE INDEX approvals_denied ON agentguard.approvals (family, tool, shown_digest) WHERE status = 'denied';
"""
    + _COUNTERS
)
