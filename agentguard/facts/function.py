"""A function of the application as the source of a fact."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, get_type_hints

from agentguard.errors import ConfigurationError
from agentguard.model import AccessRequest, FactSpec, FactType, Json, Sensitivity
from agentguard.ports import DeclaredFact

__all__ = ["FunctionFact", "fact_of"]

Keys = Mapping[str, str | Iterable[str]] | Iterable[str]


class FunctionFact:
    """Reads a record by *function*, sync or async, which takes the values of the key.

    With *with_request* it takes the `AccessRequest` first. With *inline* a sync function answers from memory,
    and is called without a thread: nothing then ends one that hangs. On the synchronous path an async
    function has an event loop of its own.
    """

    def __init__(
        self, function: Callable[..., Any], *, with_request: bool = False, inline: bool = False
    ) -> None:
        self._function, self._with_request = function, with_request
        self.inline = inline
        if any(map(inspect.iscoroutinefunction, (function, type(function).__call__))):
            self.aread = self._aread

    def read(self, request: AccessRequest, key: tuple[Json, ...]) -> Any:
        """Return what the function returns."""
        answer = self._call(request, key)
        return asyncio.run(_awaited(answer)) if inspect.isawaitable(answer) else answer

    async def _aread(self, request: AccessRequest, key: tuple[Json, ...]) -> Any:
        return await self._call(request, key)

    def _call(self, request: AccessRequest, key: tuple[Json, ...]) -> Any:
        return self._function(request, *key) if self._with_request else self._function(*key)


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def keys_of(tools: Keys, key: str | Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the arguments that name the record, by tool. *key* is for tools that name none of their own."""
    if isinstance(tools, Mapping):
        return {name: _names(arguments) for name, arguments in tools.items()}
    return dict.fromkeys(_names(tools), _names(key))


def _names(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def fact_of(
    function: Callable[..., Any],
    *,
    tools: Keys,
    key: str | Iterable[str] = (),
    name: str | None = None,
    type: Any = None,
    sensitivity: str | Sensitivity = Sensitivity.PUBLIC,
    scopes: Iterable[str] = (),
    inline: bool = False,
    **limits: Any,
) -> DeclaredFact:
    """Return the fact that a function reads; *limits* are other fields of `FactSpec`.

    The type is the one that the function's annotation says it returns, unless *type* is given.

    Raises:
        ConfigurationError: The declaration is wrong, or there is no type.
    """
    name = str(name or getattr(function, "__name__", ""))
    level = sensitivity if isinstance(sensitivity, Sensitivity) else Sensitivity.named(sensitivity)
    spec = FactSpec(
        name=name,
        keys=keys_of(tools, key),
        type=FactType(_returned(function, name) if type is None else type),
        sensitivity=level,
        scopes=frozenset(scopes),
        **limits,
    )
    with_request = _takes_request(function, name, spec)
    return DeclaredFact(spec, FunctionFact(function, with_request=with_request, inline=inline))


def _returned(function: Callable[..., Any], name: str) -> Any:
    try:
        returned = get_type_hints(function)["return"]
    except (NameError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"fact {name}: its function does not say what it returns ({type(error).__name__})",
            hint="annotate it, as in -> Order | None, or give the type, as in type=Order",
        ) from error
    return returned


def _takes_request(function: Callable[..., Any], name: str, spec: FactSpec) -> bool:
    """Return whether the first parameter is the request, by its name; and require one for each key.

    Raises:
        ConfigurationError: The function does not take what it would be given.
    """
    parameters = list(inspect.signature(function).parameters.values())
    with_request = bool(parameters) and parameters[0].name == "request"
    for arguments in spec.keys.values():
        try:
            inspect.signature(function).bind(*((None,) if with_request else ()), *arguments)
        except TypeError:
            raise ConfigurationError(
                f"fact {name}: its function does not take {', '.join(arguments) or 'nothing'}",
                hint="let it take the values of the key in their order, after `request` if it takes that",
            ) from None
    if with_request and spec.lifetime:
        raise ConfigurationError(
            f"fact {name}: what depends on the whole request cannot be used for another one",
            hint="leave out lifetime, or let the function take the key alone",
        )
    return with_request
