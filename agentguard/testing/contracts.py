"""What a policy, a broker and an audit log promise, as suites that pytest collects when subclassed."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentguard.errors import AuditError, IssueError
from agentguard.model import AccessRequest, Credential, Decision, Effect, Grant, ToolPath
from agentguard.testing.both import Contract, Face, both, refused
from agentguard.testing.samples import sample_grant, sample_request

__all__ = ["AuditContract", "BrokerContract", "PolicyContract"]


class PolicyContract(Contract):
    """Holds a policy to `ports.Policy`. Override `make`, and `request` for one that it understands."""

    def make(self) -> Any:
        """Return a new policy."""
        raise NotImplementedError

    def request(self) -> AccessRequest:
        """Return a request that the policy can answer, whichever way."""
        return sample_request()

    def adapter(self) -> Any:
        return self.make()

    @both
    async def test_the_answer_is_a_decision(self, policy: Face) -> None:
        decision = await policy.decide(self.request())
        assert isinstance(decision, Decision)
        assert isinstance(decision.effect, Effect)
        assert all(isinstance(each, str) for each in decision.policy_ids)

    @both
    async def test_the_same_question_has_the_same_answer(self, policy: Face) -> None:
        decisions = [await policy.decide(self.request()) for _ in range(5)]
        assert decisions == decisions[:1] * 5

    @both
    async def test_the_version_names_the_rules_and_is_steady(self, policy: Face) -> None:
        version = policy.port.version
        assert isinstance(version, str)
        assert version
        await policy.decide(self.request())
        assert policy.port.version == version

    @both
    async def test_deciding_changes_nothing_of_the_request(self, policy: Face) -> None:
        request = self.request()
        await policy.decide(request)
        assert request == self.request()


class BrokerContract(Contract):
    """Holds a broker to `ports.Broker`. Override `make`, and `grant` for one that it can mint for."""

    def make(self) -> Any:
        """Return a new broker."""
        raise NotImplementedError

    def grant(self, id: str, path: ToolPath) -> Grant:
        """Return a grant with that id for that path."""
        return sample_grant(id, path=path)

    def adapter(self) -> Any:
        return self.make()

    def _path(self, broker: Face) -> ToolPath:
        return ToolPath(min(broker.port.paths))

    @both
    async def test_it_serves_the_paths_that_it_says(self, broker: Face) -> None:
        paths = broker.port.paths
        assert paths
        assert all(isinstance(path, ToolPath) for path in paths)
        for path in set(ToolPath) - paths:
            await refused(IssueError, broker.issue(self.grant("other", path)))

    @both
    async def test_a_credential_shows_its_secret_to_nobody(self, broker: Face) -> None:
        credential = await broker.issue(self.grant("shown", self._path(broker)))
        assert isinstance(credential, Credential)
        assert credential.reveal()
        for text in (repr(credential), str(credential), credential.id, credential.handle):
            assert credential.reveal() not in text

    @both
    async def test_each_grant_has_a_credential_of_its_own(self, broker: Face) -> None:
        one = await broker.issue(self.grant("one", self._path(broker)))
        two = await broker.issue(self.grant("two", self._path(broker)))
        assert one.reveal() != two.reveal()
        assert one.handle != two.handle

    @both
    async def test_revoking_twice_or_the_unknown_is_no_error(self, broker: Face) -> None:
        credential = await broker.issue(self.grant("gone", self._path(broker)))
        for handle in (credential.handle, credential.handle, "never-issued"):
            await broker.revoke(handle, credential.expires_at)


class AuditContract(Contract):
    """Holds an audit log to `ports.AuditLog`. Override `make`."""

    def make(self) -> Any:
        """Return a new, empty log."""
        raise NotImplementedError

    def adapter(self) -> Any:
        return self.make()

    @both
    async def test_records_come_back_in_their_order(self, audit: Face) -> None:
        for number in range(20):
            await audit.append({"event": "decision", "task": "t", "number": number})
        assert [record["number"] for record in _records(audit)] == list(range(20))

    @both
    async def test_a_task_is_shown_with_its_descendants(self, audit: Face) -> None:
        await audit.append({"task": "parent", "lineage": []})
        await audit.append({"task": "child", "lineage": ["parent", "root"]})
        await audit.append({"task": "other", "lineage": []})
        await audit.append({"task": None})
        assert [record["task"] for record in _records(audit, "parent")] == ["parent", "child"]
        assert [record["task"] for record in _records(audit, "child")] == ["child"]
        assert len(_records(audit)) == 4

    @both
    async def test_what_is_no_json_is_refused_and_leaves_no_trace(self, audit: Face) -> None:
        for value in (object(), b"bytes", float("nan"), {1, 2}):
            await refused(AuditError, audit.append({"task": "t", "value": value}))
        await audit.append({"task": "t", "value": "ü\n\u2028\ud800"})
        assert [record["value"] for record in _records(audit)] == ["ü\n\u2028\ud800"]

    @both
    async def test_a_record_stays_as_it_was_when_appended(self, audit: Face) -> None:
        record: dict[str, Any] = {"task": "t", "policies": ["one"]}
        await audit.append(record)
        record["policies"].append("two")
        assert _records(audit)[0]["policies"] == ["one"]


def _records(audit: Face, task_id: str | None = None) -> list[Mapping[str, Any]]:
    return list(audit.port.records(task_id))
