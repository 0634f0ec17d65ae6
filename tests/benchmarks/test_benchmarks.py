"""The benchmark runs, and nothing has become several times slower.

The bounds here are generous, since a machine that runs tests is busy with others: they find a mistake
that doubles the cost of a call, and not a target that is missed. `python -m tests.benchmarks` on a
quiet machine says how far the targets are met.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.__main__ import main

RATIOS = {"tool_invoke_ratio": 6.0, "agent_step_ratio": 2.0, "overhead_over_floor": 8.0}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("benchmarks") / "figures.json"
    main(["--json", str(out), "--rounds", "5", "--calls", "20"])
    found: dict[str, Any] = json.loads(Path(out).read_text())
    return found


@pytest.mark.parametrize("store", ["sqlite", "memory"])
@pytest.mark.parametrize(("name", "bound"), RATIOS.items())
def test_no_ratio_is_beyond_its_generous_bound(
    figures: dict[str, Any], store: str, name: str, bound: float
) -> None:
    found = (figures if store == "sqlite" else figures["memory"])[name]
    assert 0.0 < found < bound


def test_the_figures_name_every_subject_and_part(figures: dict[str, Any]) -> None:
    subjects = {f"{kind} {way}" for kind in ("tool", "agent") for way in ("bare", "sqlite", "memory")}
    times = figures["microseconds"]
    named = subjects | {"tool in parts", *figures["parts"]}
    assert times.keys() == figures["least_microseconds"].keys() == named
    assert figures["promised_parts_ratio"] > 1.0
    assert len(figures["parts"]) == 4
    assert all(0 < figures["least_microseconds"][name] <= times[name] < 1e6 for name in times)
    assert figures["floor_microseconds"] == pytest.approx(sum(times[n] for n in figures["parts"]), abs=0.5)


def test_a_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--rounds", "1", "--calls", "1"])
    printed = capsys.readouterr().out
    for name in RATIOS:
        assert name in printed
