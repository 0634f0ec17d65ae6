"""What a notebook and a terminal show of a guard, of what an agent reaches, and of a derived mandate."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool

from agentguard import Guard, ToolPath
from agentguard.catalog import Catalog
from agentguard.intent.derivation import Derivation
from agentguard.langchain.coverage import Coverage, Reach
from agentguard.model import Mandate, ToolSpec
from tests.conftest import ORDERS, Kit, classified, scripted
from tests.intent.test_intent import INTENT

EVIL = "<script>alert(1)</script>'\"\n"


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags = set[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)


def tags_of(page: str) -> set[str]:
    return Tags(page).tags


def rows_of(shown: Any) -> list[list[str]]:
    """Return the texts of the cells of each row, below the titles."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", shown._repr_html_())
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows[1:]]
    return [[unescape(re.sub("<[^>]*>", "", cell)) for cell in row] for row in cells]


def tool_named(name: str) -> BaseTool:
    return StructuredTool.from_function(
        lambda x: x, name=name, description="d", args_schema={"type": "object"}
    )


@pytest.fixture
def guard(kit: Kit) -> Guard:
    specs = [
        ToolSpec(name="look", path=ToolPath.READ),
        ToolSpec(name="pay", path=ToolPath.WRITE, resource="orders", scopes=frozenset({"b:w", "a:w"})),
        ToolSpec(name="drop", path=ToolPath.ESCALATION, resource="orders"),
    ]
    brokers: Any = {(None, ToolPath.WRITE): kit.broker}
    return kit.another(catalog=Catalog(specs, resources=[ORDERS]), brokers=brokers)


def test_a_guard_shows_its_tools_and_who_gives_each_of_them_a_credential(guard: Guard) -> None:
    assert rows_of(guard) == [
        ["drop", "ESCALATION", "orders", "", "NOBODY"],
        ["look", "READ", "-", "", "needs none"],
        ["pay", "WRITE", "orders", "a:w, b:w", "RecordingBroker"],
    ]
    assert "3 tools · Rule · MemoryStore · RecordingAudit" in guard._repr_html_()


def test_a_guard_says_on_one_line_what_it_is_made_of_whether_it_only_observes_and_whether_it_is_closed(
    guard: Guard, kit: Kit
) -> None:
    assert repr(guard) == "<Guard: 3 tools, Rule, MemoryStore, RecordingAudit>"
    assert repr(kit.another(observe=True)).endswith(", observes only: rules block nothing>")
    guard.close()
    assert repr(guard).endswith(", closed>")


def test_coverage_shows_each_tool_with_the_agent_that_reaches_it_and_marks_the_ungated(kit: Kit) -> None:
    gated, bare = classified(tool_named("gated")), tool_named("bare")
    shown = kit.guard.coverage(create_agent(scripted(), [kit.guard.wrap(gated)[0], bare]))
    assert sorted(row[1:] for row in rows_of(shown)) == [
        ["bare", "agent", "NOT GATED"],
        ["gated", "agent", "gated by tool"],
    ]
    page = shown._repr_html_()
    assert "1 of 2 tools are gated" in page
    assert page.count("rgba(229,83,75,.09)") == 1
    assert "not all was seen" in Coverage((), complete=False)._repr_html_()


def test_a_derived_mandate_shows_each_limit_its_values_their_authors_and_the_reasons() -> None:
    shown = INTENT.derive("Please refund $20 for order 4711")
    rows = dict(rows_of(shown))
    assert rows["tools"] == "'get' (template refund), 'refund' (template refund)"
    assert rows["args.get.order_id"] == "'4711' (user)"
    assert (rows["calls"], rows["writes"]) == ("4", "1")
    assert all(f"{place}: {values}" in str(shown) for place, values in rows.items() if place != "tools")
    assert "refund" in shown._repr_html_().rpartition("</table>")[2]


def test_a_mandate_of_nothing_is_marked() -> None:
    page = Derivation(mandate=Mandate.of({"tools": []}))._repr_html_()
    assert "no value, so every call is refused" in page
    assert "rgba(229,83,75,.09)" in page


@pytest.mark.promise("timeline-as-text")
def test_no_name_that_others_chose_is_markup_in_a_display(kit: Kit) -> None:
    spec = ToolSpec(name=EVIL, path=ToolPath.READ, scopes=frozenset({EVIL}))
    mandate = Mandate.of({"tools": [EVIL], "args": {EVIL: [EVIL]}})
    shown: list[Any] = [
        kit.another(catalog=Catalog([spec])),
        Coverage((Reach(tool=EVIL, gated_by="nothing", agent=EVIL),)),
        Derivation(mandate=mandate, reasons=(EVIL,)),
    ]
    for value in shown:
        page = value._repr_html_()
        assert "alert(1)" in page
        assert "script" not in tags_of(page)
        assert "'\"" not in page
        assert "\n" not in page
