r"""The tables of a report as LaTeX, for a paper that uses booktabs: \input{report.tex}.

Path("report.tex").write_text(latex(report))
"""

from collections.abc import Sequence

from jaxft.report.entries import MINUS, Table
from jaxft.report.summary import Report
from jaxft.report.tables import NONE

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
        '"': r"\textquotedbl{}",
        "±": r"$\pm$",
        "≤": r"$\le$",
        "…": r"\ldots{}",
        MINUS: "$-$",
        NONE: "--",
    }
)


def latex(report: Report) -> str:
    """Returns a table for each task, and one for each comparison with full fine-tuning."""
    parts = ["% Made by python -m jaxft.report; needs \\usepackage{booktabs}."]
    for number, section in enumerate(report.sections, 1):
        said = f"{section.task}: {section.caption}; percent, mean ± standard deviation over seeds"
        parts.append(booktabs(section.table, said, f"tab:jaxft-{number}"))
        for i, comparison in enumerate(section.comparisons, 1):
            if comparison.table:
                said = f"{section.task}: PEFT against full fine-tuning of {comparison.model}"
                parts.append(booktabs(comparison.table, said, f"tab:jaxft-{number}-full-{i}"))
    return "\n\n".join(parts) + "\n"


def booktabs(table: Table, caption: str, label: str) -> str:
    """A table environment: the first column to the left, the others to the right."""
    lines = [line(row) for row in table.texts()]
    for number in sorted(table.marked - {0}, reverse=True):
        lines.insert(number, r"\midrule")
    return "\n".join(
        [
            r"\begin{table}[ht]",
            r"\centering",
            rf"\caption{{{escape(caption)}.}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.heads) - 1)}}}",
            *(r"\toprule", line(table.heads), r"\midrule", *lines, r"\bottomrule"),
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def line(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def escape(text: str) -> str:
    """Text of one line in which nothing is a command."""
    return " ".join(text.split()).translate(ESCAPES)
