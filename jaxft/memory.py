"""The memory of each method's training step, on this device and on devices that are not present.

    python -m jaxft.memory roberta-base --method=lora --target=t4,h100 [--batch_size=8 --length=128]
    python -m jaxft.memory roberta-base --target=t4 --fit        # what can be trained on this
    python -m jaxft.memory roberta-base --need                   # the smallest GPU for each method
    python -m jaxft.memory --config configs/acl_lora.py --target=h100,v5e:2x4 --fit=24GiB

Compiles the training step of `jaxft.train` from shapes: nothing is loaded, allocated or trained.
MODEL is a well-known name, a hub id, or a config.json. `config.memory` lists what else the table
compares. --install fetches the compiler of absent devices. Results are cached.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from absl import flags

# Neither these nor what they import imports JAX: an answer from the cache takes no second.
from jaxft import exits
from jaxft.errors import InputError
from jaxft.reporting import advice
from jaxft.reporting.schema import PlanRow
from jaxft.run import answers, questions


def say(text: str) -> None:
    """Prints progress to stderr, so that stdout has only the table."""
    print(text, file=sys.stderr, flush=True)


def write(asked: flags.FlagValues, rows: Sequence[PlanRow]) -> None:
    """Writes what was asked for; the folder must be there (`check_outputs`)."""
    if asked.json:
        Path(asked.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if asked.markdown:
        Path(asked.markdown).write_text(advice.markdown(rows) + "\n", encoding="utf-8")
    if asked.plot:
        from jaxft.reporting import bars  # matplotlib

        bars.stacked_bars(rows, Path(asked.plot), title=f"{rows[0]['model']}: a training step")


def check_outputs(asked: flags.FlagValues) -> None:
    """Raises InputError before anything is compiled if a result could not be written."""
    for name in ("json", "markdown", "plot"):
        path = Path(asked[name].value or ".")
        if not path.parent.is_dir():
            raise InputError(f"--{name}: no directory {path.parent}")
        if asked[name].value and path.is_dir():
            raise InputError(f"--{name}: {path} is a directory; expected a file")
    if asked.plot and Path(asked.plot).suffix != ".png":
        raise InputError(f"--plot: {asked.plot}; expected a file that ends in .png")


def estimates() -> str:
    """Returns the table of `config.memory.estimates`."""
    from jaxft.course_reports import estimates
    from jaxft.reporting.footprint import estimate_table

    return estimate_table(estimates.TITLE, estimates.hand_estimates(), estimates.DIFFERENCES)


def main(argv: list[str]) -> int:
    """Parses the flags and plans; see the module's docstring."""
    values = questions.own_flags()
    if exits.help_asked(argv):
        from jaxft import cli

        print(cli.config_help(__doc__ or "", values))
        return 0
    model, argv = questions.as_flags(argv)
    asked = questions.read(argv)
    if questions.install(asked, say) and not model and questions.CONFIG in argv:
        return 0  # nothing else was asked for
    key = questions.question(model, argv, asked)
    rows, more = answers.read(key), ""
    if rows is None:
        from jaxft.run.asked_plans import rows_asked

        config, rows = rows_asked(argv, values, partial(check_outputs, values), say)
        answers.write(key, rows)
        more = "\n" + estimates() if config.memory.estimates else ""
    else:
        values = asked
        check_outputs(values)
    print("\n".join(filter(None, [advice.table(rows), more])))
    write(values, rows)
    return 0


if __name__ == "__main__":
    sys.exit(exits.guarded(main, sys.argv))
