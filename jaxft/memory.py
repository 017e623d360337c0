"""The memory of each method's training step, on this device and on devices that are not present.

    python -m jaxft.memory --config configs/acl_lora.py --target=h100,v5e:2x4 [--fit=24GiB]
                           [--json FILE] [--markdown FILE] [--plot FILE.png]
    python -m jaxft.memory roberta-base --method=lora --target=t4,h100         # without a config

Compiles the training step of `jaxft.train` from shapes: nothing is loaded, allocated or trained.
`config.memory` lists the methods, batch sizes, lengths, dtypes and policies of the table, and how
many seeds train together; --fit finds each method's largest batch. Results are cached.
"""

import json
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from jaxft import cli
from jaxft.course_reports import estimates
from jaxft.errors import InputError
from jaxft.hints import given
from jaxft.reporting import bars, footprint
from jaxft.reporting.schema import PlanRow
from jaxft.run.plans import plan_rows


def run(config: ConfigDict, asked: flags.FlagValues) -> int:
    """Plans, prints and writes; returns the exit code."""
    rows = plan_rows(config, asked.target, asked.fit, say)
    show(config, rows)
    write(asked, rows)
    return 0


def say(text: str) -> None:
    """Prints progress to stderr, so that stdout has only the table."""
    print(text, file=sys.stderr, flush=True)


def show(config: ConfigDict, rows: list[PlanRow]) -> None:
    """Prints the table, and the hand estimates if `memory.estimates` is set."""
    print(footprint.fit_table(rows) if "fit" in rows[0] else footprint.plan_table(rows))
    if config.memory.estimates:
        by_hand = estimates.TITLE, estimates.hand_estimates(), estimates.DIFFERENCES
        print("\n" + footprint.estimate_table(*by_hand))


def write(asked: flags.FlagValues, rows: list[PlanRow]) -> None:
    """Writes what was asked for; the folder must be there (`check_outputs`)."""
    if asked.json:
        Path(asked.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if asked.markdown:
        Path(asked.markdown).write_text(footprint.markdown(rows) + "\n", encoding="utf-8")
    if asked.plot:
        bars.stacked_bars(rows, Path(asked.plot), title=f"{rows[0]['model']}: a training step")


def check_outputs(asked: flags.FlagValues) -> None:
    """Raises InputError before anything is compiled if a result could not be written."""
    for name in ("json", "markdown", "plot"):
        path = Path(asked[name].value or ".")
        if not path.parent.is_dir():
            raise InputError(f"--{name}: no directory {path.parent}")
    if asked.plot and Path(asked.plot).suffix != ".png":
        raise InputError(f"--plot: {asked.plot}; expected a file that ends in .png")


def with_model(argv: list[str]) -> list[str]:
    """Returns the arguments of `memory MODEL ...` as flags; configs/base.py is its config."""
    if not argv[1:]:
        raise InputError("no model; for example: jaxft memory roberta-base --method=lora")
    if argv[1].startswith("-"):
        return argv
    config = [] if given(argv, "config") else ["--config", "configs/base.py"]
    return [argv[0], *config, f"--config.model.name={argv[1]}", *argv[2:]]


def main(argv: list[str]) -> int:
    """Parses the flags and plans; see the module's docstring."""
    values = flags.FlagValues()
    flags.DEFINE_string("method", "", "methods of the table, e.g. full,lora; default: all", values)
    flags.DEFINE_string("target", "", "devices, e.g. h100:8,v5e:2x4,cpu", values)
    flags.DEFINE_string("fit", "", "find the largest batch in this memory, e.g. 24GiB", values)
    flags.DEFINE_string("json", "", "file for the rows as JSON", values)
    flags.DEFINE_string("markdown", "", "file for the table as Markdown", values)
    flags.DEFINE_string("plot", "", "PNG file for the bars", values)
    if cli.help_asked(argv):
        print(cli.config_help(__doc__ or "", values))
        return 0
    config = cli.parse_config_command(with_model(argv), values)
    if values.method:
        config.memory.methods = (values.method,)
    check_outputs(values)
    return run(config, values)


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
