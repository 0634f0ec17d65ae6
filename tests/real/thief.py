"""A thief: another process, as the user whose uid it is given, with what it has copied and a key of its own.

It reads its loot as JSON, and says in JSON how each way to use it was refused.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

import httpx

from agentguard.credentials.presentation import ProofKey

CODE = re.compile(r'error="(\w+)"')


def main(uid: int) -> None:
    loot: dict[str, Any] = json.load(sys.stdin)
    key = ProofKey()  # made before, as the interpreter may lie where only root can import from it
    client = httpx.Client(base_url=loot["server"], trust_env=False)
    client.get("/")  # whatever is imported when it is first needed
    os.setgroups([])
    os.setgid(65534)
    os.setuid(uid)
    token, url, path = loot["token"], loot["url"], loot["path"]
    dpop = {"Authorization": f"DPoP {token}"}
    own_headers = {**dpop, "DPoP": key.proof("GET", url, access_token=token)}
    attempts = {
        "no key": client.get(path, headers=dpop),
        "as a bearer token": client.get(path, headers={"Authorization": f"Bearer {token}"}),
        "own key": client.get(path, headers=own_headers),
        "replayed proof": client.get(path, headers=loot["used"]),
        "other URL": client.get(loot["other"], headers=loot["unused"]),
        "other method": client.put(path, headers=loot["unused"]),
    }
    answers = {}
    for name, answer in attempts.items():
        code = CODE.search(answer.headers.get("WWW-Authenticate", ""))
        answers[name] = [answer.status_code, code and code[1]]
    json.dump({"uid": os.getuid(), "found": answers}, sys.stdout)


main(int(sys.argv[1]))
