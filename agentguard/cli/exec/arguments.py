"""What the command line of `exec` asks for, in our own form and in that of MCP Secret Wrapper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from agentguard.credentials.sources import Reference
from agentguard.errors import ConfigurationError

__all__ = ["BAO", "Request", "inherited"]

BAO = frozenset({"openbao", "vault", "hashicorp"})
_CLOUDS = frozenset({"aws", "gcp", "azure"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PASSED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|COLORTERM|NO_COLOR|TMPDIR|TZ|LANG|LANGUAGE|LC_[A-Z_]+|__CF_USER_TEXT_ENCODING"
)
_WITHHELD = {  # variables that reach a source of that kind, and so are not for the child
    "aws": r"AWS_.*|BOTO_.*",
    "gcp": r"GOOGLE_.*|GCLOUD_.*|CLOUDSDK_.*",
    "azure": r"AZURE_.*|MSI_.*|IDENTITY_.*",
    "": r"VAULT_.*|BAO_.*",
}
_IN_ARGUMENTS = frozenset({"secretaccesskey", "sessiontoken", "credentials", "clientsecret", "token"})


@dataclass(frozen=True, slots=True)
class Request:
    """Secrets by the names of their variables, and how to reach the vaults; `exposed` were in arguments."""

    wanted: Mapping[str, Reference]
    settings: Mapping[str, str]
    exposed: frozenset[str]

    @classmethod
    def of(cls, secrets: Iterable[str], others: Iterable[str], environ: Mapping[str, str]) -> Self:
        """Read ``NAME=SOURCE``, and of *others* ``--vault-KEY=VALUE`` and ``NAME=ID[#path]``.

        A setting is found in the arguments, else as VAULT_KEY or BAO_KEY in the environment.

        Raises:
            ConfigurationError: Something is none of them, or a name is given twice.
        """
        given, plain = _divided(others)
        kind = given.get("type") or environ.get("VAULT_TYPE", "")
        pairs = [_pair(text) for text in secrets]
        if plain:
            if kind not in _CLOUDS | BAO:
                raise ConfigurationError(
                    f"{plain[0].partition('=')[0]}: the kind of vault is not known",
                    hint="give --vault-type=aws, gcp, azure or openbao, or --secret NAME=KIND:ID",
                )
            pairs += [(name, f"{kind}:{id}") for name, id in map(_pair, plain)]
        wanted = {name: Reference.of(text) for name, text in pairs}
        if len(wanted) != len(pairs):
            raise ConfigurationError("a secret is named twice", hint="give each variable one source")
        exposed = frozenset(key for key in given if key in _IN_ARGUMENTS)
        return cls(wanted, {**_settings(environ), **given}, exposed)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of source that are wanted."""
        return frozenset(each.kind for each in self.wanted.values())


def inherited(environ: Mapping[str, str], keep: Iterable[str], kinds: Iterable[str]) -> dict[str, str]:
    """Return what a child inherits: a fixed list of harmless variables, and those of *keep*.

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
    return {name: value for name, value in environ.items() if name in keep or _PASSED.fullmatch(name)}


def _divided(others: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    given, plain = {}, []
    for text in others:
        key, mark, value = text.partition("=")
        if key.startswith("--vault-") and mark:
            given[_key(key.removeprefix("--vault-"))] = value
        elif text.startswith("-") or not mark:
            raise ConfigurationError(
                f"{key} is no secret and no option", hint="write NAME=SOURCE, and the command behind --"
            )
        else:
            plain.append(text)
    return given, plain


def _pair(text: str) -> tuple[str, str]:
    name, _, source = text.partition("=")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no name of a variable", hint="write NAME=SOURCE")
    return name, source


def _settings(environ: Mapping[str, str]) -> dict[str, str]:
    prefixes = ("BAO_", "VAULT_")  # as OpenBao's own command: its name wins
    return {
        _key(name.removeprefix(prefix)): value
        for prefix in reversed(prefixes)
        for name, value in environ.items()
        if name.startswith(prefix)
    }


def _key(text: str) -> str:
    return re.sub(r"[-_]", "", text).lower()
