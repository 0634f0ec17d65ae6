"""A strict stand-in for GitHub's API: what its documentation says of App tokens, and no more."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

LEVELS = ("read", "write", "admin")
APP = {"contents": "write", "issues": "write", "administration": "write", "metadata": "read"}
REPOSITORIES = ("website", "docs", "secrets")


@dataclass
class GitHub:
    """Verifies the App's JWT, narrows, and ends tokens. `distort` changes an answer before it is given."""

    key: RSAPublicKey
    clock: Callable[[], float] = time.time
    distort: Callable[[dict[str, Any]], Any] = lambda answer: answer
    fail_delete: int | None = None
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    token_requests: list[dict[str, Any]] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.url.path == "/app/installations/42/access_tokens" and request.method == "POST":
            return self._mint(request, bearer)
        if bearer not in self.tokens:
            return httpx.Response(401, json={"message": "Bad credentials"})
        if request.url.path == "/installation/token" and request.method == "DELETE":
            if self.fail_delete is not None:
                return httpx.Response(self.fail_delete)
            del self.tokens[bearer]
            return httpx.Response(204)
        return self._use(request, self.tokens[bearer])

    def _mint(self, request: httpx.Request, bearer: str) -> httpx.Response:
        if not self._is_app(bearer) or request.headers["accept"] != "application/vnd.github+json":
            return httpx.Response(401, json={"message": "A JSON web token could not be decoded"})
        body = json.loads(request.content)
        self.token_requests.append(body)
        permissions = body.get("permissions") or APP
        beyond = any(LEVELS.index(APP[n]) < LEVELS.index(v) for n, v in permissions.items() if n in APP)
        if beyond or not set(permissions) <= set(APP):
            return httpx.Response(422, json={"message": "The permissions requested are not granted"})
        names = body.get("repositories") or REPOSITORIES
        if not set(names) <= set(REPOSITORIES):
            return httpx.Response(422, json={"message": "There is at least one repository that is gone"})
        token = f"ghs_APPID_eyJ{len(self.requests):06}.{'x' * 300}.sig-_"
        self.tokens[token] = {"permissions": permissions, "names": names}
        ends = datetime.fromtimestamp(int(self.clock()) + 3600, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        answer = {
            "token": token,
            "expires_at": ends,
            "permissions": {**permissions, "metadata": "read"},
            "repository_selection": "selected" if body.get("repositories") else "all",
            "repositories": [{"id": 1, "name": name, "full_name": f"acme/{name}"} for name in names],
        }
        return httpx.Response(201, json=self.distort(answer))

    def _is_app(self, bearer: str) -> bool:
        try:
            header = jwt.get_unverified_header(bearer)
            options: Any = {"verify_exp": False, "verify_iat": False, "require": ["iat", "exp", "iss"]}
            claims = jwt.decode(bearer, self.key, algorithms=["RS256"], issuer="Iv1.app", options=options)
        except jwt.PyJWTError:
            return False
        now = self.clock()
        timely: bool = claims["iat"] <= now - 30 and now < claims["exp"] <= claims["iat"] + 600
        return timely and header == {"alg": "RS256", "typ": "JWT"} and set(claims) == {"iat", "exp", "iss"}

    def _use(self, request: httpx.Request, may: Mapping[str, Any]) -> httpx.Response:
        _, repos, owner, name, area = request.url.path.split("/")[:5]
        if (repos, owner) != ("repos", "acme") or name not in may["names"]:
            return httpx.Response(404)
        level = may["permissions"].get(area)
        if level is None or (request.method != "GET" and level == "read"):
            return httpx.Response(403, json={"message": "Resource not accessible by integration"})
        return httpx.Response(200, json={"ok": True})
