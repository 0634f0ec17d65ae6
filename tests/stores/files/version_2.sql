BEGIN TRANSACTION;
CREATE TABLE approvals (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, call_key TEXT NOT NULL, task_id TEXT NOT NULL,
    tool TEXT NOT NULL, digest TEXT NOT NULL, policy_version TEXT NOT NULL, expires_at REAL NOT NULL,
    status TEXT NOT NULL, approver TEXT, reason TEXT NOT NULL) STRICT;
INSERT INTO "approvals" VALUES(1,'pending','k-pending','child','pay','digest pending','1',1000000000000.0,'pending',NULL,'');
INSERT INTO "approvals" VALUES(2,'approved','k-approved','child','pay','digest approved','1',1000000000000.0,'approved','user:eve','');
INSERT INTO "approvals" VALUES(3,'denied','k-denied','child','pay','digest denied','1',1000000000000.0,'denied','user:eve','');
INSERT INTO "approvals" VALUES(4,'used','k-used','child','pay','digest used','1',1000000000000.0,'used','user:eve','');
CREATE TABLE calls (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, task_id TEXT NOT NULL, tool TEXT NOT NULL, path TEXT NOT NULL,
    approval_id TEXT, suspended INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;
INSERT INTO "calls" VALUES('c-open','k-c-open','child','look','read',NULL,0);
INSERT INTO "calls" VALUES('c-suspended','k-c-suspended','child','look','read',NULL,1);
CREATE TABLE credentials (
    call_id TEXT NOT NULL, task_id TEXT NOT NULL, broker TEXT NOT NULL, handle TEXT NOT NULL,
    expires_at REAL NOT NULL, owner TEXT NOT NULL,
    PRIMARY KEY (call_id, broker, handle)) STRICT, WITHOUT ROWID;
INSERT INTO "credentials" VALUES('c-open','child','local','c-open',1000000000000.0,'somewhere|1@2');
CREATE TABLE keys (key TEXT PRIMARY KEY, until REAL NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "keys" VALUES('jti-1',1000000000000.0);
CREATE TABLE lineage (
    ancestor TEXT NOT NULL, task_id TEXT NOT NULL, PRIMARY KEY (ancestor, task_id)) STRICT, WITHOUT ROWID;
INSERT INTO "lineage" VALUES('root','child');
CREATE TABLE tasks (
    id TEXT PRIMARY KEY, fixed TEXT NOT NULL, deadline REAL NOT NULL, over REAL NOT NULL,
    status TEXT NOT NULL, calls INTEGER NOT NULL, writes INTEGER NOT NULL, history TEXT NOT NULL,
    untrusted INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "tasks" VALUES('child','{"purpose": "Pay the bill", "identity": ["user:ada", "agent:one", []], "mandate": {"tools": ["look", "pay"], "args": {"bill": ["b-1"]}}, "budget": [null, null], "lineage": ["root"]}',1000000000000.0,1000000000000.0,'active',4,2,'["pay", "look"]',1);
INSERT INTO "tasks" VALUES('fresh','{"purpose": "Pay the bill", "identity": ["user:ada", "agent:one", []], "mandate": {"tools": ["look", "pay"], "args": {"bill": ["b-1"]}}, "budget": [null, null], "lineage": []}',1000000000000.0,1000000000000.0,'active',0,0,'[]',0);
INSERT INTO "tasks" VALUES('over','{"purpose": "Pay the bill", "identity": ["user:ada", "agent:one", []], "mandate": {"tools": ["look", "pay"], "args": {"bill": ["b-1"]}}, "budget": [null, null], "lineage": []}',1000000000000.0,1000.0,'revoked',0,0,'[]',0);
INSERT INTO "tasks" VALUES('root','{"purpose": "Pay the bill", "identity": ["user:ada", "agent:one", []], "mandate": {"tools": ["look", "pay"], "args": {"bill": ["b-1"]}}, "budget": [5, 2], "lineage": []}',1000000000000.0,1000000000000.0,'active',4,2,'["pay", "look"]',1);
CREATE INDEX tasks_over ON tasks (over);
CREATE INDEX calls_suspended ON calls (key) WHERE suspended;
CREATE INDEX keys_until ON keys (until);
CREATE INDEX approvals_call ON approvals (call_key);
CREATE INDEX approvals_expiry ON approvals (expires_at);
COMMIT;
PRAGMA user_version = 2;
