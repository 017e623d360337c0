"""What each way of saving time saves: whole commands, each without one of them.

    python scripts/benchmark/ablation.py --data data/restaurant --model models/all-MiniLM-L6-v2 \
        --method lora --times 3 --output runs/ablation

A round is one command of each kind in turn, one epoch of restaurant. All but that without caches
find the programs that a command of their own kind compiled before, which is not measured. What is
there already in OUTPUT is not measured again. Prints the medians and the ratios of each round to
the command with everything; writes ablation.json and ablation.md. Run it on an idle machine.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quality import JAXFT_METHOD, method_flags
from speed import make_parser, measured, parsed

from jaxft.io import read_json, write_json
from jaxft.reporting.table import Table, name_entry


@dataclass(frozen=True)
class Without:
    """A command without one way of saving time.

    Attributes:
      patch: Python code that takes it away, before the command.
      flags: of the command.
      is_cold: whether it finds nothing kept.
    """

    patch: str = ""
    flags: tuple[str, ...] = ()
    is_cold: bool = False


HEAP = "from jaxft.run import process; process.keep_heap = lambda: False"
LAST_LAYER = """
from jaxft.models import layers
def whole(layer, x, tokens, deterministic, compute):
    return layers.first_tokens(layer(x, tokens, deterministic), tokens)
layers.on_first = whole
"""
THREEFRY = """
import jax
from jaxft.models import backbone, dropout
backbone.hashed_key = lambda key: key
dropout.keep_mask = lambda key, keep, shape, *rest: jax.random.bernoulli(key, keep, shape)
"""
SUMS = "from jaxft.training import programs; programs.cpu_options = dict"
WITHOUT = {
    "nothing": Without(),
    "caches": Without(is_cold=True),
    "the kept heap": Without(HEAP),
    "shared rows": Without(flags=("--config.data.batches=by_length",)),
    "the last layer's shorter way": Without(LAST_LAYER),
    "dropout by a hash": Without(THREEFRY),
    "sums by XLA itself": Without(SUMS),
}
# Column -> its unit.
COLUMNS = {"command_s": "s", "train_s": "s", "cpu_s": "s", "kernel_s": "s", "peak_mib": "MiB"}
RUN = "import sys; from jaxft import cli, train; sys.exit(cli.guarded(train.main, sys.argv))"
Row = dict[str, float]


def command_of(options: argparse.Namespace, without: Without, workdir: Path) -> list[str]:
    name = JAXFT_METHOD[options.method]["name"]
    return [
        *(sys.executable, "-c", f"{without.patch}\n{RUN}"),
        *(f"--config=configs/restaurant.py:{name}", f"--workdir={workdir}"),
        *(f"--config.model.name={options.model}", "--config.seed=0", "--config.epochs=1"),
        *method_flags(options.method),
        *("--config.batch_size=32", *without.flags),
    ]


def run(options: argparse.Namespace, without: Without, cache: Path) -> Row:
    """Runs a command; returns what it took."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        variables = {"JAXFT_DATA": str(options.data.parent), "JAXFT_CACHE": str(cache)}
        log = options.output / "ablation.log"
        row = measured(command_of(options, without, workdir), variables, log)
        return row | {"train_s": read_json(workdir / "results.json")["timing"]["train_s"]}


def one_round(options: argparse.Namespace, caches: Path) -> dict[str, Row]:
    """One command of each kind in turn."""
    found = {}
    for number, (name, without) in enumerate(WITHOUT.items()):
        cache = caches / str(number)
        if without.is_cold:
            shutil.rmtree(cache, ignore_errors=True)
        elif not cache.exists():
            run(options, without, cache)  # which compiles
        found[name] = run(options, without, cache)
    return found


def table(rounds: list[dict[str, Row]]) -> str:
    """Returns the Markdown table."""
    heads = ["without", *(f"{name}, {unit}" for name, unit in COLUMNS.items()), "time", "processor"]
    rows = []
    for name in WITHOUT:
        medians = [statistics.median(one[name][column] for one in rounds) for column in COLUMNS]
        cells = [name, *(f"{value:,.0f}" for value in medians)]
        for column in ("command_s", "cpu_s"):
            ratios = [one[name][column] / one["nothing"][column] for one in rounds]
            cells.append(f"{statistics.median(ratios):.2f}")
        rows.append(list(map(name_entry, cells)))
    return Table(heads, rows).markdown()


def main() -> None:
    parser = make_parser(__doc__, "folder of {train,dev,test}.json", times=3)
    parser.add_argument("--method", default="lora", choices=list(JAXFT_METHOD))
    options = parsed(parser)
    file = options.output / "ablation.json"
    rounds: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    with tempfile.TemporaryDirectory() as caches:
        while len(rounds) < options.times:
            rounds.append(one_round(options, Path(caches)))
            write_json(file, rounds)
    text = table(rounds)
    (options.output / "ablation.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
