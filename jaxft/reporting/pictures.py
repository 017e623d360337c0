"""The picture files of a report, and the figures that they show.

    pictures = write_pictures(groups, Path("report"))     # report/plots/01-acl_sup-minilm-...

Confusion matrices show sums over seeds; memory bars show the plan of one run alone.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxft.reporting import bars, curves, plots
from jaxft.reporting.aggregate import RunGroup
from jaxft.reporting.costs import alone
from jaxft.reporting.documents import Files, Pictures
from jaxft.reporting.facts import shown_metrics
from jaxft.reporting.formats import counted
from jaxft.reporting.schema import PlanRow


def write_pictures(groups: Sequence[RunGroup], output: Path) -> Pictures:
    """Draws everything below `output`/plots and returns the files of each task."""
    folder = output / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    looks = curves.styles(groups)
    pictures: dict[str, list[tuple[str, Files]]] = {}
    for number, of_model in enumerate(by_model(groups), 1):
        task, model = of_model[0].task, of_model[0].model
        stem = folder / f"{number:02d}-{slug(f'{task}-{model}')}"
        found = [
            (f"Learning curves of {model}", write_curves(of_model, looks, stem)),
            (f"Confusion matrices of {model}", write_matrices(of_model, stem)),
            (f"Memory of a training step of {model}", write_bars(of_model, stem)),
        ]
        pictures.setdefault(task, []).extend((title, files) for title, files in found if files)
    return pictures


def by_model(groups: Sequence[RunGroup]) -> list[list[RunGroup]]:
    """The groups of each task and model, in their order."""
    found: dict[tuple[str, str], list[RunGroup]] = {}
    for group in groups:
        found.setdefault((group.task, group.model), []).append(group)
    return list(found.values())


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-")


def named(path: Path, shows: str) -> tuple[str, str]:
    """A file as the report refers to it, and its description."""
    return f"{path.parent.name}/{path.name}", shows


# ---------------------------------------------------------------- curves and matrices


def write_curves(groups: Sequence[RunGroup], looks: curves.Looks, stem: Path) -> Files:
    """An SVG for each panel."""
    files = []
    for name in curves.panels_of(shown_metrics(groups[0].first)):
        path = stem.with_name(f"{stem.name}-{slug(name)}.svg")
        path.write_text(curves.to_svg(curves.panel(groups, name, looks)), encoding="utf-8")
        files.append(named(path, f"{name} by epoch"))
    return files


def write_matrices(groups: Sequence[RunGroup], stem: Path) -> Files:
    """A PNG for each group that was tested on something."""
    files = []
    for number, group in enumerate(groups, 1):
        counts_CxC = confusion(group)
        if counts_CxC is None:
            continue
        path = stem.with_name(f"{stem.name}-confusion-{number:02d}-{slug(group.label)}.png")
        title = f"{group.label}, {counted(len(group.runs), 'seed')}"
        scores = {"confusion": counts_CxC.tolist()}
        plots.confusion_matrix(scores, group.first["labels"], path, title=title)
        files.append(named(path, f"confusion matrix of {group.label}"))
    return files


def confusion(group: RunGroup) -> np.ndarray | None:
    """Returns counts_CxC (true, predicted) summed over seeds; None without test examples."""
    found = [run.results["test"].get("confusion") for run in group.runs]
    known = [counts for counts in found if counts]
    return np.sum(known, axis=0) if known else None


# ---------------------------------------------------------------- memory


def write_bars(groups: Sequence[RunGroup], stem: Path) -> Files:
    """A PNG of all groups, if there is one whose step was compiled."""
    rows = plan_rows(groups)
    if not rows:
        return []
    path = stem.with_name(f"{stem.name}-memory.png")
    bars.stacked_bars(rows, path, title=f"{groups[0].model}: a training step, by XLA")
    return [named(path, "memory by what it is for")]


def plan_rows(groups: Sequence[RunGroup]) -> list[PlanRow]:
    """Returns a row of the planner for each group: the step of one run alone.

    Groups without a plan whose runs did not train alone either are left out.
    """
    return [row for group in groups if (row := alone(group))]
