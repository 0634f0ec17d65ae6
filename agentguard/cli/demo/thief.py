"""The demo's thief: another process of the same machine, with what it stole and without the key.

The first line on stdin is the loot; each further line names what to try with it, and is answered by
a line on stdout. Nothing is written to disk. It is run as a file and uses nothing of agentguard.
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
    """What a wiretap inside the agent's process gets: a token, and proofs that its key has made.

    `urls` and `made` have an entry for each attack that needs one; `sent` is what was sent already.
    """

    def __init__(
        self, *, urls: Mapping[str, str], sent: Headers, made: Mapping[str, Headers], order: str
    ) -> None:
        self.urls, self.sent, self.made, self.order = urls, sent, made, order
        self.token = sent["Authorization"].removeprefix("DPoP ")

    def own_key(self) -> Headers:
        """Return the token with a proof by the thief's own key, right in all else (RFC 9449 4.2)."""
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
    "replay": lambda loot: ("GET", loot.order, loot.sent),
    "write": lambda loot: ("POST", loot.urls["write"], loot.made["write"]),
    "other order": lambda loot: ("GET", loot.urls["other order"], loot.made["other order"]),
    "late": lambda loot: ("GET", loot.order, loot.made["late"]),
}


def _steal(asked: TextIO, told: TextIO) -> None:
    line = asked.readline()
    if not line:
        return
    loot = Loot(**json.loads(line))
    with httpx.Client(trust_env=False) as client:
        for line in asked:
            answers = {}
            for name in json.loads(line):
                method, url, headers = ATTACKS[name](loot)
                answers[name] = _answer(client.request(method, url, headers=dict(headers)))
            print(json.dumps(answers), file=told, flush=True)


def _answer(response: httpx.Response) -> tuple[int, str, str]:
    if response.is_success:
        return response.status_code, "", "the shop obeyed"
    said = response.json()
    return response.status_code, said["error"], said["error_description"]


if __name__ == "__main__":
    _steal(sys.stdin, sys.stdout)
