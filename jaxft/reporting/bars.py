"""The picture of memory plans: a bar for each method, divided by purpose.

    stacked_bars(rows, "plan.png", title="roberta-base: memory of a training step")

Rows are as `python -m jaxft.memory` makes them. Groups (`jaxft.reporting.plans.groups`) are
panels one above the other on one scale. Colours are of Okabe and Ito's palette, as in the other
plots.
"""

from collections.abc import Sequence
from itertools import pairwise
from os import PathLike
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from jaxft.reporting.formats import human_bytes, shorten
from jaxft.reporting.plans import (
    batches_vary,
    does_not_fit,
    frozen_of,
    full_row,
    groups,
    has_other_frozen,
    has_several_seeds,
    parts,
    peak,
    remats_vary,
    saved_share,
    seeds_of,
    title_of,
)
from jaxft.reporting.plots import BLUE, GREEN, GREY, VERMILION, save
from jaxft.reporting.schema import PlanRow

# In the order of drawing: kinds that hardly differ between methods come first, so that the ends of
# the bars can be compared.
KINDS = {
    "frozen": ("frozen parameters", "#BBBBBB"),
    "trained": ("trained parameters", BLUE),
    "optimizer": ("optimizer state", "#56B4E9"),
    "gradients": ("gradients", "#E69F00"),
    "activations": ("activations", GREEN),
    "workspace": ("workspace, other", "#CC79A7"),
    "temporaries": ("temporaries, undivided", "#F0E442"),
}
DARK = "#222222"

# name -> (bytes, decimals): GiB from 1 GiB on, for readability.
UNITS = {"MiB": (2**20, 0), "GiB": (2**30, 2)}
LABEL_WIDTH = 40

# Inches.
WIDTH, BAR, GAP, PANEL, AROUND = 10.0, 0.3, 0.15, 0.62, 1.25
CHARACTER = 0.075  # the mean width of a label's characters, rounded up
FONT = 9


def stacked_bars(rows: Sequence[PlanRow], path: str | PathLike[str], *, title: str) -> None:
    """Writes a PNG: a stacked bar for each row, with its peak and its saving against full.

    Args:
      rows: plans, one at least.
    """
    save(draw(rows, title=title), path)


def draw(rows: Sequence[PlanRow], *, title: str = "") -> Figure:
    """Returns the figure of `stacked_bars`; its panels and bars are those of `panels_of`."""
    panels = panels_of(rows)
    heights = [PANEL + BAR * (places(panel, rows)[-1] + 1) for panel in panels]
    figure = Figure(figsize=(WIDTH, AROUND + sum(heights)), layout="constrained")
    figure.suptitle(title, fontsize=12, parse_math=False)
    grid = figure.subplots(len(panels), squeeze=False, sharex=True, height_ratios=heights)
    all_axes = list(grid[:, 0])
    unit = unit_of(rows)
    edge = right_edge(rows, unit)
    for axes, panel in zip(all_axes, panels, strict=True):
        draw_bars(axes, panel, places(panel, rows), unit)
        write_ends(axes, panel, places(panel, rows), unit)
        finish(axes, panel, rows)
        memory = shown_memory(panel[0], rows, unit)
        if memory is not None:
            draw_memory(axes, panel, memory, edge)
        write_title(axes, panel, pad=6 if memory is None else 18)
    all_axes[0].set_xlim(0, edge)
    all_axes[-1].set_xlabel(f"{unit} a device", fontsize=FONT)
    add_legend(figure, rows)
    return figure


def panels_of(rows: Sequence[PlanRow]) -> list[list[PlanRow]]:
    """The groups of rows; in each, the rows are in the order of the methods."""
    names = list(dict.fromkeys(row["label"] for row in rows))
    return [sorted(group, key=lambda row: names.index(row["label"])) for group in groups(rows)]


# ---------------------------------------------------------------- bars


def unit_of(rows: Sequence[PlanRow]) -> str:
    """The unit of the axis."""
    return "GiB" if max(peak(row) or 0 for row in rows) >= 2**30 else "MiB"


def in_unit(n: int | None, unit: str) -> float:
    return (n or 0) / UNITS[unit][0]


def draw_bars(axes: Axes, panel: Sequence[PlanRow], y: Sequence[float], unit: str) -> None:
    """One container of bars for each kind that occurs, labelled with its name."""
    sizes = [segments(row) for row in panel]
    left = [0.0] * len(panel)
    for kind in kinds(panel):
        name, color = KINDS[kind]
        width = [in_unit(s.get(kind), unit) for s in sizes]
        axes.barh(y, width, left=left, height=0.78, color=color, label=name)
        left = [a + b for a, b in zip(left, width, strict=True)]


def segments(row: PlanRow) -> dict[str, int]:
    """The peak by kind, none below 0."""
    sizes = parts(row)
    if not sizes:
        return {}
    # XLA drops weights that no step reads, which the accounting counts: the rest is then negative.
    too_much = sum(size for size in sizes.values() if size < 0)
    sizes = {kind: max(size, 0) for kind, size in sizes.items()}
    sizes[max(sizes, key=sizes.__getitem__)] += too_much
    return sizes


def kinds(rows: Sequence[PlanRow]) -> list[str]:
    """The kinds that are not zero everywhere, in the order of drawing."""
    return [kind for kind in KINDS if any(segments(row).get(kind) for row in rows)]


def places(panel: Sequence[PlanRow], rows: Sequence[PlanRow]) -> list[float]:
    """The positions of the bars, with gaps between methods if a method has several bars."""
    place, found = 0.0, [0.0]
    are_apart = remats_vary(rows) or has_several_seeds(rows) or has_other_frozen(rows)
    for before, row in pairwise(panel):
        is_next = before["label"] != row["label"] and are_apart
        place += 1 + (GAP / BAR if is_next else 0)
        found.append(place)
    return found


def labels(panel: Sequence[PlanRow], rows: Sequence[PlanRow]) -> list[str]:
    """The method and the settings that differ; the method once for successive bars of it."""
    found: list[str] = []
    for i, row in enumerate(panel):
        names = [frozen_of(row)] if has_other_frozen(rows) else []
        names += [f"remat {row['remat']}"] if remats_vary(rows) else []
        if has_several_seeds(rows):
            names.append("1 seed" if seeds_of(row) == 1 else f"{seeds_of(row)} seeds")
        names += [f"batch {row['batch_size']:,}"] if batches_vary(panel) else []
        is_first = i == 0 or panel[i - 1]["label"] != row["label"] or not names
        names = [shorten(row["label"], LABEL_WIDTH), *names] if is_first else names
        found.append(", ".join(names))
    return found


# ---------------------------------------------------------------- texts


def write_ends(axes: Axes, panel: Sequence[PlanRow], y: Sequence[float], unit: str) -> None:
    """Writes after each bar its size, its saving, and whether it is too large."""
    for row, place in zip(panel, y, strict=True):
        at: Any = (in_unit(peak(row), unit), place)
        where: Any = axes.transData
        for text, style in end_texts(row, panel, unit):
            # A white background, because the line of the device's memory may cross the text.
            style |= {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 2}}
            style |= {"fontsize": FONT, "va": "center", "textcoords": "offset points"}
            note = axes.annotate(text, at, (5, 0), xycoords=where, **style)
            at, where = (1, 0.5), note  # the next one follows it


def end_texts(
    row: PlanRow, panel: Sequence[PlanRow], unit: str
) -> list[tuple[str, dict[str, Any]]]:
    """(text, style) of each text after a bar."""
    texts: list[tuple[str, dict[str, Any]]] = []
    if peak(row) is not None:
        size = f"{in_unit(peak(row), unit):,.{UNITS[unit][1]}f}"
        texts.append((f"{size} {unit}", {"color": DARK}))
    saved = saved_share(row, panel)
    # Full fine-tuning has no saving to show.
    if saved is not None and full_row(row, panel) is not row:
        texts.append((saved_text(saved), {"color": DARK, "weight": "bold"}))
    if does_not_fit(row):
        texts.append(("does not fit", {"color": VERMILION, "weight": "bold"}))
    return texts


def saved_text(saved: float) -> str:
    """`62% saved` or `3% more`."""
    percents = round(100 * saved)
    return f"{percents}% saved" if percents >= 0 else f"{-percents}% more"


def right_edge(rows: Sequence[PlanRow], unit: str) -> float:
    """Where the axis ends: no text after a bar may reach beyond it."""
    panels = panels_of(rows)
    widest = max(len(name) for panel in panels for name in labels(panel, rows))
    inches = WIDTH - 0.4 - CHARACTER * widest
    edges = [1.02 * memory for row in rows if (memory := shown_memory(row, rows, unit))]
    for panel in panels:
        for row in panel:
            length = sum(len(text) + 2 for text, _ in end_texts(row, panel, unit))
            edges.append(in_unit(peak(row), unit) / (1 - CHARACTER * length / inches))
    return max(edges) or 1.0


# ---------------------------------------------------------------- around the bars


def finish(axes: Axes, panel: Sequence[PlanRow], rows: Sequence[PlanRow]) -> None:
    y = places(panel, rows)
    axes.set_yticks(y, labels(panel, rows), fontsize=FONT, parse_math=False)
    axes.set_ylim(y[-1] + 0.6, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=FONT)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def write_title(axes: Axes, panel: Sequence[PlanRow], pad: float) -> None:
    style: dict[str, Any] = {"fontsize": FONT, "color": GREY, "parse_math": False}
    axes.set_title(title_of(panel), loc="left", pad=pad, **style)


def draw_memory(axes: Axes, panel: Sequence[PlanRow], memory: float, edge: float) -> None:
    """A line where a device's memory ends, named above it."""
    axes.axvline(memory, color=VERMILION, linestyle="--", linewidth=1.4)
    text = f"memory of a device: {human_bytes(panel[0]['memory_bytes'])}"
    style: dict[str, Any] = {"ha": "left" if memory < edge / 2 else "right", "fontsize": FONT - 1}
    style |= {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate(text, (memory, 1), (0, 3), color=VERMILION, **style)


def shown_memory(row: PlanRow, rows: Sequence[PlanRow], unit: str) -> float | None:
    """The device's memory, unless it is so large that the bars would be too short to read."""
    largest = max((peak(r) or 0 for r in rows), default=0)
    memory = row["memory_bytes"]
    return in_unit(memory, unit) if memory and memory <= 3 * largest else None


def add_legend(figure: Figure, rows: Sequence[PlanRow]) -> None:
    """The kinds that occur, in one line if they fit."""
    handles = [Patch(color=KINDS[kind][1], label=KINDS[kind][0]) for kind in kinds(rows)]
    style: dict[str, Any] = {"frameon": False, "fontsize": FONT, "handlelength": 1.0}
    style |= {"columnspacing": 1.4, "handletextpad": 0.5}
    ncols = len(handles) if len(handles) <= 6 else 4
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, **style)
