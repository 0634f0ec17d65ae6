"""A database role for one call: OpenBao creates it in PostgreSQL, and drops it when the call ends."""

import os

import psycopg

import agentguard
from agentguard import AccessRequest, Guard, Resource, ToolPath
from agentguard.audit import JsonLinesAudit
from agentguard.catalog import Catalog
from agentguard.credentials.openbao import OpenBao
from agentguard.credentials.openbao.session import OpenBaoSession
from agentguard.identity.file import FileIdentity
from agentguard.stores import SqliteStore

SERVER = {"host": os.environ["PGHOST"], "port": os.environ["PGPORT"], "dbname": os.environ["PGDATABASE"]}

identity = FileIdentity(os.environ["AGENT_TOKEN_FILE"])  # a token from the platform, no password
session = OpenBaoSession(
    os.environ["BAO_ADDR"], identity=identity, mount="agents", role="read", audience="openbao/read"
)
# its policy permits `read` of this one path, and `update` of sys/leases/revoke
broker = OpenBao(ToolPath.READ, session, creds="reports-db/creds/read", server=SERVER)


def reads_only(request: AccessRequest) -> bool:
    return request.tool.path is ToolPath.READ


guard = Guard(
    catalog=Catalog(resources=[Resource(name="reports-db")]),
    policy=reads_only,
    identity=identity,
    brokers={("reports-db", ToolPath.READ): broker},
    store=SqliteStore(".agentguard/state.db"),  # lists what to revoke after a crash
    audit=JsonLinesAudit(".agentguard/audit.jsonl"),
)
role = {}


@guard.tool(path="read", resource="reports-db")
def read_report(number: int) -> str:
    """Read a report."""
    db = agentguard.credential("reports-db")
    role.update(user=db.username, password=db.password)
    with psycopg.connect(user=db.username, password=db.password, **SERVER) as connection:
        return connection.execute("SELECT text FROM report WHERE id = %s", [number]).fetchone()[0]


with guard.task("Read the report", subject="user://alice", mandate={"tools": ["read_report"]}) as task:
    print("report: ", read_report.invoke({"number": 1}))
    try:
        psycopg.connect(**role, **SERVER)
    except psycopg.OperationalError:
        print("after:   PostgreSQL refuses the role")

print(f"\n{task.timeline()}")
guard.close()
broker.close()
