"""The long trials of docs/reliability.md: real processes, real signals, real full disks.

    python scripts/soak [TRIAL ...] [--times N] [--output docs/results/reliability] [--work DIR]

Each trial writes the record of every repetition as JSON when it is made, and continues at the count
that it had. The table of the page is written from them. Without a name all trials run, which takes
hours. --times is for a short version; the long one is each trial's own.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests"), str(ROOT)]

from soak import disk, files, hangs, kept, kills, long, meshes, two  # noqa: E402 the paths come first
from soak.bench import Bench  # noqa: E402
from soak.report import PAGE, with_table  # noqa: E402
from soak.trial import repeat  # noqa: E402

RESULTS = ROOT / "docs" / "results" / "reliability"
GROUPS = (kills, files, meshes, kept, disk, long, two, hangs)
TRIALS = {trial.name: trial for group in GROUPS for trial in group.TRIALS}


def main() -> int:
    """Runs the trials that are named; returns 1 if something was not as promised."""
    parser = argparse.ArgumentParser("soak", description=__doc__)
    parser.add_argument("trials", nargs="*", choices=[[], *TRIALS], metavar="TRIAL")
    parser.add_argument("--times", type=int, help="repetitions, instead of each trial's own")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, help="where runs are made; default: a new directory")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="jaxft-soak-"))
    options.output.mkdir(parents=True, exist_ok=True)
    bench, bad = Bench(work), 0
    for name in options.trials or TRIALS:
        trial = TRIALS[name]
        records = repeat(trial, bench, options.output, options.times)
        bad += sum(bool(record["wrong"]) for record in records)
    if options.output.resolve() == RESULTS:
        PAGE.write_text(with_table(PAGE.read_text(), RESULTS))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
