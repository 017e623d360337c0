"""Runs side by side: mean and spread over seeds, full against PEFT, in a page to look at.

    python -m jaxft.report DIR... [--output DIR]

DIR is a run directory or holds some at any depth. The report is written as report.html (one file,
nothing else needed), report.md, report.csv, report.tex and plots/; the tables are printed, too.
"""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jaxft import cli, wiring
from jaxft.errors import InputError
from jaxft.report import gather
from jaxft.report.entries import in_terminal
from jaxft.report.gather import Cell, Run
from jaxft.report.latex import latex
from jaxft.report.markdown import markdown
from jaxft.report.page import page
from jaxft.report.pictures import write_pictures
from jaxft.report.sheet import sheet
from jaxft.report.summary import Report, summarize


def run(directories: Sequence[Path], output: Path, argv: Sequence[str]) -> int:
    """Reads, reports, writes and prints; returns the exit code."""
    finished, unfinished = gather.find(directories)
    if not finished:
        raise InputError(nothing_found(directories, unfinished))
    cells, notes = gather.make_cells([read_run(directory) for directory in finished])
    report = summarize(
        cells,
        notes=notes,
        unfinished=unfinished,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        command=shlex.join(["python", "-m", "jaxft.report", *argv[1:]]),
    )
    write(report, cells, output)
    show(report)
    print(f"\nreport: {output / 'report.html'} (and .md, .csv, .tex, plots)")
    return 0


def nothing_found(directories: Sequence[Path], unfinished: Sequence[Path]) -> str:
    """Says why there is nothing to report on."""
    where = ", ".join(map(str, directories))
    if unfinished:
        return f"{where}: no finished run; unfinished: {', '.join(map(str, unfinished))}"
    return f"{where}: no run of jaxft.train in it"


def read_run(directory: Path) -> Run:
    """Returns a finished run."""
    results, env = (wiring.read_json(directory / f"{name}.json") for name in ("results", "env"))
    return gather.make_run(directory, results, env)


def write(report: Report, cells: Sequence[Cell], output: Path) -> None:
    """Writes every form of the report."""
    pictures = write_pictures(cells, output)
    forms = {
        "html": page(report, cells),
        "md": markdown(report, pictures),
        "csv": sheet(cells),
        "tex": latex(report),
    }
    for ending, text in forms.items():
        (output / f"report.{ending}").write_text(text, encoding="utf-8")


def show(report: Report) -> None:
    """Prints the tables, and what to doubt."""
    blocks = []
    for section in report.sections:
        blocks.append([f"{section.task}: {section.caption}", *in_terminal(section.table)])
        blocks.append([f"note: {note}" for note in section.notes])
        for comparison in section.comparisons:
            title = f"{section.task}: full against PEFT, {comparison.model}"
            tested = [*in_terminal(comparison.table), ""] if comparison.table else []
            blocks.append([title, *tested, *(f"note: {note}" for note in comparison.notes)])
    blocks.append([f"note: {note}" for note in report.notes])
    blocks.append([f"unfinished, not in the report: {path}" for path in report.unfinished])
    print("\n\n".join("\n".join(lines) for lines in blocks if lines))


def main(argv: list[str]) -> int:
    """Parses the flags and reports; see the module's docstring."""
    parser = cli.OneLineParser("python -m jaxft.report", description=__doc__)
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="runs")
    parser.add_argument("--output", type=Path, default=Path("report"), help="folder to write to")
    args = parser.parse_args(argv[1:])
    if args.output.exists() and not args.output.is_dir():
        raise InputError(f"--output: {args.output} is a file")
    return run(args.directories, args.output, argv)
