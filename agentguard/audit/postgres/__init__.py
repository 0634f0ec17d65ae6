"""The audit log in PostgreSQL 12 or later, beside the one in a file. It needs the extra ``postgres``.

    log          `PostgresAudit`, an `agentguard.ports.AuditLog`
    writer       what one process writes: its chain, one record after the other, in a thread of its own
    tables       the table, and what makes it
    rows         reads the records, and writes them
    checking     verifies all chains, and that none is missing

    [audit]
    kind = "postgres"
    url = "postgresql://agent@db.example/logs"
    password = "env:AUDIT_PASSWORD"        # or file:, keyring:, aws:, gcp:, azure:; read again when refused
    schema = "agentguard_audit"
    timeout = 2                            # seconds for an append

Several processes write at once, so each has a chain of its own (`agentguard.audit.chain`): its records have
the numbers 1, 2, 3 and so on, and each holds the hash of the one before. Two records of one writer with one
number cannot be. A chain begins with a record `begun`, which holds the newest heads of up to `rows.WITNESSED`
other chains. So a chain that is missing, or that lost its end before another one began, is found by those.
What was removed since, a head shows that was kept elsewhere: `agentguard audit verify` prints one for all
chains together.

The table is in a schema of its own. The role of the URL makes it at the first use, if it has the right CREATE
on the database. To run with fewer rights, an owner runs ``agentguard audit migrate`` first, and grants the
role of the agents, here agent, that it may read and add:

    GRANT USAGE ON SCHEMA agentguard_audit TO agent;
    GRANT SELECT ON ALL TABLES IN SCHEMA agentguard_audit TO agent;
    GRANT INSERT (writer, seq, hash, family, line) ON agentguard_audit.records TO agent;

That role can change and delete nothing, and it cannot say at what place or time a record was added: with
INSERT on the whole table it could. Nobody is to give it UPDATE, DELETE or TRUNCATE, or the ownership of the
table. For the owner too, a trigger refuses these: to delete what has been kept long enough, the owner
disables the trigger `append_only`, deletes whole chains, and enables it. `agentguard audit verify` then names
each of them as removed that a chain which was kept has seen, and no head from before holds any more.
A role that may add records can add wrong ones, as who may write a file can.

`agentguard explain`, `simulate` and `suggest` read a log in a file alone.

A record is written when PostgreSQL has acknowledged it, so a server with ``fsync = off`` is refused. While
the server is away, no call is permitted: a call is denied before anything is minted, as with a full disk. If
an answer was lost, the same record is sent again, and the server takes it once. Records of what has happened
all the same, such as the end of a call, wait in memory and are written before the next one. Of more than
`writer.OWED`, or when the process ends first, their number is logged, and a record `lost` says it.
"""

from __future__ import annotations

from agentguard.audit.postgres.checking import LogReport, verify_log
from agentguard.audit.postgres.log import PostgresAudit

__all__ = ["LogReport", "PostgresAudit", "verify_log"]
