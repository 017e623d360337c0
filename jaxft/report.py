"""Compares runs: mean and spread over seeds, full fine-tuning against PEFT, tables and figures.

    python -m jaxft.report DIR... [--output DIR] [--plan]

DIR is a run directory, or holds run directories at any depth. The report is written as report.html
(one file that needs nothing else), report.md, report.csv, report.tex and plots/; the tables are
also printed. Each run's memory is that of its training step alone. The results of older runs that
trained together lack it; --plan compiles that step for those that ran on a CPU.
"""

import shlex
import sys
from pathlib import Path

from jaxft import cli
from jaxft.course_reports.published import reference_of
from jaxft.errors import InputError
from jaxft.reporting.report import make_report
from jaxft.run.older_plans import with_plans


def main(argv: list[str]) -> int:
    """Parses the flags and reports; see the module's docstring."""
    parser = cli.OneLineParser("python -m jaxft.report", description=__doc__)
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="runs")
    parser.add_argument("--output", type=Path, default=Path("report"), help="folder to write to")
    parser.add_argument("--plan", action="store_true", help="plan the steps of older runs")
    args = parser.parse_args(argv[1:])
    if args.output.exists() and not args.output.is_dir():
        raise InputError(f"--output: {args.output} is a file; expected a directory")
    report = make_report(
        args.directories,
        command=shlex.join(["python", "-m", "jaxft.report", *argv[1:]]),
        complete=with_plans if args.plan else iter,
        reference_of=reference_of,
    )
    page = report.write(args.output)
    print(f"{report.text()}\n\nreport: {page} (and .md, .csv, .tex, plots)")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
