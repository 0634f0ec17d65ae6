"""The AWS broker against moto's server, which shows the shape of requests and answers.

What moto does *not* enforce, so that nothing here shows it: session policies (accepted and ignored, see
the last test), session tags, the source identity, the durations, a web identity token's signature, and
the conditions of an IAM policy, by which a revocation tells one session from another. These are asserted
as the JSON that is sent, here and in ``tests/credentials/test_aws.py``, and rest on AWS's documentation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import boto3
import pytest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from agentguard.credentials.aws import AwsConnection, AwsRole, Statement
from agentguard.credentials.aws.api import bare_session
from agentguard.errors import IssueError
from agentguard.identity.local import LocalIdentity
from agentguard.jose import Signer
from agentguard.model import Credential, Grant, ToolPath
from agentguard.testing import BrokerContract
from agentguard.testing.samples import sample_grant
from tests.servers.moto import enforce

REGION = "eu-central-1"
ROLE, REVOKER = (f"arn:aws:iam::123456789012:role/{name}" for name in ("reader", "revoker"))
STATEMENTS = {"queues:read": [Statement(actions=["sqs:ListQueues"], resources=["*"])]}
GUARD = "arn:aws:iam::123456789012:user/guard"
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": GUARD}, "Action": "sts:AssumeRole"}],
    }
)


def allowing(*actions: str) -> str:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


class Account:
    """An account with a reader, a revoker, and a user who may assume and revoke."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.iam = self.client("iam", Credentials("AKIAIOSFODNN7EXAMPLE", "bootstrap"))
        for role, actions in (("reader", ("sqs:*", "sts:GetCallerIdentity")), ("revoker", ("iam:*",))):
            self.iam.create_role(RoleName=role, AssumeRolePolicyDocument=TRUST)
            self.iam.put_role_policy(RoleName=role, PolicyName="base", PolicyDocument=allowing(*actions))
        self.iam.create_user(UserName="guard")
        self.iam.put_user_policy(
            UserName="guard", PolicyName="base", PolicyDocument=allowing("sts:AssumeRole", "iam:*")
        )
        key = self.iam.create_access_key(UserName="guard")["AccessKey"]
        self.guard = bare_session(Credentials(key["AccessKeyId"], key["SecretAccessKey"]))

    def client(self, service: str, keys: Credentials) -> Any:
        make: Any = bare_session(keys).client
        return make(service, region_name=REGION, endpoint_url=self.endpoint)

    def opened(self, credential: Credential, service: str) -> Any:
        parts = credential.fields()
        keys = Credentials(parts["access_key_id"], parts["secret_access_key"], parts["session_token"])
        return self.client(service, keys)

    def broker(self, *, identity: bool = False, session: boto3.Session | None = None) -> AwsRole:
        source = LocalIdentity("agent://support", Signer.generate())
        proof: dict[str, Any] = {"session": session or self.guard}
        if identity:
            proof = {"identity": source, "revoker": REVOKER}
        connection = AwsConnection(region=REGION, endpoint=self.endpoint, **proof)
        return AwsRole({ToolPath.READ: ROLE}, connection, statements=STATEMENTS)

    def denials(self) -> list[dict[str, Any]]:
        """Return the statements that are on the reader beside its own policy."""
        names = [
            name for name in self.iam.list_role_policies(RoleName="reader")["PolicyNames"] if name != "base"
        ]
        policies = [self.iam.get_role_policy(RoleName="reader", PolicyName=name) for name in names]
        documents = [policy["PolicyDocument"] for policy in policies]
        parsed = [json.loads(unquote(text)) if isinstance(text, str) else text for text in documents]
        return [statement for document in parsed for statement in document["Statement"]]


def grant(id: str = "call-1") -> Grant:
    return sample_grant(id, path=ToolPath.READ, scopes=frozenset({"queues:read"}))


@pytest.fixture
def account(moto: str) -> Iterator[Account]:
    account = Account(moto)
    yield account
    account.iam.close()


class TestWithASession(BrokerContract):
    identity = False

    @pytest.fixture(autouse=True)
    def _given(self, account: Account) -> None:
        self.account = account

    def make(self) -> AwsRole:
        return self.account.broker(identity=self.identity)

    def grant(self, id: str, path: ToolPath) -> Grant:
        return sample_grant(id, path=path, scopes=frozenset({"queues:read"}))


class TestWithAnIdentity(TestWithASession):
    identity = True


@pytest.mark.promise("aws-revocation")
@pytest.mark.parametrize("identity", [False, True], ids=["session", "identity"])
def test_a_session_bears_the_name_of_its_call_and_its_revocation_is_on_its_role(
    account: Account, identity: bool
) -> None:
    broker = account.broker(identity=identity)
    credential = broker.issue(grant())
    who = account.opened(credential, "sts")
    assert who.get_caller_identity()["Arn"].endswith(":assumed-role/reader/call-1")
    assert abs(credential.expires_at - time.time() - 900) < 10
    another = account.broker(identity=identity)
    another.revoke(credential.handle, credential.expires_at)
    (denial,) = account.denials()
    before = denial["Condition"].pop("DateLessThan")
    assert list(before) == ["aws:TokenIssueTime"]
    assert denial == {
        "Effect": "Deny",
        "Action": "*",
        "Resource": "*",
        "Condition": {"StringLike": {"aws:userid": ["*:call-1"]}},
    }
    for client in (broker, another, who):
        client.close()


def test_a_session_has_no_more_than_its_role_and_a_strange_key_opens_none(account: Account) -> None:
    enforce(account.endpoint)
    broker, stranger = account.broker(), account.broker(session=bare_session(Credentials("AKIAX", "x")))
    credential = broker.issue(grant())
    queues, iam = account.opened(credential, "sqs"), account.opened(credential, "iam")
    queues.list_queues()
    with pytest.raises(ClientError, match="AccessDenied"):
        iam.list_users()
    with pytest.raises(IssueError, match="InvalidClientTokenId"):
        stranger.issue(grant())
    for client in (broker, stranger, queues, iam):
        client.close()


def test_a_revoked_session_is_refused_by_the_service(account: Account) -> None:
    """That others of the role are spared is not to be seen here: moto does not evaluate the conditions."""
    enforce(account.endpoint)
    broker = account.broker()
    credential = broker.issue(grant())
    queues = account.opened(credential, "sqs")
    queues.list_queues()
    broker.revoke(credential.handle, credential.expires_at)
    with pytest.raises(ClientError, match="AccessDenied"):
        queues.list_queues()
    for client in (broker, queues):
        client.close()


def test_moto_ignores_the_session_policy_and_so_cannot_show_that_it_narrows(account: Account) -> None:
    """Where this fails, moto has learnt it: show then that it refuses, instead."""
    enforce(account.endpoint)
    broker = account.broker()
    queues = account.opened(broker.issue(grant()), "sqs")
    queues.create_queue(QueueName="which-the-session-policy-does-not-allow")
    for client in (broker, queues):
        client.close()
