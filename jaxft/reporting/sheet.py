"""A report's figures as CSV: a line for each cell, nothing rounded, for programs to read.

    Path("report.csv").write_text(sheet(cells))

Scores are shares of 1, memory is in bytes, time in seconds; an empty field is a figure that does
not exist, such as the spread of a single seed. `together_...` is of all runs that trained together,
all else of one run.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

from jaxft.reporting.aggregate import Cell
from jaxft.reporting.summary import FIGURES, collapsed, memory_parts, over
from jaxft.reporting.tables import chosen, majority_scores

# What the planner divides a step's memory into.
KINDS = ("frozen", "trained", "optimizer", "gradients", "activations", "workspace", "temporaries")


def sheet(cells: Sequence[Cell]) -> str:
    """Returns the CSV of one cell at least, with a line of names."""
    rows = [row(cell) for cell in cells]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def no_formula(text: str) -> str:
    """A text that a spreadsheet takes for text; a quote in front keeps it from being a formula.

    Source: OWASP, CSV Injection, https://owasp.org/www-community/attacks/CSV_Injection.
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def row(cell: Cell) -> dict[str, Any]:
    """The fields of a cell."""
    parameters = cell.first["parameters"]
    majority = majority_scores(chosen(cell.first))
    figures: dict[str, float | None] = {}
    for name in FIGURES:
        found = over(cell, name)
        figures[f"{name}_mean"] = found.mean if found else None
        figures[f"{name}_std"] = found.std if found else None
    names = {"task": cell.task, "model": cell.model, "method": cell.method, "variant": cell.variant}
    return {
        **{name: no_formula(text) for name, text in names.items()},
        "n": len(cell.runs),
        "seeds": " ".join(str(run.seed) for run in cell.runs),
        **figures,
        "majority_accuracy": majority.get("accuracy"),
        "majority_macro_f1": majority.get("macro_f1"),
        "collapsed": collapsed(cell),
        "diverged": len(cell.diverged),
        **{f"plan_{kind}_bytes": memory_parts(cell).get(kind) for kind in KINDS},
        "trained_parameters": parameters["trained"],
        "total_parameters": parameters["total"],
    }
