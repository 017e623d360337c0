"""The figures of a run: learning curves and confusion matrix; for other labels see figures_of_test.

    learning_curves(results["history"], "curves.png", title="acl_sup, lora")
    confusion_matrix(results["test"], results["labels"], "confusion.png", title="acl_sup, test")

Figures are made without pyplot, so nothing is global and no display is needed. Colours are of
Okabe and Ito's palette, which colour-blind readers can distinguish; markers also work in grey.
"""

import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxft.reporting.formats import shorten
from jaxft.training.objectives import SINGLE_LABEL, Metric
from jaxft.training.selection import best_entry

DPI = 150
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
SCORE_LOOKS = ((BLUE, "o"), (GREEN, "^"), ("#CC79A7", "D"))  # (colour, marker) of each score
LABEL_WIDTH = 26


# ---------------------------------------------------------------- learning curves


def learning_curves(
    history: Sequence[Mapping[str, Any]],
    path: str | PathLike[str],
    *,
    title: str,
    selected: int | None = None,
    metrics: Mapping[str, Metric] | None = None,
    baseline: str = "majority class",
    loss_name: str = SINGLE_LABEL.loss_name,
) -> None:
    """Writes a PNG: losses by epoch to the left, the scores on dev to the right.

    Args:
      history: the epochs, one at least: `{"epoch", "train_loss", "dev": {"loss", ...}}`.
      selected: the epoch, from 1, whose scores are reported, to be marked; without it the best on
        dev by macro-F1 is marked as just that.
      metrics: the scores by name, of which shares are drawn; accuracy and macro-F1 by default.
      baseline: the name of the prediction without a model, whose score is a line.
      loss_name: what the axis of the losses is called.
    """
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=12, parse_math=False)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    draw_line(left, epochs, [row["train_loss"] for row in history], "train", BLUE, "o")
    draw_line(left, epochs, dev_series(history, "loss"), "dev", VERMILION, "s")
    draw_scores(right, history, metrics or SINGLE_LABEL.shown_metrics(), baseline)
    finish(left, loss_name, epochs)
    finish(right, "score on dev", epochs)
    best = best_entry([dict(row) for row in history])
    if selected or best:
        epoch = selected or best["epoch"]  # type: ignore[index]  # one of them is there
        mark_epoch([left, right], epoch, "reported" if selected else "best on dev")
    for axes in (left, right):
        # Below the panel, because inside it would cover the lines of some histories.
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    save(figure, path)


def draw_scores(
    axes: Axes, history: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric], baseline: str
) -> None:
    """A line for each score that is a share, and one for the prediction without a model."""
    epochs, lowest = [row["epoch"] for row in history], 0.0
    shares = {name: metric.title for name, metric in metrics.items() if metric.is_share}
    for (name, title), look in zip(shares.items(), cycle(SCORE_LOOKS)):  # cycle has no end
        values = dev_series(history, name)
        draw_line(axes, epochs, values, title, *look)
        lowest = min([lowest, *(x for x in values if x is not None and np.isfinite(x))])
    dev = history[-1]["dev"]
    floor, of = dev.get("majority_accuracy"), "accuracy"
    if "baseline" in dev and shares:
        name, of = list(shares.items())[-1]
        floor = dev["baseline"][name]
    if floor is not None:
        style: dict[str, Any] = {"color": VERMILION, "linestyle": "--", "linewidth": 1.4}
        axes.axhline(floor, label=f"{baseline.partition(' (')[0]}, {of}", **style)
    axes.set_ylim(lowest - 0.02, 1.02)


def dev_series(history: Sequence[Mapping[str, Any]], key: str) -> list[float | None]:
    return [row["dev"].get(key) for row in history]


def draw_line(
    axes: Axes, x: Sequence[int], y: Sequence[float | None], name: str, color: str, marker: str
) -> None:
    values = np.array([np.nan if v is None else v for v in y], float)
    values[~np.isfinite(values)] = np.nan  # a diverged loss leaves a gap, not an empty axis
    # Markers on hundreds of epochs would merge into a thick band.
    style: dict[str, Any] = {"marker": marker, "markersize": 5, "markevery": max(1, len(x) // 40)}
    axes.plot(x, values, label=name, color=color, linewidth=1.8, **style)


def finish(axes: Axes, ylabel: str, epochs: Sequence[int]) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    margin = max(0.5, 0.02 * (epochs[-1] - epochs[0]))
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def mark_epoch(panels: Sequence[Axes], epoch: int, what: str) -> None:
    style: dict[str, Any] = {"color": GREY, "linestyle": ":", "linewidth": 1.6, "zorder": 1}
    for axes in panels:
        axes.axvline(epoch, label=f"{what}: epoch {epoch}", **style)


# ---------------------------------------------------------------- confusion matrix


def confusion_matrix(
    scores: Mapping[str, Any], labels: Sequence[str], path: str | PathLike[str], *, title: str
) -> None:
    """Writes a PNG: counts of (true, predicted), shaded by their share of the true class.

    Args:
      scores: as by `jaxft.training.metrics.score`; without examples the matrix is all zeros.
      labels: class names in the order of the matrix.
    """
    size = len(labels)
    counts_CxC = np.array(scores.get("confusion") or np.zeros((size, size)), int)
    support_C = counts_CxC.sum(1)
    share_CxC = counts_CxC / np.maximum(support_C, 1)[:, None]
    names = [shorten(label, LABEL_WIDTH) for label in labels]
    figure = Figure(figsize=figure_size(names), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share_CxC, cmap="Blues", vmin=0, vmax=1)
    write_cells(axes, counts_CxC, share_CxC)
    rows = [f"{name} ({n:,})" for name, n in zip(names, support_C, strict=True)]
    axes.set_yticks(range(size), rows, parse_math=False)
    axes.set_xticks(range(size), names, parse_math=False, **tilt(names))
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (examples)")
    axes.set_title(title, fontsize=12, pad=10, parse_math=False)
    draw_grid(axes, size)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, ticks=[0, 0.5, 1])
    bar.set_ticklabels(["0%", "50%", "100%"])
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    save(figure, path)


def figure_size(names: Sequence[str]) -> tuple[float, float]:
    """Inches: a cell keeps its size whatever the number of classes and the length of names."""
    cells, name = 0.72 * max(len(names), 3), 0.085 * max(map(len, names))
    return cells + name + 2.6, cells + 0.75 * name + 1.3


def tilt(names: Sequence[str]) -> dict[str, Any]:
    """Names wider than a cell are rotated, with their end at their column."""
    if max(map(len, names)) <= 8:
        return {}
    return {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}


def write_cells(axes: Axes, counts_CxC: np.ndarray, share_CxC: np.ndarray) -> None:
    for (row, column), n in np.ndenumerate(counts_CxC):
        share = share_CxC[row, column]
        color = "white" if share > 0.55 else "#aaaaaa" if n == 0 else "#222222"
        weight = "bold" if row == column else "normal"
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": color}
        # Not in layout: they are inside the axes, and measuring hundreds of texts takes seconds.
        style |= {"xy": (column, row), "textcoords": "offset points", "in_layout": False}
        # In points, so that the distance of both lines does not depend on the size of a cell.
        size = 11 if n < 10_000 else 9
        up = 5 if n else 0
        axes.annotate(f"{n:,}", xytext=(0, up), fontsize=size, fontweight=weight, **style)
        if n:
            axes.annotate(f"{100 * share:.0f}%", xytext=(0, -9), fontsize=7.5, **style)


def draw_grid(axes: Axes, size: int) -> None:
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


# ---------------------------------------------------------------- file


def save(figure: Figure, path: str | PathLike[str]) -> None:
    """Writes the PNG, and the folder it goes to."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # Labels in a script that the font lacks show as boxes, without a warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # Tight: long labels may reach over the figure's edge, and are not to be cut. No version of
        # matplotlib in the file: equal runs write equal bytes.
        box: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.1}
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None}, **box)
