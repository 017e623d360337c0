r"""The tables of a report as LaTeX, for a paper: \input{report.tex}.

Path("report.tex").write_text(latex(report))
"""

from collections.abc import Sequence

from jaxft.reporting.entries import MINUS, Table
from jaxft.reporting.summary import Report
from jaxft.reporting.tables import NONE

# Character -> what stands for it; all others are themselves.
ESCAPES = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedblright{}",
        "±": r"$\pm$",
        "≤": r"$\le$",
        "…": r"\ldots{}",
        MINUS: "$-$",
        NONE: "--",
    }
)


# What fits a page: the columns of the scores, of the costs, and of the tests.
SCORES = ("method", "n", "accuracy", "macro-F1", "unseen acc.", "unseen F1", "doubt")
COSTS = ("method", "trained", "peak", "time")
TESTS = ("method", "score", "n", "difference", "95 % interval", "p", "p (Holm)", "verdict")


def latex(report: Report) -> str:
    """Returns scores and costs of each task, and the comparisons with full fine-tuning."""
    parts = ["% Made by python -m jaxft.report; needs \\usepackage{booktabs,graphicx}."]
    for number, section in enumerate(report.sections, 1):
        what, label = f"{section.task}: {section.caption}", f"tab:jaxft-{number}"
        said = f"{what}; percent, mean ± standard deviation over seeds"
        parts.append(booktabs(section.table.pick(SCORES), said, f"{label}-scores"))
        cells = Table(section.table.heads, section.table.rows[: len(section.cells)])
        parts.append(booktabs(cells.pick(COSTS), f"{what}; costs", f"{label}-costs"))
        if section.memory:
            said = f"{what}; memory of a training step of one run alone"
            parts.append(booktabs(section.memory, said, f"{label}-memory"))
        for i, comparison in enumerate(section.comparisons, 1):
            if comparison.table:
                said = f"{section.task}: PEFT less full fine-tuning of {comparison.model}, points"
                parts.append(booktabs(comparison.table.pick(TESTS), said, f"{label}-full-{i}"))
    return "\n\n".join(parts) + "\n"


def booktabs(table: Table, caption: str, label: str) -> str:
    """A table environment, made smaller where it is wider than a line of the paper."""
    lines = [line(row) for row in table.texts()]
    for number in sorted(table.marked - {0}, reverse=True):
        lines.insert(number, r"\midrule")
    return "\n".join(
        [
            r"\begin{table}[ht]",
            r"\centering",
            rf"\caption{{{escape(caption)}.}}",
            rf"\label{{{label}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(table.heads) - 1)}}}",
            *(r"\toprule", line(table.heads), r"\midrule", *lines, r"\bottomrule"),
            r"\end{tabular}}",
            r"\end{table}",
        ]
    )


def line(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def escape(text: str) -> str:
    """Text of one line in which nothing is a command."""
    return " ".join(text.split()).translate(ESCAPES)
