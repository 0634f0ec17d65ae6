"""The store of several machines, in PostgreSQL 12 or later. It needs the extra ``postgres``.

    store        `PostgresStore`: its operations, for threads and for event loops
    _statements  what each operation asks the server
    _answers     what the answer means, and the errors that `_rules` makes of a refusal
    _functions, _approval_functions, _comparison, _counter_functions, _pruning
                 the functions in PL/pgSQL, which decide and write
    _basis       begins a call if what it was judged by is still so
    _tables, _schema
                 the tables, and what makes them or brings them to the newest version
    _operations  runs a statement within the time, and again where that may be
    _pool        pools, for threads and for each event loop
    _demands     what the server has to promise, and which store has to be there

Connections are those of `agentguard.postgres`.

The store is in a schema of its own, so it can live in a database that has other tables. The role of the URL
makes the schema at the first use, if it has the right CREATE on the database. To run with fewer rights, an
owner runs ``agentguard store migrate`` first, and grants the role that the guards use, here guard:

    GRANT USAGE ON SCHEMA agentguard TO guard;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA agentguard TO guard;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA agentguard TO guard;

That role can then make and drop nothing. Each role that may write these tables can give itself any approval,
so it belongs to the guards alone.

A connection pooler (PgBouncer) has to lend a session for a connection (``pool_mode = session``): the store
sets time-outs and isolation for its sessions. What a primary has acknowledged is lost with it if a standby
that lags takes its place: name the standby in ``synchronous_standby_names``.
"""

from __future__ import annotations

from agentguard.postgres.address import holds_password
from agentguard.postgres.durability import Durability
from agentguard.stores.postgres.store import PostgresStore

__all__ = ["Durability", "PostgresStore", "holds_password"]
