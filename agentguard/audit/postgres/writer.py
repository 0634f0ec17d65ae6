"""What one process writes to the audit log in PostgreSQL: its chain, in a thread of its own.

The thread takes all records that wait and adds them in one statement. So calls that run side by side wait
together for the disk of the server, and not one after the other. Whoever appends waits for the record.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from agentguard.audit.chain import GENESIS, seal
from agentguard.audit.postgres.rows import Rows, Sealed, family_of
from agentguard.audit.records import is_told_once
from agentguard.errors import AgentGuardError, AuditError
from agentguard.postgres.connector import Connector
from agentguard.postgres.errors import lost_answer
from agentguard.postgres.links import Link

__all__ = ["OWED", "Entry", "Writer"]

OWED = 4_096
"""So many records that could not be written wait in memory at most."""
_BATCH = 256
_PAUSE = 1.0  # seconds between two attempts to write what waits, while nothing is appended
log = logging.getLogger("agentguard")


@dataclass(slots=True, eq=False)
class Entry:
    """A record that somebody waits for. With *permits*, a call runs only if it is written.

    `given_up` says that nobody waits any more: a permit is then not written, unless it is under way.
    """

    record: Mapping[str, Any]
    permits: bool
    answer: Future[None] = field(default_factory=Future)
    given_up: bool = False

    def finish(self, error: Exception | None = None) -> None:
        """Tell whoever waits that the record is written, or what has failed."""
        with suppress(InvalidStateError):  # nobody waits, and has said so
            if error is None:
                self.answer.set_result(None)
            else:
                self.answer.set_exception(error)


class Writer:
    """Writes the chain of one process. Its thread begins with the first record.

    *clock* gives the times of the records that the writer makes itself.
    """

    def __init__(self, connector: Connector, schema: str, timeout: float, clock: Callable[[], str]) -> None:
        self._connector, self._schema, self._timeout, self._clock = connector, schema, timeout, clock
        self.name, self._head = secrets.token_hex(12), GENESIS
        self._queue: SimpleQueue[Entry | None] = SimpleQueue()
        self._owed: deque[Mapping[str, Any]] = deque()
        self._lost = 0
        self._under_way: list[Sealed] = []  # sent, and no answer has come
        self._link: Link | None = None
        self._starts = count()  # of several threads, one begins this object's own
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """How many records could not be written yet."""
        return len(self._owed) + self._lost + len(self._under_way)

    def submit(self, entry: Entry) -> None:
        """Have a record written."""
        self._queue.put(entry)
        if next(self._starts) == 0:
            self._thread = threading.Thread(target=self._run, name="agentguard-audit", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what waits, if that is possible within the time, and close the connection."""
        thread, self._thread, self._starts = self._thread, None, count()
        if thread is not None:
            self._queue.put(None)
            thread.join(3 * self._timeout)
        if self.waiting:
            log.error("%d records of the audit log were never written and are lost", self.waiting)

    def _run(self) -> None:
        closing = False
        while not closing:
            entries = list[Entry]()
            try:
                entry = self._queue.get(timeout=_PAUSE if self.waiting else None)
                while entry is not None:
                    entries.append(entry)
                    if len(entries) >= _BATCH:
                        break
                    entry = self._queue.get_nowait()
                closing = entry is None
            except Empty:
                pass
            self._write(entries)
        if self._link is not None:
            self._link.close()

    def _write(self, entries: list[Entry]) -> None:
        """Write what waits and these records. Each of them is told how that went."""
        entries = [entry for entry in entries if not (entry.permits and entry.given_up)]
        if not entries and not self.waiting:
            return
        departures = list[Entry]()
        for is_last in (False, True):  # a connection that was lost is opened anew, once
            try:
                self._write_once(entries, departures)
                return
            except Exception as error:  # noqa: BLE001  the thread goes on, and those who wait are told
                if self._link is not None:
                    self._link.close()
                if is_last or isinstance(error, AgentGuardError):
                    self._fail(entries, departures, error)
                    return

    def _write_once(self, entries: list[Entry], departures: list[Entry]) -> None:
        """Write what waits and these records; those that are or were under way are added to *departures*."""
        rows = self._rows()
        if self._under_way:  # it may have arrived, and is added once
            self._send(rows, self._under_way)
        self._add(rows, [entry for entry in entries if entry not in departures], departures)
        for entry in departures:
            entry.finish()

    def _rows(self) -> Rows:
        """Return the table by a connection that lives, which is opened anew if need be."""
        if self._link is None or not self._link.is_usable or self._link.notices_end():
            if self._link is not None:
                self._link.close()
            self._link = None
            self._link = Link(self._connector.open(time.monotonic() + self._timeout))
        return Rows(self._link.connection, self._schema, self._timeout)

    def _add(self, rows: Rows, entries: list[Entry], departures: list[Entry]) -> None:
        """Add all that waits and these records in one statement."""
        head, batch = self._head, list[Sealed]()
        records = [*self._owed, *(entry.record for entry in entries)]
        if self._lost:
            lost = {"at": self._clock(), "event": "lost", "records": self._lost}
            records.insert(len(self._owed), lost)
        if head == GENESIS and records:
            records.insert(0, self._beginning(rows))
        for record in records:
            line, head = seal(record, head)
            batch.append(Sealed(head, family_of(record), line.decode("ascii").rstrip("\n")))
        self._owed.clear()
        self._lost = 0
        departures.extend(entries)
        if batch:
            self._send(rows, batch)

    def _send(self, rows: Rows, batch: list[Sealed]) -> None:
        self._under_way = batch
        if rows.add(self.name, batch):
            self._head = batch[-1].head
            self._under_way = []
            return
        former, self.name, self._head, self._under_way = self.name, secrets.token_hex(12), GENESIS, []
        self._lost += len(batch)
        raise AuditError(f"another process has written as {former}: this one goes on in a chain of its own")

    def _beginning(self, rows: Rows) -> Mapping[str, Any]:
        return {
            "at": self._clock(),
            "event": "begun",
            "writer": self.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "witnessed": rows.newest_heads(),
        }

    def _fail(self, entries: list[Entry], departures: list[Entry], error: Exception) -> None:
        """Tell those who wait, and keep what has happened all the same."""
        if not isinstance(error, AgentGuardError):
            error = lost_answer(self._connector.address.name, error)
        for entry in entries:
            if entry not in departures and is_told_once(entry.record):
                self._owe(entry.record)
            entry.finish(AuditError(str(error)))

    def _owe(self, record: Mapping[str, Any]) -> None:
        if len(self._owed) < OWED:
            self._owed.append(record)
        else:
            self._lost += 1
