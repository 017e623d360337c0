"""Whether a token costs the same with many examples as with few: one command for each number.

    python scripts/benchmark/examples.py --data data/agnews/test.csv \
        --model models/all-MiniLM-L6-v2 --sizes 1000,10000,100000 --output runs/examples

Texts of AG News are repeated until there are enough, each with its number in front, so that no two
are the same. Each command trains for two epochs. Prints tokens a second, the largest resident set,
and how much was compiled in the first epoch and after it; OUTPUT has them as JSON, and the log of
each command.
"""

import argparse
import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from speed import measured

from jaxft.io import read_json, write_json
from jaxft.reporting.table import Table, name_entry

EVALUATED = 320  # texts of dev and of test


def write_splits(texts: list[tuple[str, str]], size: int, folder: Path) -> None:
    """Writes `size` texts of train, and a few of dev and of test, as JSON lines."""
    folder.mkdir()
    start = 0
    for split, count in {"train": size, "dev": EVALUATED, "test": EVALUATED}.items():
        rows = ((i, *texts[i % len(texts)]) for i in range(start, start + count))
        lines = (json.dumps({"text": f"{i} {text}", "label": label}) for i, text, label in rows)
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        start += count


def trained(options: argparse.Namespace, texts: list[tuple[str, str]], size: int) -> dict[str, Any]:
    """Runs the command on this number of texts; returns what it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_splits(texts, size, folder / "data")
        command = [
            *(sys.executable, "-m", "jaxft.train", "--config=configs/custom.py"),
            *(f"--config.data.dir={folder / 'data'}", f"--workdir={folder / 'run'}"),
            *(f"--config.model.name={options.model}", f"--config.method.name={options.method}"),
            *("--config.epochs=2", "--config.batch_size=32", "--config.model.keep_frozen=False"),
        ]
        log = options.output / f"{size}.log"
        row = measured(command, {"JAX_LOG_COMPILES": "1"}, log)
        timing = read_json(folder / "run" / "results.json")["timing"]
    before, _, rest = log.read_text("utf-8").partition("epoch   1")
    later = rest.partition("epoch   2")[0]
    return {
        "examples": size,
        "tokens_per_s": timing["tokens_per_s"],
        "peak_mib": row["peak_mib"],
        "compiled": before.count("Compiling "),
        "compiled_later": later.count("Compiling "),
        "command_s": row["command_s"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="AG News as CSV")
    parser.add_argument("--model", type=Path, required=True, help="folder of the pretrained model")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output = options.output.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    with options.data.open(encoding="utf-8", newline="") as stream:
        texts = [(f"{title} {text}", label) for label, title, text in csv.reader(stream)]
    rows = []
    for size in map(int, options.sizes.split(",")):
        rows.append(trained(options, texts, size))
        write_json(options.output / "examples.json", rows)
    heads = list(rows[0])
    cells = [[name_entry(f"{row[head]:,.0f}") for head in heads] for row in rows]
    print(Table(heads, cells).markdown())


if __name__ == "__main__":
    main()
