"""The demo's thief: another process on the same machine, which has a stolen token but not its key.

The first line on stdin is the loot. Each further line names attacks; the thief carries them out and writes
the answers as one line to stdout. Nothing is written to disk. The file runs alone and imports nothing of
agentguard.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

__all__ = ["ATTACKS", "Loot"]

Headers = Mapping[str, str]


class Loot:
    """What a wiretap inside the agent's process gets: a token, and proofs that the token's key has signed.

    `headers` are those of the tapped request. Some attacks need a URL of their own, which is in `urls`, or
    headers with a proof that was never sent, which are in `fresh_headers`. The keys of both are the attacks.
    """

    def __init__(
        self, *, urls: Mapping[str, str], headers: Headers, fresh_headers: Mapping[str, Headers], order: str
    ) -> None:
        self.urls, self.headers, self.fresh_headers, self.order = urls, headers, fresh_headers, order
        self.token = headers["Authorization"].removeprefix("DPoP ")

    def own_key(self) -> Headers:
        """Return the token with a proof by the thief's own key that is otherwise correct (RFC 9449 4.2)."""
        key = ec.generate_private_key(ec.SECP256R1())
        ath = base64.urlsafe_b64encode(hashlib.sha256(self.token.encode()).digest()).decode().rstrip("=")
        claims = {
            "jti": secrets.token_urlsafe(16),
            "htm": "GET",
            "htu": self.order,
            "iat": int(time.time()),
            "ath": ath,
        }
        jwk = {n: v for n, v in ECAlgorithm.to_jwk(key.public_key(), as_dict=True).items() if n in JWK}
        proof = jwt.encode(claims, key, "ES256", {"typ": "dpop+jwt", "jwk": jwk})
        return {"Authorization": f"DPoP {self.token}", "DPoP": proof}


JWK = {"kty", "crv", "x", "y"}
ATTACKS: Mapping[str, Callable[[Loot], tuple[str, str, Headers]]] = {
    "bearer": lambda loot: ("GET", loot.order, {"Authorization": f"Bearer {loot.token}"}),
    "no proof": lambda loot: ("GET", loot.order, {"Authorization": f"DPoP {loot.token}"}),
    "own key": lambda loot: ("GET", loot.order, loot.own_key()),
    "replay": lambda loot: ("GET", loot.order, loot.headers),
    "write": lambda loot: ("POST", loot.urls["write"], loot.fresh_headers["write"]),
    "other order": lambda loot: ("GET", loot.urls["other order"], loot.fresh_headers["other order"]),
    "late": lambda loot: ("GET", loot.order, loot.fresh_headers["late"]),
}


def _attack(stdin: TextIO, stdout: TextIO) -> None:
    line = stdin.readline()
    if not line:
        return
    loot = Loot(**json.loads(line))
    with httpx.Client(trust_env=False) as client:
        for line in stdin:
            answers = {}
            for name in json.loads(line):
                method, url, headers = ATTACKS[name](loot)
                answers[name] = _answer(client.request(method, url, headers=dict(headers)))
            print(json.dumps(answers), file=stdout, flush=True)


def _answer(response: httpx.Response) -> tuple[int, str, str]:
    if response.is_success:
        return response.status_code, "", "the shop complied"
    problem = response.json()
    return response.status_code, problem["error"], problem["error_description"]


if __name__ == "__main__":
    _attack(sys.stdin, sys.stdout)
