"""A report on run directories: read, compared, written in every form, and as text to print.

    report = make_report([Path("runs")])
    report.write(Path("report"))        # report.html, .md, .csv, .tex and plots/
    print(report.text())

`jaxft.compare` and `python -m jaxft.report` call it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path

from jaxft.errors import InputError
from jaxft.reporting import aggregate, sealed
from jaxft.reporting.aggregate import RunGroup
from jaxft.reporting.documents import latex, markdown
from jaxft.reporting.measures import measure_table
from jaxft.reporting.page import page
from jaxft.reporting.pictures import write_pictures
from jaxft.reporting.reference import FindReference, no_reference
from jaxft.reporting.schema import Run, read_run
from jaxft.reporting.summary import Report, Section, summarize


@dataclass(frozen=True)
class RunReport:
    """Runs, compared.

    Attributes:
      groups: runs that differ only in the seed.
      content: the tables, notes and comparisons, by task.
    """

    groups: list[RunGroup]
    content: Report

    def text(self) -> str:
        """Returns the tables and the notes, as `python -m jaxft.report` prints them."""
        blocks = [block for section in self.content.sections for block in section_blocks(section)]
        blocks.append([f"note: {note}" for note in self.content.notes])
        blocks.append([f"unfinished, not in the report: {p}" for p in self.content.unfinished])
        return "\n\n".join("\n".join(lines) for lines in blocks if lines)

    def write(self, output: str | PathLike[str]) -> Path:
        """Writes the report in every form and returns the path of its page, report.html."""
        folder = Path(output)
        pictures = write_pictures(self.groups, folder)
        forms = {
            "html": page(self.content, self.groups),
            "md": markdown(self.content, pictures),
            "csv": measure_table(self.groups).csv(),
            "tex": latex(self.content),
        }
        for ending, text in forms.items():
            (folder / f"report.{ending}").write_text(text, encoding="utf-8")
        return folder / "report.html"


def make_report(
    directories: Sequence[Path],
    *,
    command: str = "",
    complete: Callable[[list[Run]], Iterable[Run]] = iter,
    reference_of: FindReference = no_reference,
) -> RunReport:
    """Returns the report on the finished runs at or below the directories.

    Args:
      command: the command that repeats the report; none if empty.
      complete: adds to the runs what their results lack, such as plans.
      reference_of: the published results of a task.

    Raises:
      InputError: there is no finished run, or the runs cannot be compared.
    """
    finished, unfinished = aggregate.find(directories)
    if not finished:
        raise InputError(nothing_found(directories, unfinished))
    groups, notes = aggregate.make_groups(list(complete(list(map(read_run, finished)))))
    for run in finished:
        changed = sorted({"results.json", "env.json"}.intersection(sealed.changed(run)))
        notes += [f"{run / name} is not as the run wrote it." for name in changed]
    content = summarize(
        groups,
        notes=notes,
        unfinished=unfinished,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        command=command,
        reference_of=reference_of,
    )
    return RunReport(groups, content)


def nothing_found(directories: Sequence[Path], unfinished: Sequence[Path]) -> str:
    """Returns the reason why there is nothing to report on."""
    where = ", ".join(map(str, directories))
    if unfinished:
        return f"{where}: no finished run; unfinished: {', '.join(map(str, unfinished))}"
    return f"{where}: contains no run of jaxft.train"


def section_blocks(section: Section) -> list[list[str]]:
    """Returns the printed blocks of a task, each as lines."""
    blocks = [[f"{section.task}: {section.caption}", section.table.text()]]
    blocks.append([f"note: {note}" for note in section.notes])
    costs = {
        "memory of a step, one run alone": section.memory,
        "planned and measured": section.measured,
        "memory at each phase, in use / most so far": section.phases,
        "together": section.together,
    }
    for name, table in costs.items():
        if table:
            blocks.append([f"{section.task}: {name}", table.text()])
    for comparison in section.comparisons:
        title = f"{section.task}: full against PEFT, {comparison.model}"
        tested = [comparison.table.text(), ""] if comparison.table else []
        blocks.append([title, *tested, *(f"note: {note}" for note in comparison.notes)])
    return blocks
