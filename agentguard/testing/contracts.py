"""The contract suites of a policy, a broker and an audit log. pytest collects a subclass of each."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from agentguard.errors import AuditError, IssueError, RevocationUnknown
from agentguard.model import AccessRequest, Credential, Decision, Effect, Grant, ToolPath
from agentguard.testing.samples import sample_grant, sample_request
from agentguard.testing.scenarios import AwaitedPort, Contract, assert_raises, on_both_paths

__all__ = ["AuditContract", "BrokerContract", "PolicyContract"]


class PolicyContract(Contract):
    """Tests a policy against `ports.Policy`.

    Override `make`. Override `request` too if the policy does not understand `sample_request()`.
    """

    def make(self) -> Any:
        """Return a new policy."""
        raise NotImplementedError

    def request(self) -> AccessRequest:
        """Return a request that the policy can answer with any decision."""
        return sample_request()

    def adapter(self) -> Any:
        return self.make()

    @on_both_paths
    async def test_the_answer_is_a_decision(self, policy: AwaitedPort) -> None:
        decision = await policy.decide(self.request())
        assert isinstance(decision, Decision)
        assert isinstance(decision.effect, Effect)
        assert all(isinstance(policy_id, str) for policy_id in decision.policy_ids)

    @on_both_paths
    async def test_the_same_question_has_the_same_answer(self, policy: AwaitedPort) -> None:
        decisions = [await policy.decide(self.request()) for _ in range(5)]
        assert decisions == decisions[:1] * 5

    @on_both_paths
    async def test_the_version_names_the_rules_and_is_steady(self, policy: AwaitedPort) -> None:
        version = policy.port.version
        assert isinstance(version, str)
        assert version
        await policy.decide(self.request())
        assert policy.port.version == version

    @on_both_paths
    async def test_deciding_changes_nothing_of_the_request(self, policy: AwaitedPort) -> None:
        request = self.request()
        await policy.decide(request)
        assert request == self.request()


class BrokerContract(Contract):
    """Tests a broker against `ports.Broker`.

    Override `make`. Override `grant` too if the broker cannot mint for `sample_grant()`.
    """

    def make(self) -> Any:
        """Return a new broker."""
        raise NotImplementedError

    def grant(self, id: str, path: ToolPath) -> Grant:
        """Return a grant with that id for that path."""
        return sample_grant(id, path=path)

    def adapter(self) -> Any:
        return self.make()

    def _path(self, broker: AwaitedPort) -> ToolPath:
        return ToolPath(min(broker.port.paths))

    @on_both_paths
    async def test_it_serves_the_paths_that_it_says(self, broker: AwaitedPort) -> None:
        paths = broker.port.paths
        assert paths
        assert all(isinstance(path, ToolPath) for path in paths)
        for path in set(ToolPath) - paths:
            await assert_raises(IssueError, broker.issue(self.grant("other", path)))

    @on_both_paths
    async def test_a_credential_shows_its_secret_to_nobody(self, broker: AwaitedPort) -> None:
        credential = await broker.issue(self.grant("shown", self._path(broker)))
        assert isinstance(credential, Credential)
        assert credential.reveal()
        for text in (repr(credential), str(credential), credential.id, credential.handle):
            assert credential.reveal() not in text

    @on_both_paths
    async def test_each_grant_has_a_credential_of_its_own(self, broker: AwaitedPort) -> None:
        one = await broker.issue(self.grant("one", self._path(broker)))
        two = await broker.issue(self.grant("two", self._path(broker)))
        assert one.reveal() != two.reveal()
        assert one.handle != two.handle

    @on_both_paths
    async def test_revoking_twice_is_no_error(self, broker: AwaitedPort) -> None:
        credential = await broker.issue(self.grant("gone", self._path(broker)))
        await broker.revoke(credential.handle, credential.expires_at)
        await broker.revoke(credential.handle, credential.expires_at)

    @on_both_paths
    async def test_of_an_unknown_handle_nothing_is_revoked_and_no_other_error_raised(
        self, broker: AwaitedPort
    ) -> None:
        credential = await broker.issue(self.grant("gone", self._path(broker)))
        with suppress(RevocationUnknown):
            await broker.revoke("never-issued", credential.expires_at)
        await broker.revoke(credential.handle, credential.expires_at)


class AuditContract(Contract):
    """Tests an audit log against `ports.AuditLog`. Override `make`."""

    def make(self) -> Any:
        """Return a new, empty log."""
        raise NotImplementedError

    def adapter(self) -> Any:
        return self.make()

    @on_both_paths
    async def test_records_come_back_in_their_order(self, audit: AwaitedPort) -> None:
        for number in range(20):
            await audit.append({"event": "decision", "task": "t", "number": number})
        assert [record["number"] for record in _records(audit)] == list(range(20))

    @on_both_paths
    async def test_a_task_is_shown_with_its_descendants(self, audit: AwaitedPort) -> None:
        await audit.append({"task": "parent", "lineage": []})
        await audit.append({"task": "child", "lineage": ["parent", "root"]})
        await audit.append({"task": "other", "lineage": []})
        await audit.append({"task": None})
        assert [record["task"] for record in _records(audit, "parent")] == ["parent", "child"]
        assert [record["task"] for record in _records(audit, "child")] == ["child"]
        assert len(_records(audit)) == 4

    @on_both_paths
    async def test_what_is_no_json_is_refused_and_leaves_no_trace(self, audit: AwaitedPort) -> None:
        for value in (object(), b"bytes", float("nan"), {1, 2}):
            await assert_raises(AuditError, audit.append({"task": "t", "value": value}))
        await audit.append({"task": "t", "value": "ü\n\u2028\ud800"})
        assert [record["value"] for record in _records(audit)] == ["ü\n\u2028\ud800"]

    @on_both_paths
    async def test_a_record_stays_as_it_was_when_appended(self, audit: AwaitedPort) -> None:
        record: dict[str, Any] = {"task": "t", "policies": ["one"]}
        await audit.append(record)
        record["policies"].append("two")
        assert _records(audit)[0]["policies"] == ["one"]


def _records(audit: AwaitedPort, task_id: str | None = None) -> list[Mapping[str, Any]]:
    return list(audit.port.records(task_id))
