"""The command line of `exec`, in our own form and in that of MCP Secret Wrapper."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agentguard.credentials.sources import Reference
from agentguard.errors import ConfigurationError

__all__ = ["OPENBAO_KINDS", "ExecArguments", "child_environment", "list_reachable"]

OPENBAO_KINDS = frozenset({"openbao", "vault", "hashicorp"})
_CLOUD_KINDS = frozenset({"aws", "gcp", "azure"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|COLORTERM|NO_COLOR|TMPDIR|TZ|LANG|LANGUAGE|LC_[A-Z_]+|__CF_USER_TEXT_ENCODING"
)
_WITHHELD = {  # variables that open a source of this kind: the child must not have them
    "aws": r"AWS_.*|BOTO_.*",
    "gcp": r"GOOGLE_.*|GCLOUD_.*|CLOUDSDK_.*",
    "azure": r"AZURE_.*|MSI_.*|IDENTITY_.*",
    "": r"VAULT_.*|BAO_.*",
}
_IN_HOME = {
    "aws": (".aws/credentials", ".aws/sso/cache"),
    "gcp": (".config/gcloud/application_default_credentials.json",),
    "azure": (".azure/msal_token_cache.json",),
}
_SECRET_SETTINGS = frozenset({"secretaccesskey", "sessiontoken", "credentials", "clientsecret", "token"})


@dataclass(frozen=True, slots=True)
class ExecArguments:
    """What the command line asks for.

    `references` are the secrets by the names of their variables. `settings` say how to reach the vaults.
    `exposed` names the secret settings that stand in the arguments, where every user can see them.
    """

    references: Mapping[str, Reference]
    settings: Mapping[str, str]
    exposed: frozenset[str]

    @classmethod
    def of(cls, secrets: Iterable[str], arguments: Iterable[str], environ: Mapping[str, str]) -> Self:
        """Read *secrets*, ``NAME=SOURCE``, and *arguments*, ``--vault-KEY=VALUE`` and ``NAME=ID[#path]``.

        A setting that is not in the arguments is read from VAULT_KEY or BAO_KEY in the environment.

        Raises:
            ConfigurationError: An argument has none of these forms, or a variable stands in it twice.
        """
        options, plain = _split(arguments)
        kind = options.get("type") or environ.get("VAULT_TYPE", "")
        pairs = [_pair(text) for text in secrets]
        if plain:
            if kind not in _CLOUD_KINDS | OPENBAO_KINDS:
                raise ConfigurationError(
                    f"{plain[0].partition('=')[0]}: the kind of vault is not known",
                    hint="give --vault-type=aws, gcp, azure or openbao, or --secret NAME=KIND:ID",
                )
            pairs += [(name, f"{kind}:{id}") for name, id in map(_pair, plain)]
        references = {name: Reference.of(text) for name, text in pairs}
        if len(references) != len(pairs):
            raise ConfigurationError("a variable is named twice", hint="give each variable one source")
        exposed = frozenset(key for key in options if key in _SECRET_SETTINGS)
        return cls(references, {**_settings(environ), **options}, exposed)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of the sources."""
        return frozenset(reference.kind for reference in self.references.values())


def child_environment(
    environ: Mapping[str, str], keep: Iterable[str], kinds: Iterable[str]
) -> dict[str, str]:
    """Return the variables that the child inherits: a fixed list of harmless ones, and those of *keep*.

    Raises:
        ConfigurationError: A variable of *keep* opens a vault that a secret comes from.
    """
    withheld = re.compile("|".join(_WITHHELD[kind] for kind in ("", *kinds) if kind in _WITHHELD))
    for name in keep:
        if withheld.fullmatch(name):
            raise ConfigurationError(
                f"{name} helps to reach a vault that the child's secrets come from",
                hint="give the child a secret of its own, by another name",
            )
    return {name: value for name, value in environ.items() if name in keep or _INHERITED.fullmatch(name)}


def list_reachable(kinds: frozenset[str], settings: Mapping[str, str], home: Path) -> list[str]:
    """Return the files that open a vault of *kinds* and that the child can read, as the same user.

    These are the ones that are known here. There may be others.
    """
    files = [home / name for kind in kinds for name in _IN_HOME.get(kind, ())]
    if kinds & OPENBAO_KINDS:
        files.append(home / ".vault-token")  # of OpenBao's and of Vault's own command
        if settings.get("jwtfile"):
            files.append(Path(settings["jwtfile"]))
    return sorted(str(file) for file in files if os.access(file, os.R_OK))


def _split(arguments: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    options, plain = {}, []
    for text in arguments:
        key, mark, value = text.partition("=")
        if key.startswith("--vault-") and mark:
            options[_key(key.removeprefix("--vault-"))] = value
        elif text.startswith("-") or not mark:
            raise ConfigurationError(
                f"{key} is neither a secret nor an option",
                hint="write NAME=SOURCE, and the command behind --",
            )
        else:
            plain.append(text)
    return options, plain


def _pair(text: str) -> tuple[str, str]:
    name, _, source = text.partition("=")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is not the name of a variable", hint="write NAME=SOURCE")
    return name, source


def _settings(environ: Mapping[str, str]) -> dict[str, str]:
    prefixes = ("BAO_", "VAULT_")  # BAO_ wins, as in OpenBao's own command
    return {
        _key(name.removeprefix(prefix)): value
        for prefix in reversed(prefixes)
        for name, value in environ.items()
        if name.startswith(prefix)
    }


def _key(text: str) -> str:
    return re.sub(r"[-_]", "", text).lower()
