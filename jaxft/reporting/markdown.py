"""A report as Markdown, with the pictures that lie beside it.

Path("report.md").write_text(markdown(report, pictures))
"""

from collections.abc import Mapping, Sequence

from jaxft.reporting.entries import Table
from jaxft.reporting.model_card import bullets, escape, fenced, markdown_table
from jaxft.reporting.summary import TERMS, Report, Section

Files = Sequence[tuple[str, str]]  # (path from the report's folder, what it shows)
Pictures = Mapping[str, Sequence[tuple[str, Files]]]  # task -> (title, files)


def markdown(report: Report, pictures: Pictures) -> str:
    """Returns the report; `pictures` stand below the tables of their task."""
    parts = ["# jaxft report", bullets([f"{name}: {escape(text)}" for name, text in report.facts])]
    if report.notes:
        parts.append(bullets(list(map(escape, report.notes))))
    for section in report.sections:
        parts += [f"## {escape(section.task)}", *section_parts(section)]
        for title, files in pictures.get(section.task, ()):
            parts += [f"### {escape(title)}", "\n".join(map(image, files))]
    if report.unfinished:
        parts += [
            "## Unfinished runs, not in the report",
            bullets([f"`{path}`" for path in report.unfinished]),
        ]
    parts += ["## Terms", bullets(TERMS)]
    parts += ["## Repeat", fenced("sh", "\n".join(report.commands))]
    return "\n\n".join(parts) + "\n"


def section_parts(section: Section) -> list[str]:
    """The tables of a task, and the notes below each."""
    parts = [f"{escape(section.caption)}.", pipes(section.table), bullets(escaped(section.notes))]
    if section.memory:
        parts += ["### Memory of a training step, one run alone", pipes(section.memory)]
    if section.together:
        parts += ["### Runs that took their steps together", pipes(section.together)]
    if section.parts:
        parts += ["### By dataset", pipes(section.parts)]
    for comparison in section.comparisons:
        parts.append(f"### Full against PEFT: {escape(comparison.model)}")
        parts += [pipes(comparison.table)] if comparison.table else []
        parts.append(bullets(escaped(comparison.notes)))
    if section.published:
        parts += ["### Beside five course reports", pipes(section.published)]
        parts.append(bullets(escaped(section.published_notes)))
    return parts


def pipes(table: Table) -> str:
    return markdown_table(table.heads, table.texts())


def image(file: tuple[str, str]) -> str:
    path, shows = file
    return f"![{escape(shows)}]({path})"


def escaped(lines: Sequence[str]) -> list[str]:
    return [escape(text) for text in lines]
