"""Runs side by side: mean and spread over seeds, full against PEFT, in a page to look at.

    python -m jaxft.report DIR... [--output DIR] [--plan]

DIR is a run directory or holds some at any depth. The report is written as report.html (one file,
nothing else needed), report.md, report.csv, report.tex and plots/; the tables are printed, too.
Each run says what its training step takes alone. Those that an older jaxft trained together do not;
--plan compiles it for them, if they ran on a CPU.
"""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from ml_collections import ConfigDict

from jaxft import cli
from jaxft.course_reports.published import reference_of
from jaxft.data.batches import choose_buckets
from jaxft.errors import InputError
from jaxft.planning import targets
from jaxft.planning.plan_cache import compiler, row_of
from jaxft.planning.planner import Job
from jaxft.reporting import aggregate
from jaxft.reporting.aggregate import Cell
from jaxft.reporting.documents import latex, markdown
from jaxft.reporting.measures import measure_table
from jaxft.reporting.page import page
from jaxft.reporting.pictures import write_pictures
from jaxft.reporting.schema import Memory, Run, RunResults, read_run
from jaxft.reporting.summary import Report, Section, summarize
from jaxft.run import build
from jaxft.training.mesh import axis_sizes


def run(directories: Sequence[Path], output: Path, plan: bool, argv: Sequence[str]) -> int:
    """Reads, reports, writes and prints; returns the exit code."""
    finished, unfinished = aggregate.find(directories)
    if not finished:
        raise InputError(nothing_found(directories, unfinished))
    runs = [read_run(directory) for directory in finished]
    cells, notes = aggregate.make_cells(with_plans(runs) if plan else runs)
    report = summarize(
        cells,
        notes=notes,
        unfinished=unfinished,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        command=shlex.join(["python", "-m", "jaxft.report", *argv[1:]]),
        reference_of=reference_of,
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


# ---------------------------------------------------------------- plans of older runs


def with_plans(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs with a plan of one of them alone, for those on a CPU that have none."""
    jobs = [job_of(run) for run in runs]
    if not any(jobs):
        return list(runs)
    found = []
    with compiler(targets.parse("cpu")) as compiled:
        for run, job in zip(runs, jobs, strict=True):
            found.append(with_plan(run, job, compiled) if job else run)
    return found


def with_plan(run: Run, job: Job, compiled: Callable[[Job], dict[str, Any]]) -> Run:
    """The run, with the planner's row in its memory."""
    print(f"planning one run of {run.directory}", file=sys.stderr)
    row = row_of(job, compiled(job), run.results["model"])
    memory = cast(Memory, {**run.results["memory"], "plan": row})
    return replace(run, results=cast(RunResults, {**run.results, "memory": memory}))


def job_of(run: Run) -> Job | None:
    """What the planner compiles for one run alone; None if it is known, or cannot be."""
    memory, devices = run.results["memory"], len(run.env["devices"])
    if memory.get("plan") or memory.get("device") != "cpu" or devices > 1:
        return None
    config = ConfigDict(run.results["config"])
    architecture, fresh, num_labels = build.read_model(config, run.results["labels"])
    return Job(
        architecture=architecture,
        num_labels=num_labels,
        fresh=tuple(fresh),
        dtype=config.model.dtype,
        remat=config.model.remat,
        model=build.model_options(config, "dtype", "remat"),
        method=config.method.name,
        options=build.method_options(config),
        clip=config.optim.clip,
        accumulate=config.optim.accumulate,
        batch_size=config.batch_size,
        length=longest(run.results["data"]["splits"], config.data.max_length),
        target=targets.parse("cpu"),
        mesh=axis_sizes(devices),
    )


def longest(splits: Mapping[str, Any], max_length: int) -> int:
    """The padded length of a run's longest batches, from its data report."""
    lengths = [split["lengths"]["100"] for split in splits.values() if "lengths" in split]
    return choose_buckets([max(lengths)], max_length)[-1]


# ---------------------------------------------------------------- what comes out


def write(report: Report, cells: Sequence[Cell], output: Path) -> None:
    """Writes every form of the report."""
    pictures = write_pictures(cells, output)
    forms = {
        "html": page(report, cells),
        "md": markdown(report, pictures),
        "csv": measure_table(cells).csv(),
        "tex": latex(report),
    }
    for ending, text in forms.items():
        (output / f"report.{ending}").write_text(text, encoding="utf-8")


def show(report: Report) -> None:
    """Prints the tables and the notes."""
    blocks = [block for section in report.sections for block in section_blocks(section)]
    blocks.append([f"note: {note}" for note in report.notes])
    blocks.append([f"unfinished, not in the report: {path}" for path in report.unfinished])
    print("\n\n".join("\n".join(lines) for lines in blocks if lines))


def section_blocks(section: Section) -> list[list[str]]:
    """The printed blocks of a task, each as lines."""
    blocks = [[f"{section.task}: {section.caption}", section.table.text()]]
    blocks.append([f"note: {note}" for note in section.notes])
    costs = {"memory of a step, one run alone": section.memory, "together": section.together}
    for name, table in costs.items():
        if table:
            blocks.append([f"{section.task}: {name}", table.text()])
    for comparison in section.comparisons:
        title = f"{section.task}: full against PEFT, {comparison.model}"
        tested = [comparison.table.text(), ""] if comparison.table else []
        blocks.append([title, *tested, *(f"note: {note}" for note in comparison.notes)])
    return blocks


def main(argv: list[str]) -> int:
    """Parses the flags and reports; see the module's docstring."""
    parser = cli.OneLineParser("python -m jaxft.report", description=__doc__)
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="runs")
    parser.add_argument("--output", type=Path, default=Path("report"), help="folder to write to")
    parser.add_argument("--plan", action="store_true", help="plan what older runs do not say")
    args = parser.parse_args(argv[1:])
    if args.output.exists() and not args.output.is_dir():
        raise InputError(f"--output: {args.output} is a file")
    return run(args.directories, args.output, args.plan, argv)


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
