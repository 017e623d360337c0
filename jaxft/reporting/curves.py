"""Learning curves of groups: the mean over seeds as a line, one standard deviation as a band.

figure = panel(groups, "dev macro-F1", styles(groups))
to_svg(figure)                       # a separate file
inline_svg(figure, prefix="acl-1", label="dev scores")   # its colour is the text's
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxft.reporting.aggregate import RunGroup
from jaxft.reporting.facts import figure_of, shown_metrics
from jaxft.reporting.formats import shorten
from jaxft.reporting.plots import BLUE, GREEN, VERMILION
from jaxft.reporting.score_schema import Epoch
from jaxft.training.objectives import SINGLE_LABEL, Metric

Panels = Mapping[str, Callable[[Epoch], float | None]]


def panels_of(metrics: Mapping[str, Metric]) -> Panels:
    """Returns panel -> a figure of an epoch of results.json's history, given the scores shown."""
    losses: Panels = {
        "train loss": lambda entry: entry["train_loss"],
        "dev loss": lambda entry: entry["dev"].get("loss"),
    }
    scores = {f"dev {m.title}": partial(dev_figure, name) for name, m in metrics.items()}
    return {**losses, **scores}


def dev_figure(name: str, entry: Epoch) -> float | None:
    """A dev score of an epoch."""
    return figure_of(entry["dev"], name)


PANELS = panels_of(SINGLE_LABEL.shown_metrics())

# Okabe and Ito's palette without black and yellow, which vanish on a dark or a light page.
COLOURS = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK = "#222222"  # of all text and axes; a page puts currentColor in its place
SIZE = (4.6, 3.0)  # inches
LABEL_WIDTH = 34
Looks = Mapping[str, tuple[str, str]]  # label -> (colour, marker)


def styles(groups: Sequence[RunGroup]) -> dict[str, tuple[str, str]]:
    """Returns label -> (colour, marker): a method looks the same in every panel of a report."""
    labels = dict.fromkeys(group.label for group in groups)
    # One more marker than colours would repeat both together; so the pairs differ for 7 x 7 labels.
    pairs = [(c, MARKERS[(i + j) % 7]) for j in range(7) for i, c in enumerate(COLOURS)]
    return dict(zip(labels, cycle(pairs)))  # cycle has no end


def series(group: RunGroup, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns epochs_E and values_NxE of a panel, up to the last epoch of all seeds; NaN if
    missing.

    Epochs that only some seeds reached (others stopped early) are left out of the mean.
    """
    figure = panels_of(shown_metrics(group.first))[name]
    histories = [run.results["history"] for run in group.runs]
    length = min(map(len, histories))
    values = [[figure(entry) for entry in history[:length]] for history in histories]
    values_NxE = np.array([[np.nan if x is None else x for x in row] for row in values], float)
    epochs_E = np.array([entry["epoch"] for entry in histories[0][:length]])
    return epochs_E, np.where(np.isfinite(values_NxE), values_NxE, np.nan)


def panel(groups: Sequence[RunGroup], name: str, looks: Looks, *, legend: bool = True) -> Figure:
    """Returns the figure of one of the panels of the groups' objective.

    Args:
      looks: `styles` of all groups of the report.
      legend: without it the page has one for all panels.
    """
    with matplotlib.rc_context(ink_settings()):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for group in groups:
            draw_group(axes, group, name, looks[group.label])
        axes.set_title(name, fontsize=10, loc="left", parse_math=False)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.15, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if legend:
            columns = 1 if any(len(group.label) > 20 for group in groups) else 2
            figure.legend(loc="outside lower center", ncols=columns, frameon=False)
    return figure


def draw_group(axes: Any, group: RunGroup, name: str, style: tuple[str, str]) -> None:
    """The line of a group, and its band if there are several seeds."""
    if not group.runs:
        return
    epochs_E, values_NxE = series(group, name)
    colour, marker = style
    mean_E = values_NxE.mean(0)
    every = max(1, len(epochs_E) // 20)
    look: dict[str, Any] = {"marker": marker, "markersize": 4, "markevery": every}
    # A dollar sign would begin mathematics.
    label = shorten(group.label, LABEL_WIDTH).replace("$", r"\$")
    axes.plot(epochs_E, mean_E, color=colour, linewidth=1.8, label=label, **look)
    if len(values_NxE) > 1:
        std_E = values_NxE.std(0, ddof=1)
        band: dict[str, Any] = {"color": colour, "alpha": 0.18, "linewidth": 0}
        axes.fill_between(epochs_E, mean_E - std_E, mean_E + std_E, **band)


def ink_settings() -> dict[str, Any]:
    """Everything but the curves in one colour, without a background; text stays text."""
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys((*names, "grid.color"), INK),
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "font.size": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": "jaxft",  # equal figures, equal bytes
    }


# ---------------------------------------------------------------- SVG


def to_svg(figure: Figure, *, ground: str = "white") -> str:
    """Returns an SVG file's text."""
    file = io.StringIO()
    with matplotlib.rc_context(ink_settings()):
        # No date: equal runs write equal bytes.
        about = {"Date": None, "Creator": None, "Type": None, "Format": None}
        figure.savefig(file, format="svg", facecolor=ground, metadata=about)
    return file.getvalue()


def inline_svg(figure: Figure, *, prefix: str, label: str) -> str:
    """Returns an <svg> for a page, scaled to the available width, with unique ids.

    Args:
      prefix: of the ids.
      label: a description for readers who cannot see it; XML-escaped.
    """
    text = to_svg(figure, ground="none").replace(INK, "currentColor")
    svg = text[text.index("<svg ") :]
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    # A style element inside an <svg> applies to the whole page.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.DOTALL)
    # The size is in the viewBox; width and height would fix it in points.
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{label}">{rest.strip()}'
