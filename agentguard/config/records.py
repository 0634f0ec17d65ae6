"""``records`` of ``[tools.NAME]``: what vouches for a field of a tool's result."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

from agentguard.config.tables import SettingError
from agentguard.config.tools import ToolSettings
from agentguard.model.tool import ALL, OF_CALL, VOUCHING_AUTHORS

__all__ = ["validate_record"]


def _hint(wrong: str, names: Collection[str]) -> str:
    close = get_close_matches(wrong, names, 1)
    return f"did you mean {close[0]}?" if close else f"use one of: {', '.join(sorted(names)) or 'none'}"


def validate_record(
    name: str,
    field: str,
    vouchers: Mapping[str, Collection[str]],
    tools: Mapping[str, ToolSettings],
    arguments: Collection[str] | None,
) -> None:
    """Check what vouches for a field of a tool's result.

    Raises:
        SettingError: Nothing does, it could not, or an argument or a source does not exist.
    """
    keys = ("tools", name, "records", field)
    if field in tools[name].trusted:
        raise SettingError(*keys, problem="the field is trusted already", hint="remove it from one of them")
    if not vouchers or not all(vouchers.values()):
        hint = 'say what does, as in { sender = ["contacts.email", "user"] }'
        raise SettingError(*keys, problem="nothing vouches for the field", hint=hint)
    for voucher, sources in vouchers.items():
        _validate_voucher((*keys, voucher), field, voucher, arguments)
        for source in sources:
            _validate_source((*keys, voucher), source, tools)


def _validate_voucher(
    keys: tuple[str, ...], field: str, voucher: str, arguments: Collection[str] | None
) -> None:
    if not voucher.startswith(OF_CALL):
        if field in (ALL, voucher):
            hint = f'use another field, or an argument of the call, as in "{OF_CALL}url"'
            raise SettingError(*keys, problem="it cannot vouch for this field", hint=hint)
        return
    argument = voucher.removeprefix(OF_CALL).partition(".")[0]
    if arguments is not None and argument not in arguments:
        hint = _hint(argument, arguments)
        raise SettingError(*keys, problem=f"{argument!r} is not an argument of the tool", hint=hint)


def _validate_source(keys: tuple[str, ...], source: str, tools: Mapping[str, ToolSettings]) -> None:
    tool = next((tool for tool in tools if source == tool or source.startswith(f"{tool}.")), None)
    if tool is not None and ALL in tools[tool].trusted:
        return
    sources = {f"{tool}.{path}" for tool, settings in tools.items() for path in settings.trusted}
    sources |= VOUCHING_AUTHORS
    if source not in sources:
        raise SettingError(
            *keys, problem=f"no tool has {source!r} as a trusted field", hint=_hint(source, sources)
        )
