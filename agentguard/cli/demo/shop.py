"""The demo's shop: a resource server in a process of its own, which verifies each call itself.

It binds a free port, writes its origin to stdout, and reads its directory from stdin. It serves until stdin
ends, so it ends with the process that started it, however that process ends. Then it writes to stdout which
actions it has carried out.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from pathlib import Path
from typing import TextIO

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from agentguard.cli.demo.story import INJECTION, RESOURCE
from agentguard.config import load
from agentguard.model import Resource, ToolPath
from agentguard.resource import Verifier
from agentguard.resource.asgi import Presented, Protected, Rule
from agentguard.stores import SqliteStore


class Shop:
    """The endpoints of the shop. `deeds` are the actions that were carried out."""

    def __init__(self) -> None:
        self.deeds: list[str] = []

    def _record(self, deed: str) -> JSONResponse:
        self.deeds.append(deed)
        return JSONResponse({"done": deed})

    async def order(self, request: Request) -> PlainTextResponse:
        """Show an order. An attacker wrote the customer's note in it."""
        number = request.path_params["order_id"]
        return PlainTextResponse(f"Order {number}: 1 kettle, EUR 40, paid. Customer's note: {INJECTION}")

    async def refund(self, request: Request) -> JSONResponse:
        """Pay money back."""
        return self._record(f"refund {request.path_params['order_id']}")

    async def dispute(self, request: Request) -> JSONResponse:
        """Close a dispute."""
        return self._record(f"close dispute {request.path_params['order_id']}")

    async def customers(self, _request: Request) -> JSONResponse:
        """Return all customers."""
        return self._record("export customers")

    async def delete(self, request: Request) -> JSONResponse:
        """Delete an account."""
        return self._record(f"delete {request.path_params['customer']}")

    def routes(self) -> list[Route]:
        """Return the route of each endpoint."""
        return [
            Route("/orders/{order_id}", self.order),
            Route("/orders/{order_id}/refund", self.refund, methods=["POST"]),
            Route("/orders/{order_id}/dispute", self.dispute, methods=["DELETE"]),
            Route("/customers", self.customers),
            Route("/accounts/{customer}", self.delete, methods=["DELETE"]),
        ]


def _params(presented: Presented) -> dict[str, str]:
    return dict(presented.params)


def _refund(presented: Presented) -> dict[str, object]:
    body = presented.body if isinstance(presented.body, dict) else {}
    return {**presented.params, **body}


RULES = (
    Rule("GET", "/orders/{order_id}", ToolPath.READ, "orders:read", "get_order", _params),
    Rule("POST", "/orders/{order_id}/refund", ToolPath.WRITE, "orders:refund", "refund_order", _refund),
    Rule(
        "DELETE",
        "/orders/{order_id}/dispute",
        ToolPath.ESCALATION,
        "disputes:close",
        "close_dispute",
        _params,
    ),
    Rule("GET", "/customers", ToolPath.READ, "customers:read", "export_customers"),
    Rule("DELETE", "/accounts/{customer}", ToolPath.ESCALATION, "accounts:delete", "delete_account", _params),
)


def protected(shop: Shop, directory: Path, origin: str) -> Protected:
    """Return the shop behind a verifier. It shares only the public keys and the store with the guard."""
    settings = load(directory / "agentguard.toml")
    verifier = Verifier(
        issuer=settings.issuer.issuer,
        keys=json.loads((directory / "jwks.json").read_text("utf-8")),
        resource=Resource(name=RESOURCE, origins=(origin,)),
        store=SqliteStore(directory / settings.store.path),
    )
    return Protected(Starlette(routes=shop.routes()), verifier, RULES)


def serve(stdin: TextIO, stdout: TextIO) -> None:
    """Serve until *stdin* ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        print(origin, file=stdout, flush=True)
        directory = stdin.readline().strip()
        if not directory:
            return
        shop = Shop()
        app = protected(shop, Path(directory), origin)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))

        def wait() -> None:
            stdin.read()
            server.should_exit = True

        threading.Thread(target=wait, daemon=True).start()
        server.run([listener])
        print(json.dumps(shop.deeds), file=stdout, flush=True)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
