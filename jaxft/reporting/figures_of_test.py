"""The figure of a run's test split, which depends on the kind of its labels.

    draw(results, Path("plots"), targets, predicted, title="acl_sup, lora")

One class a text: the confusion matrix (`jaxft.reporting.plots`). Several: a bar of F1 for each
label. A number: the predicted against the true numbers.
"""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxft.reporting.facts import picture_of
from jaxft.reporting.formats import shorten
from jaxft.reporting.plots import BLUE, GREY, LABEL_WIDTH, VERMILION, confusion_matrix, save

MOST_BARS = 40  # the most frequent labels; more could not be read


def draw(
    results: Mapping[str, Any],
    folder: Path,
    targets: np.ndarray,
    predicted: np.ndarray,
    *,
    title: str,
) -> None:
    """Writes the figure of a run's test split as a PNG.

    Args:
      results: the content of results.json.
      targets, predicted: of the test examples, as the objective has them.
    """
    found = picture_of(results)
    if found is None:
        return
    path = folder / found[0]
    kind = results.get("plot", "confusion")
    if kind == "confusion":
        confusion_matrix(results["test"], results["labels"], path, title=title)
    elif kind == "labels":
        label_bars(results["test"].get("per_class", {}), path, title=title)
    else:
        scatter(targets, predicted, path, title=title)


def label_bars(per_class: Mapping[str, Any], path: str | PathLike[str], *, title: str) -> None:
    """Writes a PNG: a bar of F1 for each label, the most frequent first, with its texts."""
    ordered = sorted(per_class.items(), key=lambda item: -item[1]["support"])[:MOST_BARS]
    names = [f"{shorten(name, LABEL_WIDTH)} ({own['support']:,})" for name, own in ordered]
    figure = Figure(figsize=(7, 1.5 + 0.3 * max(len(names), 3)), layout="constrained")
    axes = figure.subplots()
    places = range(len(names))
    axes.barh(places, [own["f1"] for _, own in ordered], height=0.7, color=BLUE)
    style: dict[str, Any] = {"va": "center", "textcoords": "offset points", "fontsize": 8}
    for place, (_, own) in zip(places, ordered, strict=True):
        axes.annotate(f"{own['f1']:.2f}", (own["f1"], place), (4, 0), **style)
    axes.set_yticks(places, names, parse_math=False)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("F1 on test; in brackets, the test texts that have the label")
    of = "" if len(ordered) == len(per_class) else f", {len(ordered)} of {len(per_class)} labels"
    axes.set_title(f"{title}{of}", fontsize=12, pad=10, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def scatter(
    true_N: np.ndarray, predicted_N: np.ndarray, path: str | PathLike[str], *, title: str
) -> None:
    """Writes a PNG: a point for each text, and the line on which predictions are exact.

    A prediction that is not finite is left out.
    """
    known_N = np.isfinite(predicted_N)
    true_N, predicted_N = true_N[known_N], predicted_N[known_N]
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.subplots()
    size = 18 if len(true_N) < 1000 else 6
    axes.scatter(true_N, predicted_N, s=size, color=BLUE, alpha=0.5, linewidths=0)
    if len(true_N):
        ends = [min(true_N.min(), predicted_N.min()), max(true_N.max(), predicted_N.max())]
        style: dict[str, Any] = {"color": VERMILION, "linestyle": "--", "linewidth": 1.4}
        axes.plot(ends, ends, label="exact", **style)
        axes.axhline(true_N.mean(), color=GREY, linestyle=":", label="mean of the true numbers")
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    axes.set_xlabel("true number")
    axes.set_ylabel("predicted number")
    axes.set_title(title, fontsize=12, pad=10, parse_math=False)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
