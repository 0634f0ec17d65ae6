"""An authorization server that answers slowly holds no request of the resource, on either path."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest

from agentguard.errors import VerificationError
from agentguard.resource import Introspection
from tests.conftest import Mode
from tests.doubles.loopback import Connection, serving, trickle_body, trickle_header


@pytest.mark.promise("service-failures-bounded")
@pytest.mark.parametrize("respond", [trickle_header, trickle_body])
@pytest.mark.parametrize("native", [False, True], ids=["Client", "AsyncClient"])
async def test_a_server_that_never_comes_to_its_answer_is_an_unclear_answer_in_time(
    mode: Mode, respond: Callable[[Connection], None], native: bool
) -> None:
    if native and not mode.asynchronous:
        return
    with serving(respond) as server:
        client = httpx.AsyncClient(timeout=0.5) if native else httpx.Client(timeout=0.5)
        introspection = Introspection(f"{server.url}/introspect", client, timeout=0.2)
        began = time.monotonic()
        with pytest.raises(VerificationError, match="did not say") as caught:
            await mode.call(introspection, "claims", "token")
        assert time.monotonic() - began < 1.0
    assert caught.value.status == 503
