"""A stand-in for STS and IAM over real HTTP: it records requests, keeps policies, and evaluates denials.

moto keeps policies too, and enforces neither these nor session policies. The evaluator here knows the
four condition operators that agentguard writes, as IAM's reference describes them, and refuses others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs

Fault = Callable[[str], tuple[int, bytes] | None]


class Aws:
    """What was asked, in order; the policies of each role; and who is still let through."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = time.time
        self.url = ""
        self.requests: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.policies: dict[str, dict[str, str]] = {}
        self.fault: Fault = lambda _action: None
        self.session_arn: str | None = None
        self.longer = 0.0
        self.lock, self.number = Lock(), 0

    def of(self, action: str) -> list[dict[str, str]]:
        """Return the parameters of the requests for an action."""
        return [request for request in self.requests if request["Action"] == action]

    def denied(self, role: str, name: str, issued: float, now: float | None = None) -> bool:
        """Return whether the role's policies deny its session everything."""
        context = {
            "aws:userid": f"AROAEXAMPLE:{name}",
            "aws:TokenIssueTime": issued,
            "aws:CurrentTime": self.clock() if now is None else now,
        }
        with self.lock:
            documents = list(self.policies.get(role, {}).values())
        return any(denies(json.loads(document), context) for document in documents)

    def answer(self, parameters: dict[str, str]) -> tuple[int, bytes]:
        action = parameters["Action"]
        if (fault := self.fault(action)) is not None:
            return fault
        if action.startswith("AssumeRole"):
            return 200, self._assumed(action, parameters)
        policies = self.policies.setdefault(parameters["RoleName"], {})
        with self.lock:
            if action == "PutRolePolicy":
                size = sum(len(d) for name, d in policies.items() if name != parameters["PolicyName"])
                if size + len(parameters["PolicyDocument"]) > 10_240:
                    return error(409, "LimitExceeded")
                policies[parameters["PolicyName"]] = parameters["PolicyDocument"]
            elif action == "DeleteRolePolicy":
                policies.pop(parameters["PolicyName"], None)
            members = "".join(f"<member>{name}</member>" for name in policies)
        return 200, xml(action, f"<PolicyNames>{members}</PolicyNames><IsTruncated>false</IsTruncated>")

    def _assumed(self, action: str, parameters: dict[str, str]) -> bytes:
        self.number += 1
        ends = datetime.fromtimestamp(self.clock() + float(parameters["DurationSeconds"]) + self.longer, UTC)
        role = parameters["RoleArn"].rpartition("/")[2]
        arn = f"arn:aws:sts::123456789012:assumed-role/{role}/{parameters['RoleSessionName']}"
        keys = {"AccessKeyId": f"ASIA{self.number:016}", "SecretAccessKey": f"secret-{self.number:030}"}
        keys |= {"SessionToken": f"token-{self.number:030}", "Expiration": ends.isoformat()}
        user = {
            "AssumedRoleId": f"AROAEXAMPLE:{parameters['RoleSessionName']}",
            "Arn": self.session_arn or arn,
        }
        parts = "".join(f"<{name}>{value}</{name}>" for name, value in keys.items())
        who = "".join(f"<{name}>{value}</{name}>" for name, value in user.items())
        return xml(action, f"<Credentials>{parts}</Credentials><AssumedRoleUser>{who}</AssumedRoleUser>")


def denies(policy: Mapping[str, Any], context: Mapping[str, Any]) -> bool:
    """Evaluate the Deny statements of a policy that are for everything."""
    return any(
        statement["Effect"] == "Deny"
        and (statement["Action"], statement["Resource"]) == ("*", "*")
        and all(
            _met(operator, context[key], limit)
            for operator, keys in statement["Condition"].items()
            for key, limit in keys.items()
        )
        for statement in policy["Statement"]
    )


def _met(operator: str, value: Any, limit: Any) -> bool:
    if operator == "StringLike":
        return any(fnmatchcase(value, pattern) for pattern in limit)
    instant = datetime.fromisoformat(limit).timestamp()
    return bool({"DateLessThan": value < instant, "DateGreaterThan": value > instant}[operator])


def xml(action: str, result: str) -> bytes:
    return f"<{action}Response><{action}Result>{result}</{action}Result></{action}Response>".encode()


def error(status: int, code: str) -> tuple[int, bytes]:
    message = "arn:aws:iam::1:secret-in-the-message"
    return (
        status,
        f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>".encode(),
    )


@contextmanager
def serving(aws: Aws) -> Iterator[Aws]:
    """Serve it on a free loopback port."""

    class Service(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            parameters = {name: values[0] for name, values in parse_qs(body, keep_blank_values=True).items()}
            aws.requests.append(parameters)
            aws.headers.append(dict(self.headers))
            status, content = aws.answer(parameters)
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    aws.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield aws
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
