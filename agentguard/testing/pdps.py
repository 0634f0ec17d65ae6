"""The contract suite of a policy that asks a policy decision point (PDP) in another process."""
# ruff: noqa: S101, D102  a contract asserts, and its names are sentences

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from agentguard.errors import AgentGuardError
from agentguard.testing.contracts import PolicyContract
from agentguard.testing.scenarios import AwaitedPort, assert_raises, on_both_paths

__all__ = ["PdpContract"]

Handle = Callable[[httpx.Request], httpx.Response]


def _raising(error: Exception) -> Handle:
    def handle(_request: httpx.Request) -> httpx.Response:
        raise error

    return handle


def _saying(content: bytes) -> Handle:
    return lambda _request: httpx.Response(200, content=content, headers=JSON)


class PdpContract(PolicyContract):
    """Tests that a policy which asks a PDP over httpx permits only on a clear and complete answer.

    Override `over`, and `permit`, which returns the PDP's answer to a request that it permits.
    """

    def over(self, transport: httpx.MockTransport) -> Any:
        """Return a new policy that sends its requests over this transport."""
        raise NotImplementedError

    def permit(self, request: httpx.Request) -> httpx.Response:
        """Return the PDP's answer to any request of the policy; if a decision is requested, a permit."""
        raise NotImplementedError

    def make(self) -> Any:
        return self.over(httpx.MockTransport(lambda request: self._respond(request)))

    _answer: Handle | None = None

    def _respond(self, request: httpx.Request) -> httpx.Response:
        return (self._answer or self.permit)(request)

    async def _permits(self, policy: AwaitedPort, answer: Handle | None) -> bool:
        self._answer = answer
        try:
            return bool((await policy.decide(self.request())).permitted)
        except AgentGuardError:
            return False
        finally:
            self._answer = None

    def _changed(self, **changes: Any) -> Handle:
        def handle(request: httpx.Request) -> httpx.Response:
            answer = self.permit(request)
            parts = {"content": answer.content, "headers": dict(answer.headers), **changes}
            return httpx.Response(parts.pop("status", answer.status_code), **parts)

        return handle

    @on_both_paths
    async def test_a_clear_permit_permits(self, policy: AwaitedPort) -> None:
        assert await self._permits(policy, None)

    @on_both_paths
    async def test_another_status_is_no_permit(self, policy: AwaitedPort) -> None:
        for status in (201, 204, 400, 401, 403, 429, 500, 503):
            assert not await self._permits(policy, self._changed(status=status)), status

    @on_both_paths
    async def test_a_redirect_is_not_followed(self, policy: AwaitedPort) -> None:
        headers = {"Location": "https://evil.example/", "Content-Type": "application/json"}
        for status in (301, 302, 307):
            assert not await self._permits(policy, self._changed(status=status, headers=headers))

    @on_both_paths
    async def test_another_content_type_is_no_permit(self, policy: AwaitedPort) -> None:
        for kind in ("text/html", "text/plain", ""):
            assert not await self._permits(policy, self._changed(headers={"Content-Type": kind})), kind

    @on_both_paths
    async def test_half_an_answer_and_a_huge_one_are_no_permit(self, policy: AwaitedPort) -> None:
        def cut(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, content=self.permit(request).content[:-1], headers=JSON)

        def huge(request: httpx.Request) -> httpx.Response:
            content = self.permit(request).content[:-1] + b" " * 1_000_000 + b"}"
            return httpx.Response(200, content=content, headers=JSON)

        assert not await self._permits(policy, cut)
        assert not await self._permits(policy, huge)

    @on_both_paths
    async def test_nonsense_is_no_permit(self, policy: AwaitedPort) -> None:
        for content in (b"", b"true", b"[]", b"{}", b"null", b'"yes"', b"\xff", b"{" * 10_000):
            assert not await self._permits(policy, _saying(content)), content

    @on_both_paths
    async def test_a_dead_or_slow_pdp_permits_nothing_and_no_error_says_what_was_asked(
        self, policy: AwaitedPort
    ) -> None:
        values = [str(value) for value in self.request().arguments.values.values()]
        for error in (httpx.ConnectError("dead"), httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("x")):
            self._answer = _raising(error)
            text = await assert_raises(AgentGuardError, policy.decide(self.request()))
            self._answer = None
            assert not any(value in text for value in values)


JSON = {"Content-Type": "application/json"}
