"""Planned beside measured, part by part; the phases; and runs of an older jaxft, without either."""

from typing import Any

import pytest

from jaxft.reporting.facts import phases_line
from jaxft.reporting.formats import NONE
from jaxft.reporting.measured import measured_table, phases_table
from tests.reporting.test_summary import SEEDS, both, plan_of, section_of

MIB = 2**20


def in_use(now: int, most: int) -> dict[str, int]:
    return {"bytes_in_use": now * MIB, "peak_bytes_in_use": most * MIB}


PHASES = {
    "load": in_use(400, 400),
    "first_step": in_use(420, 480),
    "steady": in_use(420, 490),
    "save": in_use(500, 500),
}


def sizes(params: int, optimizer: int = 0) -> dict[str, int]:
    return {"params_bytes": params * MIB, "grad_bytes": 0, "opt_state_bytes": optimizer * MIB}


@pytest.fixture
def groups() -> list[Any]:
    """Full, of an older jaxft, and LoRA, whose plan has 10 + 30 MiB: frozen and activations."""
    full, lora = both(*SEEDS)
    for run in lora.runs:
        run.results["memory"] = {
            **run.results["memory"],
            "plan": plan_of("lora", 30),
            "held": {"frozen": sizes(10), "adapter": sizes(5, 10), "shared": sizes(0, 1)},
            "phases": PHASES,
            "measured_growth": 60 * MIB,
            "measured_growth_percent": 20.0,
        }
    return [full, lora]


def test_each_part_has_its_planned_and_its_measured_bytes(groups: list[Any]) -> None:
    table = measured_table(groups)
    assert table is not None
    lines = {row[1].text: [entry.text for entry in row[2:]] for row in table.rows}
    assert {row[0].text for row in table.rows} == {"lora"}
    assert lines["frozen weights"] == ["10.0 MiB", "10.0 MiB", "+0.0%"]
    # The peak of the steps, 490, above the 400 after loading.
    assert lines["temporaries"][1] == "90.0 MiB"
    planned = {row[1].text: row[2].value for row in table.rows}
    assert sum(planned[name] or 0 for name in planned if name != "step") == planned["step"]
    assert lines["step"][1] == "60.0 MiB"


def test_a_part_that_was_not_measured_shows_a_dash(groups: list[Any]) -> None:
    for run in groups[1].runs:
        run.results["memory"]["phases"] = {}
    table = measured_table(groups)
    assert table is not None
    lines = {row[1].text: [entry.text for entry in row[2:]] for row in table.rows}
    assert lines["temporaries"][1:] == [NONE, NONE]
    assert phases_table(groups) is None


def test_the_phases_are_columns(groups: list[Any]) -> None:
    table = phases_table(groups)
    assert table is not None
    assert table.heads == ("method", "load", "first step", "steady", "save")
    (line,) = table.texts()
    assert line[:2] == ("lora", "400.0 MiB / 400.0 MiB")
    assert line[2:] == (
        *("420.0 MiB / 480.0 MiB", "420.0 MiB / 490.0 MiB"),
        "500.0 MiB / 500.0 MiB",
    )


def test_a_line_names_the_peaks_that_rose() -> None:
    assert phases_line({"phases": PHASES}) == (
        "load 400.0 MiB, first step 420.0 MiB (peak 480.0 MiB), steady 420.0 MiB (peak 490.0 MiB), "
        "save 500.0 MiB"
    )
    assert phases_line({}) == ""


def test_runs_of_an_older_jaxft_and_those_that_trained_together_have_no_such_table(
    groups: list[Any],
) -> None:
    assert measured_table(groups[:1]) is None
    assert section_of(groups[0]).phases is None
    for run in groups[1].runs:
        run.results["timing"]["seeds_together"] = 3
    assert measured_table(groups) is None
    assert section_of(*groups).phases is not None
