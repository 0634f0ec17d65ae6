"""The contract suite of a source of facts."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

from contextlib import suppress
from typing import Any

from agentguard.model import AccessRequest, Json
from agentguard.testing.samples import sample_request
from agentguard.testing.scenarios import AwaitedPort, Contract, on_both_paths

__all__ = ["FactContract"]

STRANGE = (
    "' OR '1'='1",
    "4711; DROP TABLE orders",
    "../4711",
    "4711/../4711",
    "4711?x=1#y",
    "4711%2F..",
    "%",
    "*",
    "{key}",
    "a\nb\r\nHost: evil.example",
    "\x00",
    "\ud800",
)
"""Keys that mean something else in SQL, in a URL, in a header or in a template."""


class FactContract(Contract):
    """Tests a source of facts against `ports.FactSource`.

    Override `make`, and `key` with that of a record which is there.
    """

    def make(self) -> Any:
        """Return a new source."""
        raise NotImplementedError

    def key(self) -> tuple[Json, ...]:
        """Return the key of a record that is there."""
        return ("4711",)

    def request(self) -> AccessRequest:
        """Return a request in which the record is asked for."""
        return sample_request()

    def adapter(self) -> Any:
        return self.make()

    @on_both_paths
    async def test_the_same_key_names_the_same_record(self, source: AwaitedPort) -> None:
        records = [await source.read(self.request(), self.key()) for _ in range(3)]
        assert records[0] is not None
        assert records == records[:1] * 3

    @on_both_paths
    async def test_a_strange_key_is_nothing_but_the_name_of_no_record(self, source: AwaitedPort) -> None:
        for text in STRANGE:
            record = None
            with suppress(Exception):  # whatever is raised is a denied call
                record = await source.read(self.request(), (text, *self.key()[1:]))
            assert record is None, text
        assert await source.read(self.request(), self.key()) is not None

    @on_both_paths
    async def test_reading_changes_nothing_of_the_request(self, source: AwaitedPort) -> None:
        request = self.request()
        await source.read(request, self.key())
        assert request == self.request()
