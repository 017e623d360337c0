"""The picture files of a report, and the figures that they show.

    pictures = write_pictures(cells, Path("report"))     # report/plots/01-acl_sup-minilm-...

Confusion matrices and memory bars are drawn as for a single run and as for plans, given sums over
seeds and the plan of one run alone.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxft.reporting import bars, curves, plots
from jaxft.reporting.aggregate import Cell
from jaxft.reporting.costs import alone
from jaxft.reporting.documents import Files, Pictures
from jaxft.reporting.facts import shown_metrics
from jaxft.reporting.formats import counted
from jaxft.reporting.schema import PlanRow


def write_pictures(cells: Sequence[Cell], output: Path) -> Pictures:
    """Draws everything below `output`/plots and returns the files of each task."""
    folder = output / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    looks = curves.styles(cells)
    pictures: dict[str, list[tuple[str, Files]]] = {}
    for number, group in enumerate(by_model(cells), 1):
        task, model = group[0].task, group[0].model
        stem = folder / f"{number:02d}-{slug(f'{task}-{model}')}"
        found = [
            (f"Learning curves of {model}", write_curves(group, looks, stem)),
            (f"Confusion matrices of {model}", write_matrices(group, stem)),
            (f"Memory of a training step of {model}", write_bars(group, stem)),
        ]
        pictures.setdefault(task, []).extend((title, files) for title, files in found if files)
    return pictures


def by_model(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of each task and model, in their order."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.task, cell.model), []).append(cell)
    return list(groups.values())


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-")


def named(path: Path, shows: str) -> tuple[str, str]:
    """A file as the report refers to it, and its description."""
    return f"{path.parent.name}/{path.name}", shows


# ---------------------------------------------------------------- curves and matrices


def write_curves(cells: Sequence[Cell], looks: curves.Looks, stem: Path) -> Files:
    """An SVG for each panel."""
    files = []
    for name in curves.panels_of(shown_metrics(cells[0].first)):
        path = stem.with_name(f"{stem.name}-{slug(name)}.svg")
        path.write_text(curves.to_svg(curves.panel(cells, name, looks)), encoding="utf-8")
        files.append(named(path, f"{name} by epoch"))
    return files


def write_matrices(cells: Sequence[Cell], stem: Path) -> Files:
    """A PNG for each cell that was tested on something."""
    files = []
    for number, cell in enumerate(cells, 1):
        counts_CxC = confusion(cell)
        if counts_CxC is None:
            continue
        path = stem.with_name(f"{stem.name}-confusion-{number:02d}-{slug(cell.label)}.png")
        title = f"{cell.label}, {counted(len(cell.runs), 'seed')}"
        scores = {"confusion": counts_CxC.tolist()}
        plots.confusion_matrix(scores, cell.first["labels"], path, title=title)
        files.append(named(path, f"confusion matrix of {cell.label}"))
    return files


def confusion(cell: Cell) -> np.ndarray | None:
    """Returns counts_CxC (true, predicted) summed over seeds; None without test examples."""
    found = [run.results["test"].get("confusion") for run in cell.runs]
    known = [counts for counts in found if counts]
    return np.sum(known, axis=0) if known else None


# ---------------------------------------------------------------- memory


def write_bars(cells: Sequence[Cell], stem: Path) -> Files:
    """A PNG of all cells, if there is one whose step was compiled."""
    rows = plan_rows(cells)
    if not rows:
        return []
    path = stem.with_name(f"{stem.name}-memory.png")
    bars.stacked_bars(rows, path, title=f"{cells[0].model}: a training step, by XLA")
    return [named(path, "memory by what it is for")]


def plan_rows(cells: Sequence[Cell]) -> list[PlanRow]:
    """Returns a row of the planner for each cell: the step of one run alone.

    Cells whose runs have no plan, and did not train alone either, are left out.
    """
    return [row for cell in cells if (row := alone(cell))]
