"""Whatever a model writes: what a tool sees differently has another digest, which the seal computes too."""

from __future__ import annotations

import dataclasses
import enum
import random
from collections import OrderedDict
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import StructuredTool
from pydantic import BaseModel, ConfigDict, Json, SecretStr, create_model
from typing_extensions import TypedDict

from agentguard.errors import Denied
from agentguard.langchain.schema import ArgumentSchema
from tests.tiers import examples


class One(BaseModel):
    x: Any = 1
    y: str | None = None


class Two(BaseModel):
    x: Any = 1
    y: str | None = None


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    x: int = 0


class Nested(BaseModel):
    x: Nested | None = None
    y: int | float | str | bool | None = None


@dataclasses.dataclass
class Data:
    x: int | float = 1
    y: list[Any] = dataclasses.field(default_factory=list)


class Typed(TypedDict, total=False):
    x: int
    y: Any


class Letter(enum.Enum):
    A = "a"
    ONE = 1
    TEXT = "1"


KINDS: tuple[Any, ...] = (
    *(Any, float, int | float, str | int, bool | int, Decimal | str, Decimal | float, date | datetime),
    *(dict[str, Any], dict[int, Any], dict[Any, Any], list[Any], tuple[Any, ...], set[int], set[Any]),
    *(One, One | Two, list[One | Two], One | dict[str, Any], Data, Data | One, Extra, Nested, Typed),
    *(Letter, Letter | str, bytes | str, Path | str, SecretStr | str, Json, OrderedDict[str, int]),
)
ATOMS = (
    *(0, 1, -1, 8, 0.0, -0.0, 1.0, 1.5, True, False, None, 2**53, 2**53 + 1, 1e16),
    *("", "1", "a", "1.0", "true", "2020-01-01", '{"a":1}', "[1,1.0]"),
)


def _written(chance: random.Random, depth: int = 0) -> Any:
    """Return what a model might write."""
    pick = chance.random()
    if depth > 2 or pick < 0.4:
        return chance.choice(ATOMS)
    if pick < 0.6:
        return [_written(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    names = chance.sample(["x", "y", "1", "a", "b"], chance.randint(0, 3))
    return {name: _written(chance, depth + 1) for name in names}


def _view(value: Any) -> Any:
    """Return all that a tool can see of a value, in its order, with each class."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, enum.Enum):
        return kind, value.name
    if isinstance(value, BaseModel):
        return kind, _view(value.__dict__), _view(value.model_extra), sorted(value.model_fields_set)
    if dataclasses.is_dataclass(value):
        return kind, _view(value.__dict__)
    if isinstance(value, dict):
        return kind, [(_view(key), _view(item)) for key, item in value.items()]
    if isinstance(value, list | tuple | set):
        return kind, [_view(item) for item in value]
    return kind, value.get_secret_value() if isinstance(value, SecretStr) else repr(value)


@pytest.mark.exhaustive(len(KINDS))
@pytest.mark.promise("told-apart-judged-apart")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_one_digest_is_one_thing_to_the_tool(kind: Any) -> None:
    model = create_model("Schema", what=(kind, ...))
    schema = ArgumentSchema(StructuredTool.from_function(print, name="t", description="d", args_schema=model))
    chance, known = random.Random(7), dict[str, str]()  # noqa: S311  the same values in each run
    for _ in range(examples(1000)):
        try:
            values, arguments = schema.validate({"what": _written(chance)})
        except (Denied, ValueError):
            continue
        view = repr(_view(values))
        assert known.setdefault(arguments.digest, view) == view
        assert schema.canonicalize(dict(values), arguments.raw).digest == arguments.digest
    assert len(known) > 1
