"""A local HTTP server with the part of OpenBao's API that `agentguard exec` uses, and its own bookkeeping.

Run as a program it prints its address; ``GET /state`` says what it minted and what is revoked.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class State:
    """Logins and leases that live, and how long each lives at most, in seconds."""

    def __init__(self, ttl: float, most: float) -> None:
        self.ttl, self.most, self.count = ttl, most, 0
        self.tokens: dict[str, float] = {}
        self.leases: dict[str, str] = {}
        self.begun: dict[str, float] = {}
        self.revoked: list[str] = []
        self.asked: list[str] = []
        self.value, self.down, self.delay = "stored-1", False, 0.0
        self.forbidden: list[str] = []  # what no policy permits
        self.entities = {"a-0": "somebody-else"}  # whose token an accessor names, if not our workload's
        self.roles: dict[str, str] = {}

    def answer(self, path: str, token: str, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append(path)
        time.sleep(self.delay)
        if self.down:
            return 500, {}
        if path == "auth/jwt/login":
            self.count += 1
            self.tokens[f"token-{self.count}"] = time.time()
            auth = {"client_token": f"token-{self.count}", "accessor": f"a-{self.count}"}
            self.roles[f"a-{self.count}"] = str(body["role"])
            return 200, {"auth": {**auth, "lease_duration": int(self.ttl)}}
        if token != "given" and token not in self.tokens:
            return 403, {"errors": ["permission denied"]}
        if path in self.forbidden:
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        if path.startswith("sys/leases/"):
            return self._lease(path, str(body["lease_id"]))
        if path.endswith("-accessor"):
            return self._accessor(path, str(body["accessor"]))
        return self._other(path, token)

    def _accessor(self, path: str, accessor: str) -> tuple[int, Any]:
        token = accessor.replace("a-", "token-")
        if token not in self.tokens:
            known = {"warnings": ["No token found with this accessor"]}
            return (200, known) if "revoke" in path else (400, {"errors": ["invalid accessor"]})
        if "revoke" in path:
            return self._end(token)
        return 200, {"data": self._facts(accessor)}

    def _facts(self, accessor: str) -> dict[str, Any]:
        entity, role = self.entities.get(accessor, "workload"), self.roles.get(accessor, "exec")
        return {"accessor": accessor, "entity_id": entity, "path": "auth/jwt/login", "meta": {"role": role}}

    def _end(self, token: str) -> tuple[int, Any]:
        del self.tokens[token]
        self.revoked += [token, *(lease for lease, of in self.leases.items() if of == token)]
        self.leases = {lease: of for lease, of in self.leases.items() if of != token}
        return 204, None

    def _other(self, path: str, token: str) -> tuple[int, Any]:
        if path == "auth/token/renew-self":
            return 200, {"auth": {"lease_duration": self._left(self.tokens[token])}}
        if path == "auth/token/lookup-self":
            return 200, {"data": self._facts(token.replace("token-", "a-"))}
        if path == "auth/token/revoke-self":
            return self._end(token)
        if path == "database/creds/ro":
            self.count += 1
            lease = f"database/creds/ro/{self.count}"
            self.leases[lease], self.begun[lease] = token, time.time()
            data = {"username": f"user-{self.count}", "password": f"password-{self.count}"}
            return 200, {"lease_id": lease, "lease_duration": int(self.ttl), "data": data}
        if path == "secret/data/api":
            return 200, {"data": {"data": {"key": self.value}, "metadata": {"version": 1}}}
        return 404, {"errors": []}

    def _lease(self, path: str, lease: str) -> tuple[int, Any]:
        if path.endswith("/renew"):
            return 200, {"lease_id": lease, "lease_duration": self._left(self.begun[lease])}
        if self.leases.pop(lease, None):
            self.revoked.append(lease)
        return 204, None

    def _left(self, begun: float) -> int:
        return int(min(self.ttl, begun + self.most - time.time()))


def main(ttl: float, most: float) -> None:
    state = State(ttl, most)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/state":
                facts = vars(state) | {"tokens": sorted(state.tokens), "leases": sorted(state.leases)}
                return self._send(200, facts)
            return self._reply({})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            if self.path == "/state":
                vars(state).update(body)
                return self._send(204, None)
            return self._reply(body)

        def _reply(self, body: dict[str, Any]) -> None:
            path = self.path.removeprefix("/v1/")
            self._send(*state.answer(path, self.headers.get("X-Vault-Token", ""), body))

        def _send(self, status: int, answer: Any) -> None:
            content = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
        sys.stdout.flush()
        server.serve_forever(0.05)


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
