"""An API in a process of its own, as another user if the machine lets it. Of the guard it has a URL alone.

It reads its settings as JSON, and prints as JSON where it listens, who it is, and whether it can read the
guard's files.
"""

import asyncio
import json
import os
import sys
from encodings import idna as _idna  # noqa: F401  what certifi and socket import late is imported before, too
from importlib import readers as _readers  # noqa: F401  the same
from pathlib import Path
from typing import Annotated, Any

import httpx
import uvicorn
from fastapi import Depends, FastAPI

from agentguard.model import Resource, ToolPath
from agentguard.outbound import client as _client  # noqa: F401  imported before the user changes
from agentguard.resource import Claims, Introspection, Verifier
from agentguard.resource.asgi import require
from agentguard.stores.memory import MemoryStore
from tests.doubles.loopback import listener

NOBODY = 65534


def application(settings: dict[str, Any], origin: str) -> FastAPI:
    secret = {"Authorization": f"Bearer {settings['secret']}"}
    client = httpx.AsyncClient(trust_env=False, timeout=2.0)
    verifier = Verifier(
        issuer=settings["issuer"],
        keys=f"{settings['guard']}/jwks.json",
        resource=Resource(name="orders", origins=(origin,)),
        store=MemoryStore(),
        introspection=Introspection(f"{settings['guard']}/introspect", client, proof=lambda: ({}, secret)),
    )
    reads = require(verifier, path=ToolPath.READ, arguments=lambda request: request.params, origin=origin)
    api = FastAPI()

    @api.get("/orders/{order_id}")
    async def show(order_id: str, claims: Annotated[Claims, Depends(reads)]) -> str:
        return f"order {order_id} for {claims.subject}"

    return api


def main() -> None:
    settings: dict[str, Any] = json.load(sys.stdin)
    place = listener()
    port = place.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(application(settings, f"http://127.0.0.1:{port}"), log_level="error", lifespan="off")
    )
    server.config.load()
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        readable = bool(os.listdir(Path(settings["home"]) / ".agentguard"))
    except OSError:
        readable = False
    sys.stdout.write(json.dumps({"port": port, "uid": os.getuid(), "readable": readable}) + "\n")
    sys.stdout.flush()
    asyncio.run(server.serve(sockets=[place]))


if __name__ == "__main__":
    main()
