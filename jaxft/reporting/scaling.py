"""Computed scaling as a table and a figure: lower bounds for the time to compute and to send.

    tables = {"full": scaling(row), "lora": scaling(other_row)}   # of jaxft.planning.scaling
    print(scaling_markdown(tables))
    scaling_plot(tables, "scaling.png", title="roberta-base on H100, 8 examples a device")

Colours are of Okabe and Ito's palette, as in the other plots; if there are more tables than
colours, the marks change.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from os import PathLike
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, PercentFormatter

from jaxft.reporting.formats import NONE, shorten
from jaxft.reporting.plots import BLUE, GREEN, GREY, VERMILION, save
from jaxft.reporting.table import of_texts

Lines = Sequence[Mapping[str, Any]]

COLORS = (VERMILION, BLUE, GREEN, "#E69F00", "#CC79A7", "#56B4E9", GREY)
MARKERS = "os^D"  # the next one where the colours begin again
LABEL_WIDTH = 30
FONT = 10

HEADS = ("devices", "examples", "computing", "sending", "step", "computing's share")
TERMS = (
    "Lower bounds in ms a step: computing at the device's peak, sending by rings at the links' "
    "rates, and the larger of both. Computing's share of the time: if nothing is sent meanwhile, "
    "and if all is."
)
TERMS_INEXACT = "Some collectives are in loops whose trips are unknown; each counts once."


# ---------------------------------------------------------------- table


def scaling_markdown(tables: Mapping[str, Lines]) -> str:
    """Returns a table in Markdown for each label, the bound of its steps, and the terms used.

    Args:
      tables: label -> lines of `jaxft.planning.scaling.scaling`.
    """
    blocks = []
    for label, table in tables.items():
        shown = replace(of_texts(HEADS, [cells(line) for line in table]), title=label)
        blocks += [shown.markdown(), bound_by(table)]
    is_exact = all(line["is_exact"] for table in tables.values() for line in table)
    return "\n\n".join([*blocks, TERMS if is_exact else f"{TERMS} {TERMS_INEXACT}"])


def bound_by(table: Lines) -> str:
    """Returns a sentence on the numbers of devices at which sending takes longer than computing."""
    ranges = []
    for is_sending, lines in groupby(table, lambda x: x["interconnect_s"] > x["compute_s"]):
        counts = [line["devices"] for line in lines]
        if is_sending:
            ends = (counts[0],) if len(counts) == 1 else (counts[0], counts[-1])
            ranges.append(" to ".join(map(str, ends)))
    where = f"on {' and on '.join(ranges)} devices" if ranges else "on none of these"
    return f"Sending takes longer than computing {where}."


def cells(line: Mapping[str, Any]) -> list[str]:
    """A line's figures as text."""
    share = f"{100 * line['apart']:.0f}% to {100 * line['overlapped']:.0f}%"
    return [
        f"{line['devices']:,}",
        f"{line['examples']:,}",
        *(milliseconds(line[key]) for key in ("compute_s", "interconnect_s", "bound_s")),
        share if line["interconnect_s"] else "100%",
    ]


def milliseconds(seconds: float) -> str:
    """`1.24`, three digits of a number of milliseconds; a dash for nothing."""
    if not seconds:
        return NONE
    amount = 1000 * seconds
    decimals = max(0, 2 - math.floor(math.log10(amount)))
    return f"{amount:,.{decimals}f}"


# ---------------------------------------------------------------- picture


def scaling_plot(tables: Mapping[str, Lines], path: str | PathLike[str], *, title: str) -> None:
    """Writes a PNG: times by devices to the left, computing's share of them to the right.

    Args:
      tables: label -> lines of `jaxft.planning.scaling.scaling`, one line at least.
    """
    save(draw(tables, title=title), path)


def draw(tables: Mapping[str, Lines], *, title: str = "") -> Figure:
    """Returns the figure of `scaling_plot`."""
    figure = Figure(figsize=(11, 5), layout=ConstrainedLayoutEngine(wspace=0.06))
    figure.suptitle(title, fontsize=12, parse_math=False)
    left, right = figure.subplots(1, 2)
    for place, table in enumerate(tables.values()):
        draw_times(left, table, style_of(place))
        draw_shares(right, table, style_of(place))
    counts = sorted({line["devices"] for table in tables.values() for line in table})
    for axes in (left, right):
        finish(axes, counts)
    left.set_yscale("log")
    low, high = left.get_ylim()
    # Labels at 1, 2 and 5 would be too many for several powers of ten.
    subs = (1.0, 2.0, 5.0) if high < 1e6 * low else (1.0,)
    left.yaxis.set_major_locator(LogLocator(10, subs, numticks=30))
    # One digit: a power of ten is not always exact.
    left.yaxis.set_major_formatter(
        lambda y, _: np.format_float_positional(y, precision=1, fractional=False, trim="-")
    )
    left.yaxis.set_minor_locator(NullLocator())
    left.set_ylabel("ms a step, at the least", fontsize=FONT)
    right.set_ylim(0, 1.03)
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.set_ylabel("computing's share of the time", fontsize=FONT)
    add_legends(figure, left, right, list(tables))
    return figure


def style_of(place: int) -> dict[str, Any]:
    """The colour and the mark of the table at a place."""
    around, nth = divmod(place, len(COLORS))
    return {"color": COLORS[nth], "marker": MARKERS[around % len(MARKERS)], "markersize": 4.5}


def draw_times(axes: Axes, table: Lines, style: dict[str, Any]) -> None:
    """Computing dashed, sending as a line with marks."""
    counts = [line["devices"] for line in table]
    compute = [1000 * line["compute_s"] for line in table]
    # One device sends nothing, and 0 has no logarithm.
    sending = [1000 * line["interconnect_s"] or math.nan for line in table]
    axes.plot(counts, compute, color=style["color"], linewidth=1.6, linestyle="--")
    axes.plot(counts, sending, linewidth=1.8, **style)


def draw_shares(axes: Axes, table: Lines, style: dict[str, Any]) -> None:
    """The band between all and nothing sent while computing."""
    counts = [line["devices"] for line in table]
    most, least = ([line[key] for line in table] for key in ("overlapped", "apart"))
    axes.fill_between(counts, least, most, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(counts, most, linewidth=1.8, **style)
    axes.plot(counts, least, color=style["color"], linewidth=1.4, linestyle=":")


def finish(axes: Axes, counts: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("devices", fontsize=FONT)
    axes.tick_params(labelsize=FONT)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def add_legends(figure: Figure, left: Axes, right: Axes, labels: Sequence[str]) -> None:
    """Colours below both panels, in each what its kinds of line are."""
    grey: dict[str, Any] = {"color": GREY, "linewidth": 1.6}
    marks: dict[str, Any] = {"marker": "o", "markersize": 4.5}
    times = {"computing": {"linestyle": "--"}, "sending": marks}
    shares = {"all sent while computing": marks, "nothing sent meanwhile": {"linestyle": ":"}}
    for axes, kinds in ((left, times), (right, shares)):
        handles = [Line2D([], [], label=name, **grey, **style) for name, style in kinds.items()]
        # Above the panel, because inside it would cover lines.
        style: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "ncols": 2}
        style |= {"columnspacing": 1.4, "borderpad": 0.2}
        axes.legend(handles=handles, frameon=False, fontsize=FONT, **style)
    handles = [
        Line2D([], [], linewidth=1.8, label=shorten(name, LABEL_WIDTH), **style_of(place))
        for place, name in enumerate(labels)
    ]
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=FONT
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
