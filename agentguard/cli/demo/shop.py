"""The demo's shop: a resource server in a process of its own, which believes nobody.

It binds a free port itself and reports it on stdout, is told its directory on stdin, serves until
stdin ends (so it dies with whoever started it, however that one dies), and then says on stdout what
it has really done.
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
    """The endpoints, and `deeds`: what was really done."""

    def __init__(self) -> None:
        self.deeds: list[str] = []

    def _did(self, deed: str) -> JSONResponse:
        self.deeds.append(deed)
        return JSONResponse({"done": deed})

    async def order(self, request: Request) -> PlainTextResponse:
        """Show an order; the customer's note is what an attacker wrote."""
        number = request.path_params["order_id"]
        return PlainTextResponse(f"Order {number}: 1 kettle, EUR 40, paid. Customer's note: {INJECTION}")

    async def refund(self, request: Request) -> JSONResponse:
        """Pay money back."""
        return self._did(f"refund {request.path_params['order_id']}")

    async def dispute(self, request: Request) -> JSONResponse:
        """Close a dispute."""
        return self._did(f"close dispute {request.path_params['order_id']}")

    async def customers(self, _request: Request) -> JSONResponse:
        """Give all customers away."""
        return self._did("export customers")

    async def delete(self, request: Request) -> JSONResponse:
        """Delete an account."""
        return self._did(f"delete {request.path_params['customer']}")

    def routes(self) -> list[Route]:
        """Return where each endpoint is."""
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
    """Return the shop behind a verifier, which shares the guard's public keys and store alone."""
    settings = load(directory / "agentguard.toml")
    verifier = Verifier(
        issuer=settings.issuer.issuer,
        keys=json.loads((directory / "jwks.json").read_text("utf-8")),
        resource=Resource(name=RESOURCE, origins=(origin,)),
        store=SqliteStore(directory / settings.store.path),
    )
    return Protected(Starlette(routes=shop.routes()), verifier, RULES)


def serve(asked: TextIO, told: TextIO) -> None:
    """Serve until *asked* ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        print(origin, file=told, flush=True)
        directory = asked.readline().strip()
        if not directory:
            return
        shop = Shop()
        app = protected(shop, Path(directory), origin)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))

        def wait() -> None:
            asked.read()
            server.should_exit = True

        threading.Thread(target=wait, daemon=True).start()
        server.run([listener])
        print(json.dumps(shop.deeds), file=told, flush=True)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
