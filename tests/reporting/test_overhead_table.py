"""The small table below the plans: what nvidia-smi would show, and what older plans do not have."""

import json
from pathlib import Path
from typing import Any

from jaxft.reporting.footprint import markdown, plan_table
from jaxft.reporting.formats import NONE
from jaxft.reporting.overhead import overhead_tables

ROOT = Path(__file__).parents[2]
MIB = 2**20


def published() -> list[dict[str, Any]]:
    """The plans in docs for an H100, without the parts that a plan of an older jaxft lacks."""
    text = (ROOT / "docs/results/memory/minilm_h100_seeds.json").read_text("utf-8")
    return [{name: row[name] for name in row if name != "overhead"} for row in json.loads(text)]


def beside(name: str, size: int, low: int, high: int, basis: str) -> dict[str, Any]:
    sizes = {"bytes": size * MIB, "low": low * MIB, "high": high * MIB}
    return {"name": name, **sizes, "basis": basis, "source": "a test"}


OVERHEAD = [
    beside("rounding", 1, 1, 1, "computed"),
    beside("batches in flight", 2, 2, 18, "computed"),
    beside("CUDA context", 300, 107, 555, "estimate"),
    beside("on demand", 1303, 1110, 1574, "total"),
    beside("preallocated", 18393, 18200, 18648, "total"),
]


def test_a_row_shows_each_part_and_what_nvidia_smi_would_at_most() -> None:
    row = {**published()[0], "overhead": OVERHEAD}
    (table,) = overhead_tables([row])
    cells = dict(zip(table.heads, table.texts()[0], strict=True))
    assert cells["rounding"] == "1.0"
    assert cells["batches in flight"] == "2.0"
    assert cells["CUDA context"] == "300.0"
    assert (cells["on demand"], cells["at most"]) == ("1,303.0", "1,574.0")
    assert "NCCL" not in cells
    assert "fraction" not in cells  # 75 % is enough
    assert table.text() in plan_table([row])
    assert table.markdown() in markdown([row])


def test_a_step_that_75_percent_is_too_small_for_names_the_fraction() -> None:
    row = {**published()[0], "overhead": OVERHEAD}
    small = {**row, "label": "small"}
    memory = row["memory_bytes"]
    row["compiled"] = {**row["compiled"], "peak": int(0.81 * memory)}
    (table,) = overhead_tables([row, small])
    column = [dict(zip(table.heads, line, strict=True))["fraction"] for line in table.texts()]
    assert column == ["0.82", NONE]


def test_plans_of_an_older_jaxft_and_of_a_cpu_have_no_such_table() -> None:
    rows = published()
    assert list(overhead_tables(rows)) == []
    assert "nvidia-smi" not in plan_table(rows)
    assert "nvidia-smi" not in markdown([{**rows[0], "overhead": []}])
