"""A report as Markdown with links to its pictures, and its tables as LaTeX for a paper.

Path("report.md").write_text(markdown(report, pictures))
Path("report.tex").write_text(latex(report))
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxft.reporting.markup import bullets, escape_markdown, escaped_bullets, fenced
from jaxft.reporting.summary import Report, Section

Files = Sequence[tuple[str, str]]  # (path from the report's folder, description)
Pictures = Mapping[str, Sequence[tuple[str, Files]]]  # task -> (title, files)

# Columns that fit the width of a page: the costs, and the tests; the scores are the others.
COSTS = ("method", "trained", "peak", "time")
TESTS = ("method", "score", "n", "difference", "95 % interval", "p", "p (Holm)", "verdict")


# ---------------------------------------------------------------- Markdown


def markdown(report: Report, pictures: Pictures) -> str:
    """Returns the report; the pictures of a task are below its tables."""
    facts = bullets(f"{name}: {escape_markdown(text)}" for name, text in report.facts)
    parts = ["# jaxft report", facts]
    if report.notes:
        parts.append(escaped_bullets(report.notes))
    for section in report.sections:
        parts += [f"## {escape_markdown(section.task)}", *section_parts(section)]
        for title, files in pictures.get(section.task, ()):
            parts += [f"### {escape_markdown(title)}", "\n".join(map(image, files))]
    if report.unfinished:
        parts += [
            "## Unfinished runs, not in the report",
            bullets(f"`{path}`" for path in report.unfinished),
        ]
    parts += ["## Terms", bullets(report.terms)]
    parts += ["## Repeat", fenced("sh", "\n".join(report.commands))]
    return "\n\n".join(parts) + "\n"


def section_parts(section: Section) -> list[str]:
    """The tables of a task, and the notes below each."""
    parts = [f"{escape_markdown(section.caption)}."]
    parts += [section.table.markdown(), escaped_bullets(section.notes)]
    tables = {
        "Memory of a training step, one run alone": section.memory,
        "Planned and measured, one run alone": section.measured,
        "Memory at each phase, in use / most so far": section.phases,
        "Runs that took their steps together": section.together,
        "By dataset": section.parts,
    }
    for title, table in tables.items():
        parts += [f"### {title}", table.markdown()] if table else []
    for comparison in section.comparisons:
        parts.append(f"### Full against PEFT: {escape_markdown(comparison.model)}")
        parts += [comparison.table.markdown()] if comparison.table else []
        parts.append(escaped_bullets(comparison.notes))
    if section.reference and section.published:
        parts += [f"### {escape_markdown(section.reference.title)}", section.published.markdown()]
        parts.append(escaped_bullets(section.reference.notes))
    return parts


def image(file: tuple[str, str]) -> str:
    """A picture's file, with its description for readers who cannot see it."""
    path, shows = file
    return f"![{escape_markdown(shows)}]({path})"


# ---------------------------------------------------------------- LaTeX


def latex(report: Report) -> str:
    """Returns scores and costs of each task, and the comparisons with full fine-tuning."""
    parts = ["% Made by python -m jaxft.report; needs \\usepackage{booktabs,graphicx}."]
    for number, section in enumerate(report.sections, 1):
        parts += latex_tables(section, f"tab:jaxft-{number}")
    return "\n\n".join(parts) + "\n"


def latex_tables(section: Section, label: str) -> list[str]:
    """The tables of a task; `label` begins the label of each."""
    name, main = f"{section.task}: {section.caption}", section.table
    scores = [head for head in main.heads if head not in COSTS[1:]]
    costs = replace(main, rows=main.rows[: len(section.groups)], marked=frozenset()).pick(COSTS)
    found = [
        ("scores", main.pick(scores), f"{name}; percent, mean ± standard deviation over seeds"),
        ("costs", costs, f"{name}; costs"),
    ]
    if section.memory:
        title = f"{name}; memory of a training step of one run alone"
        found.append(("memory", section.memory, title))
    for i, comparison in enumerate(section.comparisons, 1):
        if comparison.table:
            title = f"{section.task}: PEFT less full fine-tuning of {comparison.model}, points"
            found.append((f"full-{i}", comparison.table.pick(TESTS), title))
    return [replace(table, title=title).latex(f"{label}-{end}") for end, table, title in found]
