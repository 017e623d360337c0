"""A report as one self-contained HTML page: it needs no network and no other file.

    Path("report.html").write_text(page(report, groups))

The template is in jaxft/reporting/template: page.html, which includes page.css and page.js. Every
text is escaped by jinja2; only the curves' SVG, which matplotlib makes, is taken as it is.
"""

import html
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from jaxft.reporting import bars, curves
from jaxft.reporting.aggregate import RunGroup
from jaxft.reporting.facts import baseline_scores, figure_of, main_metric, metrics, shown_metrics
from jaxft.reporting.formats import NONE, human_bytes, shorten
from jaxft.reporting.pictures import by_model, confusion, plan_rows
from jaxft.reporting.plans import peak, title_of
from jaxft.reporting.schema import PlanRow
from jaxft.reporting.summary import Report, Section

LABEL_WIDTH = 26
STRIP = 120  # units across a strip of dots
EDGE = 6  # of them left free at either end, for the dots' size


def page(report: Report, groups: Sequence[RunGroup]) -> str:
    """Returns the page."""
    loader = PackageLoader("jaxft.reporting", "template")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    looks = curves.styles(groups)
    sections = [
        {
            "content": section,
            "strips": strips(section),
            "views": [
                model_view(of_model, looks, prefix=f"s{number}g{i}")
                for i, of_model in enumerate(by_model(section.groups))
            ],
        }
        for number, section in enumerate(report.sections)
    ]
    template = environment.get_template("page.html")
    return template.render(report=report, sections=sections, terms=report.terms) + "\n"


def model_view(groups: Sequence[RunGroup], looks: curves.Looks, prefix: str) -> Mapping[str, Any]:
    """The pictures of the groups of a task and a model."""
    rows = plan_rows(groups)
    return {
        "model": groups[0].model,
        "looks": [{"label": group.label, "colour": looks[group.label][0]} for group in groups],
        "curves": [
            curve(groups, name, looks, f"{prefix}p{i}")
            for i, name in enumerate(curves.panels_of(shown_metrics(groups[0].first)))
        ],
        "matrices": [matrix for group in groups if (matrix := matrix_view(group))],
        "kinds": [
            dict(zip(("name", "colour"), bars.KINDS[k], strict=True)) for k in bars.kinds(rows)
        ],
        "bars": [panel_view(panel, rows) for panel in bars.panels_of(rows)],
    }


def curve(groups: Sequence[RunGroup], name: str, looks: curves.Looks, prefix: str) -> str:
    """A panel of learning curves; the page has one legend for all of them."""
    figure = curves.panel(groups, name, looks, legend=False)
    says = html.escape(f"{name} by epoch of {', '.join(group.label for group in groups)}")
    return curves.inline_svg(figure, prefix=prefix, label=says)


# ---------------------------------------------------------------- a dot a seed


def strips(section: Section) -> Mapping[str, Any]:
    """A row of dots for each row of the task's table, the baseline's last, on one scale."""
    first = section.groups[0].first
    name = main_metric(first)
    metric = metrics(first)[name]
    scale = 100 if metric.is_share else 1
    shares = [
        [figure_of(run.results["test"], name) for run in group.runs] for group in section.groups
    ]
    floor = figure_of(baseline_scores(first["test"]), name)
    every = [x for x in [*chain(*shares), floor] if x is not None]
    low, high = min(every, default=0.0), max(every, default=1.0)

    def place(share: float) -> float:
        inner = (share - low) / (high - low) if high > low else 0.5
        return round(EDGE + inner * (STRIP - 2 * EDGE), 1)

    def view(row: Sequence[float | None]) -> Mapping[str, Any]:
        known = [x for x in row if x is not None]
        says = ", ".join(f"{scale * x:.1f}" for x in known) or NONE
        return {
            "seeds": [place(x) for x in known],
            "majority": None if floor is None else place(floor),
            "says": says,
        }

    return {
        "beside": metric.title,
        "baseline": "the baseline" if "baseline" in first["test"] else "the majority class",
        "low": f"{scale * low:.1f}",
        "high": f"{scale * high:.1f}",
        "rows": [view(row) for row in [*shares, []]],
    }


# ---------------------------------------------------------------- matrices and bars


def matrix_view(group: RunGroup) -> Mapping[str, Any] | None:
    """Counts over seeds with their percent of the true class; None without test examples."""
    counts_CxC = confusion(group)
    if counts_CxC is None:
        return None
    return {
        "label": group.label,
        "runs": f"sum of {len(group.runs)} seeds" if len(group.runs) > 1 else "one seed",
        "labels": [shorten(label, LABEL_WIDTH) for label in group.first["labels"]],
        "rows": [
            [
                {"count": int(n), "percent": round(100 * int(n) / max(int(row.sum()), 1))}
                for n in row
            ]
            for row in counts_CxC
        ],
    }


def panel_view(panel: Sequence[PlanRow], rows: Sequence[PlanRow]) -> Mapping[str, Any]:
    """The bars of rows that share their conditions, as parts of the longest of all."""
    longest = max(peak(row) or 0 for row in rows)
    labels = bars.labels(panel, rows)
    return {
        "title": title_of(panel),
        "bars": [
            bar_view(row, panel, name, longest) for row, name in zip(panel, labels, strict=True)
        ],
    }


def bar_view(row: PlanRow, panel: Sequence[PlanRow], name: str, longest: int) -> Mapping[str, Any]:
    """A bar: its parts from the axis on, and the text after it."""
    sizes = bars.segments(row)
    parts: list[dict[str, Any]] = [
        {
            "percent": round(100 * sizes[kind] / longest, 3),
            "colour": colour,
            "says": f"{what}: {human_bytes(sizes[kind])}",
        }
        for kind, (what, colour) in bars.KINDS.items()
        if sizes.get(kind)
    ]
    end = [human_bytes(peak(row)), *(text for text, _ in bars.end_texts(row, panel, "MiB")[1:])]
    return {
        "label": name,
        "parts": parts,
        "end": ", ".join(end),
        "says": "; ".join(part["says"] for part in parts),
    }
