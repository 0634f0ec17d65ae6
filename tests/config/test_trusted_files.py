"""A file that decides what is permitted is refused if others may write it."""

from __future__ import annotations

import grp
import json
import os
import pwd
import time
from pathlib import Path

import pytest

from agentguard import Guard
from agentguard.config.adapter_settings import SourceSettings
from agentguard.config.adapters import AdapterFactory
from agentguard.config.lock import write_pins
from agentguard.config.pdps import OpaSettings
from agentguard.credentials import load_key
from agentguard.credentials.sealing import SealingKey
from agentguard.errors import ConfigurationError
from agentguard.identity import LocalIdentity
from agentguard.stores import MemoryStore

MODES = pytest.mark.parametrize("mode", [0o620, 0o602, 0o664, 0o666])
TOML = '[agent]\nid = "agent://desk"\n\n[policy]\ncedar = ["*.cedar"]\n\n[store]\nkind = "memory"\n'
RULE = '@id("all")\npermit (principal, action, resource);\n'


@pytest.fixture(autouse=True)
def group(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The name and members of each group: one of many users, until a test says otherwise."""
    name_and_members: list[object] = ["staff", []]
    monkeypatch.setattr(
        grp, "getgrgid", lambda gid: grp.struct_group((name_and_members[0], "x", gid, name_and_members[1]))
    )
    return name_and_members


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "rules.cedar").write_text(RULE)
    file = tmp_path / "agentguard.toml"
    file.write_text(TOML)
    return file


@MODES
@pytest.mark.promise("trusted-files")
@pytest.mark.parametrize("name", ["agentguard.toml", "rules.cedar", "agentguard.lock"])
def test_no_guard_begins_by_settings_rules_or_pins_that_others_may_write(
    config: Path, name: str, mode: int
) -> None:
    write_pins(config.with_name("agentguard.lock"), {})
    Guard.from_file(config)
    config.with_name(name).chmod(mode)
    with pytest.raises(ConfigurationError, match="other users may write this file") as raised:
        Guard.from_file(config)
    assert name in str(raised.value)
    assert f"chmod go-w {config.with_name(name)}" in str(raised.value)
    config.with_name(name).chmod(0o644)
    Guard.from_file(config)


@pytest.mark.promise("trusted-files")
def test_rules_that_become_writable_for_others_are_not_loaded_and_the_former_ones_stay(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guard, rules = Guard.from_file(config), config.with_name("rules.cedar")
    rules.write_text(RULE + '@id("more")\npermit (principal, action, resource);\n')
    rules.chmod(0o666)
    assert not guard.reload()
    assert "other users may write this file" in caplog.text
    rules.chmod(0o600)
    assert guard.reload()


@pytest.mark.promise("trusted-files")
def test_settings_that_the_owners_own_group_may_write_are_taken_and_no_others(
    config: Path, group: list[object]
) -> None:
    owner = pwd.getpwuid(os.geteuid()).pw_name
    config.chmod(0o664)
    group[:] = [owner, [owner]]
    Guard.from_file(config)
    group[:] = [owner, [owner, "mallory"]]
    with pytest.raises(ConfigurationError, match="other users may write this file"):
        Guard.from_file(config)
    group[:] = [owner, []]
    Guard.from_file(config)
    config.chmod(0o666)
    with pytest.raises(ConfigurationError, match="other users may write this file"):
        Guard.from_file(config)


@pytest.mark.promise("trusted-files")
def test_settings_of_an_unknown_group_that_may_write_them_are_not_taken(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(gid: int) -> grp.struct_group:
        raise KeyError(gid)

    monkeypatch.setattr(grp, "getgrgid", unknown)
    config.chmod(0o664)
    with pytest.raises(ConfigurationError, match="other users may write this file"):
        Guard.from_file(config)


@MODES
@pytest.mark.promise("trusted-files")
def test_no_key_that_others_may_write_is_used(tmp_path: Path, mode: int) -> None:
    for name, read in (("issuer.pem", load_key), ("seal", SealingKey.from_file)):
        file = tmp_path / name
        read(file)
        file.chmod(mode)
        with pytest.raises(ConfigurationError, match="other users may read or write this private key"):
            read(file)


@pytest.mark.promise("trusted-files")
@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give a file away")
def test_no_key_of_another_user_is_used(tmp_path: Path) -> None:
    load_key(tmp_path / "issuer.pem")
    os.chown(tmp_path / "issuer.pem", 12345, -1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        load_key(tmp_path / "issuer.pem")


@MODES
@pytest.mark.promise("trusted-files")
def test_no_keys_of_a_signal_source_and_no_roots_of_a_pdp_that_others_may_write_are_used(
    tmp_path: Path, mode: int
) -> None:
    file = tmp_path / "file"
    file.write_text(json.dumps({"keys": []}))
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match="other users may write this file"):
        OpaSettings(kind="opa", url="https://pdp.example", version="1", ca=str(file)).policy(Path)
    factory = AdapterFactory(
        identity=LocalIdentity("agent://desk"), store=MemoryStore(), file_of=Path, clock=time.time
    )
    with pytest.raises(ConfigurationError, match="other users may write this file"):
        factory.source(SourceSettings(issuer="https://login.example", keys=str(file)))
