"""Makes the public table's files from the cells that have been planned: JSON, CSV and the page.

    python scripts/memory_table/page.py [--folder docs/results/memory_table]
                                        [--page docs/memory_table.html]

`plan.py` writes the cells. The page has its data, style and script in itself and loads nothing.
"""

import argparse
import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from by_hand import error, formula, four_times
from cells import DEVICES, METHODS, MODELS, cells
from plan import FILE, cell_of, read

TEMPLATE = Path(__file__).with_name("page.html")
PARTS = ("frozen", "trained", "optimizer", "gradients", "activations", "workspace", "temporaries")
PARTS += ("other",)
DATA = "/*DATA*/ null"  # in the template, where the rows go


def main() -> None:
    """Writes all files anew."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("docs/results/memory_table"))
    parser.add_argument("--page", type=Path, default=Path("docs/memory_table.html"))
    asked = parser.parse_args()
    planned = {cell_of(row): row for row in read(asked.folder / FILE)}
    rows = [entry(planned[cell]) for cell in cells() if cell in planned]
    write_json(asked.folder / "table.json", rows)
    write_csv(asked.folder / "table.csv", rows)
    data = json.dumps(page_data(rows, planned.values()), separators=(",", ":"))
    page = TEMPLATE.read_text("utf-8").replace(DATA, data.replace("</", "<\\/"))
    asked.page.write_text(page, encoding="utf-8")
    spent = [row["cpu_s"] for row in planned.values() if row["cpu_s"]]  # not from the cache
    each, total = sum(spent) / max(len(spent), 1), len(cells())
    print(f"{len(rows):,} of {total:,} cells; {each:.0f} CPU seconds each")
    print(f"all on two cores: {each * total / 2 / 3600:.1f} hours")


def entry(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of the table: a cell with its estimates by hand; sizes in bytes."""
    sizes = row["breakdown"] or {}
    by_hand, four = formula(row), four_times(row)
    return {
        "model": row["model"],
        "device": row["device"],
        "method": row["method"],
        "batch_size": row["batch_size"],
        "length": row["length"],
        "peak": row["peak"],
        "on_demand": row["on_demand"],
        "memory": row["memory_bytes"],
        "fits": row["peak"] is not None and needed(row) <= row["memory_bytes"],
        **{part: sizes.get(part) for part in PARTS},
        "parameters": row["parameters"],
        "trained_parameters": row["trained"],
        "flops": row["flops"],
        "formula": round(by_hand),
        "formula_error": error(by_hand, row["peak"]),
        "four_times_weights": round(four),
        "four_times_error": error(four, row["peak"]),
    }


def needed(row: dict[str, Any]) -> int:
    """The bytes of a device that a process needs; of a TPU the peak alone."""
    return row["on_demand"] or row["peak"]


def page_data(rows: list[dict[str, Any]], planned: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Returns what the page's script reads: names once, and rows as lists of numbers."""
    numbers = (
        "batch_size",
        "length",
        "peak",
        "on_demand",
        *PARTS,
        "parameters",
        "trained_parameters",
        "flops",
    )
    numbers += ("formula", "four_times_weights")
    return {
        "models": MODELS,
        "devices": DEVICES,
        "memory": [memory_of(rows, name) for name in DEVICES],
        "methods": list(METHODS),
        "columns": ["model", "device", "method", *numbers],
        "rows": [
            [
                MODELS.index(row["model"]),
                DEVICES.index(row["device"]),
                list(METHODS).index(row["method"]),
                *(row[name] for name in numbers),
            ]
            for row in rows
        ],
        "cells": len(cells()),
        "made_by": sorted({row["made_by"].partition(",")[0] for row in planned}),
    }


def memory_of(rows: list[dict[str, Any]], device: str) -> int | None:
    """Returns a device's bytes; None if it has no row yet."""
    return next((row["memory"] for row in rows if row["device"] == device), None)


def write_json(file: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the rows, one a line."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    file.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def write_csv(file: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the rows with a line of heads; an empty field is a missing value."""
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
