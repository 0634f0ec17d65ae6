"""agentguard.toml: it builds what it says, and every mistake has a file, a line and a hint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentguard import Guard
from agentguard.config import Parts, Settings, build, load
from agentguard.config.positions import line_of, positions
from agentguard.errors import ConfigurationError
from agentguard.model import (
    AccessRequest,
    Arguments,
    Identity,
    Mandate,
    TaskState,
    ToolPath,
)
from agentguard.policies.authzen import AuthZen
from agentguard.policies.cedar import ReloadingCedar
from agentguard.policies.combine import Combine
from agentguard.policies.opa import Opa
from agentguard.stores.memory import MemoryStore
from tests.doubles.texts import texts
from tests.tiers import examples

TOML = """\
[agent]
id = "agent://support"

[policy]
cedar = ["policies/*.cedar"]

[issuer]
issuer = "https://issuer.example"
algorithm = "EdDSA"
lifetime = 30
keys = "state/keys"
jwks = "state/jwks.json"

[store]
kind = "memory"

[audit]
path = "state/audit.jsonl"

[telemetry]
arguments = true

[environment]
stage = "production"

[resources.payments]
origins = ["http://127.0.0.1:8000"]
audiences = { write = "payments-write" }

[resources.orders]
origins = ["https://orders.example"]

[tools.refund_order]
path = "write"
resource = "payments"
scopes = ["refunds:write"]
sinks = ["recipient"]
args = { order_id = "string", amount = "number", recipient = "string", note = "string?" }

[tools."get order"]
path = "read"
resource = "orders"
untrusted = true

[approval]
expires = 120
"""
CEDAR = """\
@id("small-refunds")
permit (principal, action == Action::"refund_order", resource == Resource::"payments")
when { context.args.amount.lessThan(decimal("100.0")) && context.environment.stage == "production" };
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "refunds.cedar").write_text(CEDAR, "utf-8")
    (tmp_path / "agentguard.toml").write_text(TOML, "utf-8")
    return tmp_path


def build_parts(home: Path) -> Parts:
    parts = build(load(home / "agentguard.toml"))
    assert isinstance(parts.ports.policy, ReloadingCedar)
    parts.ports.policy.check_tools(parts.ports.catalog)
    return parts


def mistake(home: Path, right: str, wrong: str) -> ConfigurationError:
    assert right in TOML
    file = home / "agentguard.toml"
    file.write_text(TOML.replace(right, wrong, 1), "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        build(load(file))
    assert caught.value.file == str(file)
    assert caught.value.hint
    return caught.value


def line(text: str) -> int:
    return TOML[: TOML.index(text)].count("\n") + 1


def test_it_builds_what_it_says(home: Path) -> None:
    parts = build_parts(home)
    refund = parts.ports.catalog.tool("refund_order")
    assert refund is not None
    assert (refund.path, refund.resource, refund.sinks) == (
        ToolPath.WRITE,
        "payments",
        frozenset({"recipient"}),
    )
    assert (refund.schema or {})["required"] == ["order_id", "amount", "recipient"]
    assert (refund.schema or {})["properties"]["note"] == {"type": "string"}
    order = parts.ports.catalog.tool("get order")
    assert order is not None
    assert order.untrusted
    assert order.schema is None
    payments = parts.ports.catalog.resource("payments")
    assert payments is not None
    assert payments.audience(ToolPath.WRITE) == "payments-write"
    assert payments.audience(ToolPath.READ) == "payments/read"
    assert parts.ports.identity.actor() == "agent://support"
    assert (parts.options.lifetime, parts.options.approval_lifetime, parts.trace_arguments) == (30, 120, True)
    assert parts.options.environment == {"stage": "production"}
    assert isinstance(parts.ports.store, MemoryStore)


def test_policies_see_the_arguments_and_the_environment(home: Path) -> None:
    parts = build_parts(home)
    tool = parts.ports.catalog.tool("refund_order")
    assert tool is not None
    identity = Identity(subject="user:ada", actor=parts.ports.identity.actor())
    task = TaskState(
        id="t", purpose="p", identity=identity, mandate=Mandate(tools=frozenset("*")), deadline=2e9
    )
    arguments = Arguments.of({"order_id": "1", "amount": 99.5, "recipient": "x", "note": None})
    request = AccessRequest(
        identity=identity, tool=tool, arguments=arguments, task=task, environment=parts.options.environment
    )
    assert parts.ports.policy.decide(request).policy_ids == ("small-refunds",)


@pytest.mark.promise("paths-apart")
def test_each_path_has_a_broker_a_key_and_a_file_of_its_own(home: Path) -> None:
    parts = build_parts(home)
    assert {key: broker.paths for key, broker in parts.ports.brokers.items()} == {
        (None, path): frozenset({path}) for path in ToolPath
    }
    files = sorted((home / "state" / "keys").iterdir())
    assert [file.name for file in files] == ["escalation.pem", "read.pem", "write.pem"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert (home / "state").stat().st_mode & 0o777 == 0o700
    keys = json.loads((home / "state" / "jwks.json").read_text("utf-8"))["keys"]
    assert {key["agentguard_path"] for key in keys} == set(ToolPath)
    assert len({key["kid"] for key in keys}) == 3
    assert all("d" not in key for key in keys)
    build_parts(home)
    assert json.loads((home / "state" / "jwks.json").read_text("utf-8"))["keys"] == keys


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a=", "}")])
def test_a_file_that_is_nested_too_deeply_is_refused_with_its_line(
    tmp_path: Path, opening: str, closing: str
) -> None:
    (tmp_path / "agentguard.toml").write_text(f"# mine\nx = {opening * 3_000}1{closing * 3_000}\n", "utf-8")
    with pytest.raises(ConfigurationError, match="nested too deeply") as caught:
        load(tmp_path / "agentguard.toml")
    assert caught.value.line == 2


@pytest.mark.promise("published-keys-last")
def test_published_keys_are_those_of_each_worker_and_of_the_next_start(home: Path) -> None:
    (home / "agentguard.toml").write_text(TOML.replace('keys = "state/keys"\n', ""), "utf-8")
    key_sets = []
    for _ in range(2):
        build_parts(home)
        key_sets.append((home / "state" / "jwks.json").read_text("utf-8"))
    assert key_sets[0] == key_sets[1]
    files = list((home / ".agentguard" / "keys").iterdir())
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


@pytest.mark.promise("published-keys-last")
def test_keys_outlive_the_process_without_any_setting(home: Path) -> None:
    text = TOML.replace('keys = "state/keys"\n', "").replace('jwks = "state/jwks.json"\n', "")
    (home / "agentguard.toml").write_text(text, "utf-8")
    kids = {json.dumps(_kids(build_parts(home))) for _ in range(2)}
    assert len(kids) == 1
    folder = home / ".agentguard" / "keys"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


@pytest.mark.promise("published-keys-last")
def test_a_folder_of_keys_that_others_may_write_is_refused(home: Path) -> None:
    build_parts(home)
    (home / "state" / "keys").chmod(0o707)
    with pytest.raises(ConfigurationError, match="other users may write"):
        build_parts(home)


def _kids(parts: Parts) -> list[str]:
    issuers: list[Any] = list(parts.ports.brokers.values())
    return [issuer.public_jwk["kid"] for issuer in issuers]


def test_an_empty_file_has_every_default(tmp_path: Path) -> None:
    (tmp_path / "agentguard.toml").write_text("", "utf-8")
    settings_read = load(tmp_path / "agentguard.toml")
    assert settings_read == Settings(file=tmp_path / "agentguard.toml")
    assert (settings_read.store.kind, settings_read.issuer.lifetime, settings_read.policy.cedar) == (
        "sqlite",
        60.0,
        (),
    )


def test_loading_touches_no_other_file(home: Path) -> None:
    before = sorted(home.rglob("*"))
    load(home / "agentguard.toml")
    assert sorted(home.rglob("*")) == before


def test_settings_are_frozen(home: Path) -> None:
    settings_read = load(home / "agentguard.toml")
    with pytest.raises(ValidationError):
        settings_read.issuer.lifetime = 3600


def test_a_whole_json_schema_may_stand_for_the_shorthand(home: Path) -> None:
    schema = '{ properties = { ids = { type = "array", items = { type = "string" } }, recipient = {} } }'
    text = TOML.replace(TOML[TOML.index("args = ") : TOML.index('\n\n[tools."get')], f"args = {schema}")
    (home / "agentguard.toml").write_text(text, "utf-8")
    tool = build(
        load(home / "agentguard.toml").model_copy(update={"policy": Settings().policy})
    ).ports.catalog.tool("refund_order")
    assert tool is not None
    assert (tool.schema or {})["properties"]["ids"]["type"] == "array"


@pytest.mark.promise("configuration-mistakes-named")
@pytest.mark.parametrize(
    ("right", "wrong", "at", "hint"),
    [
        ("[store]", "[sotre]", "[store]", "did you mean store?"),
        ("lifetime = 30", "lifetim = 30", "lifetime = 30", "did you mean lifetime?"),
        ("lifetime = 30", 'lifetime = "30"', "lifetime = 30", "seconds"),
        ("lifetime = 30", "lifetime = true", "lifetime = 30", "seconds"),
        ("lifetime = 30", "lifetime = nan", "lifetime = 30", "seconds"),
        ("lifetime = 30", "lifetime = 0", "lifetime = 30", "seconds"),
        ('algorithm = "EdDSA"', 'algorithm = "none"', "algorithm", '"ES256" or "EdDSA"'),
        ('kind = "memory"', 'kind = "etcd"', "kind", '"sqlite", "memory", "redis" or "postgres"'),
        ('path = "write"', 'path = "wirte"', 'path = "write"', '"read", "write" or "escalation"'),
        ('path = "write"', 'pth = "write"', 'path = "write"', "did you mean path?"),
        ('path = "write"', 'access = "write"', "[tools.refund_order]", '"read", "write" or "escalation"'),
        ('path = "write"\n', "\n", "[tools.refund_order]", '"read", "write" or "escalation"'),
        ('resource = "payments"', 'resource = "paymets"', 'resource = "payments"', "[resources.paymets]"),
        ('"refunds:write"', '"refunds write"', "scopes", "scopes ="),
        ('scopes = ["refunds:write"]', 'scopes = "refunds:write"', "scopes", "scopes ="),
        ("untrusted = true", 'untrusted = "yes"', "untrusted", "true if"),
        ('sinks = ["recipient"]', 'sinks = ["recipent"]', "sinks", "recipient"),
        ('amount = "number"', 'amount = "money"', "args =", "integer"),
        ('"http://127.0.0.1:8000"', '"http://127.0.0.1:8000/pay"', "origins", "scheme://host"),
        ('{ write = "payments-write" }', '{ wirte = "x" }', "audiences", "one for each path"),
        ('{ write = "payments-write" }', '{ write = "a", read = "a" }', "audiences", "its own audience"),
        ('{ write = "payments-write" }', '{ write = "orders/read" }', "[resources.orders]", "own audience"),
        ('stage = "production"', "stage = 1", "stage", "strings"),
        ('"policies/*.cedar"', '"polices/*.cedar"', "cedar =", "relative to"),
        ('id = "agent://support"', 'id = "support"', "id =", "URI"),
        ("[agent]", 'file = "x"\n[agent]', "[agent]", "remove it, or use one of"),
        ("[approval]", "[approval.expires]\nx = 1\n[other]", "[approval]", "seconds"),
    ],
)
def test_a_mistake_has_its_line_and_its_mend(home: Path, right: str, wrong: str, at: str, hint: str) -> None:
    error = mistake(home, right, wrong)
    assert error.line == line(at)
    assert hint in error.hint


@pytest.mark.parametrize(
    ("right", "wrong", "at"),
    [
        ("lifetime = 30", "lifetime = ", "lifetime"),
        ("[store]", "[store", "[store]"),
        ('kind = "memory"', 'kind = "memory"\nkind = "sqlite"', "\n[audit]"),
        ("expires = 120", 'expires = """', "expires"),
    ],
)
def test_what_is_no_toml_has_its_line(home: Path, right: str, wrong: str, at: str) -> None:
    error = mistake(home, right, wrong)
    assert "is not TOML" in error.problem
    assert error.line is not None
    assert abs(error.line - line(at)) <= 1


@pytest.mark.parametrize("content", [None, b"\xff", b"a = " + b"[" * 5000, b"a = " + b"1" * 5000])
def test_an_unreadable_file_is_one_error(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "agentguard.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert caught.value.file == str(file)


@pytest.mark.promise("configuration-mistakes-named")
def test_a_mistake_does_not_repeat_the_value(home: Path) -> None:
    assert "s3cret" not in str(mistake(home, "lifetime = 30", 'lifetime = "s3cret"'))


def test_a_policy_mistake_names_the_policy_file(home: Path) -> None:
    file = home / "policies" / "refunds.cedar"
    file.write_text(CEDAR.replace("when {", "wehn {"), "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        build_parts(home)
    assert (caught.value.file, caught.value.line) == (str(file), 3)


def test_a_policy_is_checked_against_the_tools_of_the_file(home: Path) -> None:
    (home / "policies" / "refunds.cedar").write_text(CEDAR.replace("amount", "amonut"), "utf-8")
    with pytest.raises(ConfigurationError, match="amonut"):
        build_parts(home)


PDPS = """\
[policy]
cedar = ["policies/*.cedar"]
pdps = ["central", "house"]
rule = "deny-overrides"

[pdps.central]
kind = "opa"
url = "http://127.0.0.1:8181"
version = "1"
path = "shop/decision"

[pdps.house]
kind = "authzen"
url = "https://pdp.example"
version = "7"
timeout = 0.5
limit = 4
"""


def test_the_rules_may_stand_elsewhere_and_be_combined(home: Path) -> None:
    file = home / "agentguard.toml"
    head = '[policy]\ncedar = ["policies/*.cedar"]\n'
    file.write_text(TOML.replace(head, PDPS), "utf-8")
    policy = build(load(file)).ports.policy
    assert isinstance(policy, Combine)
    before = policy.version
    file.write_text(TOML.replace(head, PDPS.replace('"deny-overrides"', '"unanimous"')), "utf-8")
    assert build(load(file)).ports.policy.version != before
    for name, kind in (("central", Opa), ("house", AuthZen)):
        alone = PDPS.replace('cedar = ["policies/*.cedar"]\n', "").replace('"central", "house"', f'"{name}"')
        file.write_text(TOML.replace(head, alone), "utf-8")
        assert isinstance(build(load(file)).ports.policy, kind)


@pytest.mark.parametrize(
    ("right", "wrong", "at", "hint"),
    [
        ('"central", "house"', '"centre"', "policy.pdps", "use one of: central, house"),
        ('"opa"', '"oops"', "pdps.central", '"authzen", "opa"'),
        ("limit = 4", "limits = 4", "pdps.house.limits", "did you mean limit?"),
        ("timeout = 0.5", "timeout = 0", "pdps.house.timeout", "seconds"),
        ('"https://pdp.example"', '"http://pdp.example"', "", "https"),
    ],
)
def test_a_mistake_about_a_pdp_has_its_line(home: Path, right: str, wrong: str, at: str, hint: str) -> None:
    file = home / "agentguard.toml"
    head = '[policy]\ncedar = ["policies/*.cedar"]\n'
    file.write_text(TOML.replace(head, PDPS.replace(right, wrong)), "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        build(load(file))
    assert at in caught.value.problem
    assert hint in str(caught.value)
    assert caught.value.line


def test_a_guard_reads_its_policies_again_whole_or_not_at_all(home: Path) -> None:
    guard = Guard.from_file(home / "agentguard.toml")
    file, policy = next((home / "policies").glob("*.cedar")), guard.enforcement.ports.policy
    before, text = policy.version, file.read_text("utf-8")
    file.write_text(text + '@id("new") permit (principal, action in Action::"read", resource);', "utf-8")
    assert guard.reload()
    assert (now := policy.version) != before
    file.write_text(text + "nonsense;", "utf-8")
    assert not guard.reload()
    assert policy.version == now
    guard.close()


def test_a_key_that_others_may_read_is_refused(home: Path) -> None:
    build_parts(home)
    (home / "state" / "keys" / "read.pem").chmod(0o644)
    with pytest.raises(ConfigurationError, match="other users may read"):
        build_parts(home)


@pytest.mark.parametrize(
    ("right", "wrong", "at"),
    [
        ('path = "state/audit.jsonl"', 'path = "agentguard.toml/audit.jsonl"', 'path = "state/audit.jsonl"'),
        ('kind = "memory"', 'path = "agentguard.toml/state.db"', 'kind = "memory"'),
        ('keys = "state/keys"', 'keys = "agentguard.toml/keys"', "keys ="),
        ('jwks = "state/jwks.json"', 'jwks = "policies"', "jwks ="),
        ('path = "state/audit.jsonl"', 'path = "a\\u0000b/audit"', 'path = "state/audit.jsonl"'),
    ],
)
def test_a_path_that_cannot_be_used_has_its_line(home: Path, right: str, wrong: str, at: str) -> None:
    assert mistake(home, right, wrong).line == line(at)


def test_a_policy_file_may_have_a_name_that_looks_like_a_pattern(home: Path) -> None:
    (home / "policies" / "[1].cedar").write_text(CEDAR.replace("small", "more"), "utf-8")
    (home / "agentguard.toml").write_text(TOML.replace("*.cedar", "[1].cedar"), "utf-8")
    assert [rule.id for rule in build_parts(home).ports.policy.rules] == ["more-refunds"]  # type: ignore[attr-defined]  # Cedar


def test_keys_are_found_however_they_are_written() -> None:
    text = '[a."b.c"]\nd = 1\n[ e . \'f\' ]\ng.h = 2\n"i\\u006a" = 3\n[[k]]\nl = { m = 1 }\n# n = 1\n'
    lines = positions(text)
    expected: dict[tuple[str, ...], int] = {
        ("a",): 1,
        ("a", "b.c"): 1,
        ("a", "b.c", "d"): 2,
        ("e", "f", "g", "h"): 4,
        ("e", "f", "ij"): 5,
        ("k", "l"): 7,
    }
    assert {keys: lines[keys] for keys in expected} == expected
    assert line_of(lines, ("k", "l", "m")) == 7
    assert line_of(lines, ("nowhere",)) == 1


def loaded(file: Path, content: bytes) -> None:
    """Load it: whatever the content, nothing but a ConfigurationError comes out."""
    file.write_bytes(content)
    try:
        parsed = load(file)
    except ConfigurationError as error:
        found_error = error
    else:
        assert isinstance(parsed, Settings)
        return
    assert found_error.file == str(file)
    assert found_error.hint


FUZZ = settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.promise("configuration-mistakes-named")
@FUZZ
@given(st.binary(max_size=60) | texts(max_size=60).map(str.encode))
@example(b"a = 0x" + b"f" * 3000)
@example(b"[tools]\n'' = 1")
@example(b"tools = 1")
@example(b"[tools.x]\npath = 'read'\nargs = {type = 'string', properties = 'string'}")
def test_no_text_makes_load_raise_anything_else(tmp_path: Path, content: bytes) -> None:
    loaded(tmp_path / "agentguard.toml", content)


@pytest.mark.promise("configuration-mistakes-named")
@FUZZ
@given(
    st.integers(0, len(TOML)),
    st.integers(0, 12),
    st.sampled_from(
        ["", '"', "=", "[", "]", ".", "\n", "{", "}", "1", "a", "'", "#", "é", "\\", "[[tools]]\n"]
    ),
)
def test_no_mutation_makes_load_raise_anything_else(tmp_path: Path, at: int, length: int, piece: str) -> None:
    loaded(tmp_path / "agentguard.toml", (TOML[:at] + piece + TOML[at + length :]).encode())


TABLES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["read", "path", "args", "properties", "type", "origins", "audiences", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps("null" if value is None else value).replace("NaN", "nan").replace("Infinity", "inf")


@FUZZ
@given(
    st.sampled_from(
        ["agent", "policy", "issuer", "environment", "resources.r", "tools.t", "tools", "resources"]
    ),
    st.sampled_from(["path", "args", "audiences", "origins", "cedar", "lifetime", "t", "resource"]),
    TABLES,
)
def test_no_value_makes_load_raise_anything_else(tmp_path: Path, table: str, key: str, value: Any) -> None:
    text = f"[{table}]\n{key} = {_toml(value)}\n"
    loaded(tmp_path / "agentguard.toml", text.encode())
