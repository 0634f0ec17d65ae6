r"""Mandates from intent: a template for each kind of task, filled by the application or by the user's words.

    [tasks.refund]
    when = ['\brefund\b']
    tools = ["get_order", "refund_order"]
    args = { order_id = ["{order}"] }
    writes = 1
    params = { order = { type = "string", pattern = 'order (\d+)' } }

`Intent.derive` chooses the kinds of task that the words mean, and unites their templates. It is
deterministic, and its result can be read before it takes effect. It trusts the words: pass only the user's
own words, never a tool's result. A keyword inside a quoted file name counts as the keyword. Templates only
limit what a task may touch; the policy decides whether a call is right. If two kinds give the same tool, each
argument may have a value of either kind: one kind may give the payee and the other the amount. Give kinds
that must not mix tools of their own, or write a policy about which values go together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agentguard.catalog import Catalog
from agentguard.display import code, html_of, table
from agentguard.intent.templates import Template, Values
from agentguard.model import WORDS, Budget, Mandate, Scalar, ToolPath
from agentguard.model.mandate import IF_TAKEN

__all__ = ["Derivation", "Intent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivation:
    """A mandate made of templates, with the reasons; read it before you pass the mandate to `Guard.task`.

    `kinds` are the names of the templates. Policies know the kind of task by them.
    """

    mandate: Mandate
    kinds: tuple[str, ...] = ()
    budget: Budget = field(default_factory=Budget)
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [*self.reasons, f"tools: {', '.join(sorted(self.mandate.tools)) or 'none'}"]
        lines += [f"{place}: {values}" for place, values in self._limits() if place != "tools"]
        # values from the words are quoted, so they hold no control character
        return "\n".join([*lines, *(f"{name}: {limit}" for name, limit in self._counts())])

    def _repr_html_(self) -> str:
        limits = [*self._limits(), *self._counts()]
        rows = ((bool(self.mandate.tools), (code(place), html_of(values))) for place, values in limits)
        return table(
            ("what a task may touch", "at most"), rows, " · ".join(self.reasons) or "no kind of task"
        )

    def _limits(self) -> Iterator[tuple[str, str]]:
        """Yield each limit by its place, with its values and who put each of them there."""
        for place, values in self.mandate.places():
            authors = self.mandate.authors.get(place, {})
            listed = ", ".join(f"{value!r} ({authors.get(value)})" for value in sorted(values, key=repr))
            yield place, listed or "no value, so every call is refused"

    def _counts(self) -> Iterator[tuple[str, str]]:
        for name, limit in asdict(self.budget).items():
            if limit is not None:
                yield name, str(limit)


class Intent:
    """Makes mandates by templates, for the tools of a catalog."""

    def __init__(self, templates: Iterable[Template], catalog: Catalog) -> None:
        self._templates, self._catalog = {template.name: template for template in templates}, catalog

    @property
    def templates(self) -> tuple[Template, ...]:
        """All templates, in their order."""
        return tuple(self._templates.values())

    def mandate(self, name: str, /, **values: Scalar | Sequence[Scalar]) -> Derivation:
        """Fill one template. The application vouches for all values in it.

        Raises:
            ValueError: There is no such template, or a value is missing, unknown, or of another type.
        """
        if (template := self._templates.get(name)) is None:
            raise ValueError(f"there is no [tasks.{name}]: {', '.join(self._templates) or 'none yet'}")
        if unknown := values.keys() - template.params.keys():
            raise ValueError(f"[tasks.{name}] has no parameter {min(unknown)}")
        filled: dict[str, tuple[Scalar, ...]] = {}
        for param, parameter in template.params.items():
            value: Any = values.get(param, ())
            filled[param] = tuple(value) if isinstance(value, list | tuple) else (value,)
            if not all(map(parameter.fits, filled[param])):
                raise ValueError(f"[tasks.{name}] {param} is no {parameter.type}")
            if parameter.required and not filled[param]:
                raise ValueError(f"[tasks.{name}] needs {param}")
        return self._united([(template, filled)], "application", (f"{name}: by the application",))

    def derive(self, words: str) -> Derivation:
        """Return the mandate of the kinds of task that the user's words mean, or an empty one."""
        words, chosen, reasons = words[:WORDS], list[tuple[Template, Values]](), list[str]()
        for template in self._templates.values():
            if (sign := template.sign(words)) is None:
                continue
            values = {param: parameter.values_in(words) for param, parameter in template.params.items()}
            missing = [p for p, parameter in template.params.items() if parameter.required and not values[p]]
            if missing:
                reasons.append(
                    f"{template.name}: not chosen, since the words do not say its {', '.join(missing)}"
                )
            else:
                chosen.append((template, values))
                reasons.append(f"{template.name}: by {sign!r}")
        if not chosen:
            otherwise = [template for template in self._templates.values() if template.otherwise]
            chosen = [(template, dict.fromkeys(template.params, ())) for template in otherwise]
            names = [f"{template.name}: since no other kind was meant" for template in otherwise]
            reasons += names or ["no kind of task"]
        return self._united(chosen, "user", tuple(reasons))

    def _united(
        self, chosen: Sequence[tuple[Template, Values]], by: str, reasons: tuple[str, ...]
    ) -> Derivation:
        tools = {template.name: template.tools_in(self._catalog) for template, _ in chosen}
        for template, _ in chosen:
            if missing := [tool for tool in template.tools if tool not in tools[template.name]]:
                reasons += (
                    f"{template.name}: without {', '.join(missing)}, whose classification does not fit",
                )
        authors: dict[str, dict[Scalar, str]] = {
            "tools": {
                tool: _author(template, by)
                for template, _ in reversed(chosen)
                for tool in tools[template.name]
            },
            **self._limits(chosen, by),
        }
        if chosen and all(template.resources is not None for template, _ in chosen):
            limits = [(template, template.resources or ()) for template, _ in chosen]
            authors["resources"] = {value: _author(t, by) for t, values in limits for value in values}
        if any(template.scopes is not None for template, _ in chosen):
            limits = [(template, self._scopes(template)) for template, _ in chosen]
            authors["scopes"] = {value: _author(t, by) for t, values in limits for value in values}
        mandate = Mandate(
            tools=frozenset(map(str, authors["tools"])),
            resources=_names(authors.get("resources")),
            args={p.removeprefix("args."): frozenset(v) for p, v in authors.items() if p.startswith("args.")},
            scopes=_names(authors.get("scopes")),
        )
        return Derivation(
            mandate=mandate.with_authors(authors),
            kinds=tuple(template.name for template, _ in chosen),
            budget=_sum([self._budget(template) for template, _ in chosen]),
            reasons=reasons,
        )

    def _budget(self, template: Template) -> Budget:
        """Return its budget. A kind whose tools only read adds no writes to the budget of other kinds."""
        specs = [self._catalog.tool(tool) for tool in template.tools]
        reads = all(spec is not None and spec.path is ToolPath.READ for spec in specs)
        return replace(template.budget, writes=0) if reads else template.budget

    def _scopes(self, template: Template) -> tuple[str, ...]:
        """Return its scopes; if it does not limit them, all that its tools need."""
        if template.scopes is not None:
            return template.scopes
        specs = (self._catalog.tool(tool) for tool in template.tools)
        return tuple(sorted({scope for spec in specs if spec is not None for scope in spec.scopes}))

    def _limits(self, chosen: Sequence[tuple[Template, Values]], by: str) -> dict[str, dict[Scalar, str]]:
        """Return the limits that every kind with the tool has, since each of these kinds alone permits it."""
        givers = Counter(tool for template, _ in chosen for tool in template.tools_in(self._catalog))
        limits: defaultdict[tuple[str, str], list[dict[Scalar, str]]] = defaultdict(list)
        certain = set[tuple[str, str]]()
        for template, values in chosen:
            certain |= template.limits(self._catalog, values).keys() - template.uncertain(self._catalog)
            for place, allowed in template.limits(self._catalog, values).items():
                author = _author(template, by)
                limits[place].append({value: by if filled else author for value, filled in allowed.items()})
        return {
            f"args.{tool}.{argument}{'' if (tool, argument) in certain else IF_TAKEN}": {
                value: who for limit in reversed(parts) for value, who in limit.items()
            }
            for (tool, argument), parts in limits.items()
            if len(parts) == givers[tool]
        }


def _author(template: Template, by: str) -> str:
    return f"template {template.name}" if by == "user" else by


def _names(values: Mapping[Scalar, str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(map(str, values))


def _sum(budgets: Sequence[Budget]) -> Budget:
    """Return the sum of all budgets. If one has no limit, the sum has none."""
    return Budget(
        calls=_total(budget.calls for budget in budgets),
        writes=_total(budget.writes for budget in budgets),
        questions=_total(budget.questions for budget in budgets),
        choice_bits=_total(budget.choice_bits for budget in budgets),
    )


def _total(limits: Iterable[int | None]) -> int | None:
    total = 0
    for limit in limits:
        if limit is None:
            return None
        total += limit
    return total
