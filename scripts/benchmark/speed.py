"""Whole training commands: jaxft against the Hugging Face Trainer with peft and adapters.

    python scripts/benchmark/speed.py --data data/restaurant --model models/all-MiniLM-L6-v2 \
        --peer_python PEER/bin/python --methods lora,houlsby,full --times 5 --output runs/speed

Every process is a command from its start to the figures on the test split, in turn: the peer
(scripts/benchmark/peer.py, batches of similar lengths), jaxft with empty caches, and jaxft once
more with the programs that it kept. What is there already in OUTPUT is not measured again. Prints a
table of medians with the smallest and the largest value, and the ratios of each round to the peer;
writes speed.json and speed.md. Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from quality import JAXFT_METHOD, LEARNING_RATES, REPOSITORY, method_flags

from jaxft.io import read_json, write_json
from jaxft.reporting.table import Table, name_entry

SIDES = ("peer", "jaxft", "jaxft again")
BATCH_SIZE = 32
KEPT = ("head", "lora_top2")  # of these, jaxft computes the frozen layers below once
# Column -> its unit; each is of the whole process.
COLUMNS = {
    "command_s": "s",
    "start_s": "s",
    "train_s": "s",
    "cpu_s": "s",
    "peak_mib": "MiB",
    "tokens_per_s": "1/s",
    "accuracy": "%",
}
Row = dict[str, Any]


def peer_command(options: argparse.Namespace, method: str, output: Path) -> list[str]:
    return [
        *(options.peer_python, str(Path(__file__).with_name("peer.py"))),
        *(f"--data={options.data}", f"--model={options.model}", f"--method={method}"),
        *("--seed=0", f"--epochs={options.epochs}", f"--batch_size={BATCH_SIZE}"),
        *(f"--learning_rate={LEARNING_RATES[method]}", "--group_by_length", f"--output={output}"),
    ]


def jaxft_command(options: argparse.Namespace, method: str, workdir: Path) -> list[str]:
    name = JAXFT_METHOD[method]["name"]
    return [
        *(sys.executable, "-m", "jaxft.train", *task_flags(options.data, name)),
        *(f"--workdir={workdir}", f"--config.model.name={options.model}", "--config.seed=0"),
        *(f"--config.epochs={options.epochs}", f"--config.batch_size={BATCH_SIZE}"),
        *method_flags(method),
        f"--config.model.keep_frozen={method in KEPT}",
        *("--config.select=last", *options.jaxft_flags),
    ]


def task_flags(data: Path, method: str) -> list[str]:
    """The config of a folder's task: of restaurant's files, or of anyone's as JSON lines."""
    if (data / "train.jsonl").exists():
        return ["--config=configs/custom.py", f"--config.data.dir={data}"]
    return [f"--config=configs/restaurant.py:{method}"]


def measured(command: list[str], environment: dict[str, str], log: Path) -> Row:
    """Runs a command; returns its seconds, its processor time and its largest resident set."""
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
        sys.exit(f"{' '.join(command)}\nfailed; see {log}:\n{tail}")
    return {
        "command_s": time.perf_counter() - start,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "kernel_s": usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,  # Linux counts in KiB
    }


def run_peer(options: argparse.Namespace, method: str, scratch: Path) -> Row:
    output = scratch / "peer.json"
    row = measured(peer_command(options, method, output), {}, options.output / "peer.log")
    found = read_json(output)
    return row | {
        "start_s": found["start_seconds"],
        "train_s": found["train_seconds"],
        "tokens_per_s": found["tokens"] / found["train_seconds"],
        "accuracy": 100 * found["test_last"]["accuracy"],
    }


def run_jaxft(options: argparse.Namespace, method: str, scratch: Path, cache: Path) -> Row:
    workdir = scratch / "run"
    # jaxft looks for restaurant/train.json under $JAXFT_DATA.
    environment = {"JAXFT_DATA": str(options.data.parent), "JAXFT_CACHE": str(cache)}
    row = measured(
        jaxft_command(options, method, workdir), environment, options.output / "jaxft.log"
    )
    found = read_json(workdir / "results.json")
    timing = found["timing"]
    return row | {
        **{name: timing[name] for name in ("start_s", "train_s", "tokens_per_s")},
        "accuracy": 100 * found["test"]["accuracy"],
        "compile_s": timing["compile_s"],
        "padding_fraction": timing["padding_fraction"],
    }


def round_of(options: argparse.Namespace, method: str) -> dict[str, Row]:
    """One measurement of each side."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        found = {"peer": run_peer(options, method, scratch)}
        for side in SIDES[1:]:
            found[side] = run_jaxft(options, method, scratch, scratch / "cache")
            shutil.rmtree(scratch / "run")
    return found


def text_of(values: list[float]) -> str:
    """`12.3 (12.1-14.0)`: the median, the smallest and the largest; of one value, that alone."""
    median, low, high = statistics.median(values), min(values), max(values)
    digits = 0 if median >= 100 else 1
    spread = f" ({low:,.{digits}f}-{high:,.{digits}f})" if len(values) > 1 else ""
    return f"{median:,.{digits}f}{spread}"


def table(rounds: dict[str, list[dict[str, Row]]]) -> str:
    """Returns the Markdown table."""
    heads = ["method", "side", *(f"{name}, {unit}" for name, unit in COLUMNS.items()), "to peer"]
    rows = []
    for method, found in rounds.items():
        for side in SIDES:
            cells = [text_of([one[side][name] for one in found]) for name in COLUMNS]
            ratios = [one[side]["command_s"] / one["peer"]["command_s"] for one in found]
            cells = [method, side, *cells, f"{statistics.median(ratios):.2f}"]
            rows.append(list(map(name_entry, cells)))
    return Table(heads, rows, left=frozenset({"side"})).markdown()


def make_parser(text: str | None, data: str, times: int) -> argparse.ArgumentParser:
    """Returns a parser of the flags that all benchmarks of whole commands have.

    Args:
      data: what --data is.
      times: the default number of rounds.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help=data)
    parser.add_argument("--model", type=Path, required=True, help="folder of the pretrained model")
    parser.add_argument("--times", type=int, default=times)
    parser.add_argument("--output", type=Path, required=True)
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Returns the options: absolute paths, because commands run elsewhere. OUTPUT is made."""
    options = parser.parse_args()
    options.data, options.model = options.data.resolve(), options.model.resolve()
    options.output = options.output.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    return options


def main() -> None:
    data = "folder of the splits: restaurant's files, or {train,dev,test}.jsonl"
    parser = make_parser(__doc__, data, times=5)
    parser.add_argument("--peer_python", required=True, help="a Python with torch, peft, adapters")
    parser.add_argument("--methods", default="lora,houlsby,full")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("jaxft_flags", nargs="*", help="more flags of jaxft.train, after --")
    options = parsed(parser)
    file = options.output / "speed.json"
    rounds = json.loads(file.read_text()) if file.exists() else {}
    for _ in range(options.times):
        for method in options.methods.split(","):
            found = rounds.setdefault(method, [])
            if len(found) < options.times:
                found.append(round_of(options, method))
                write_json(file, rounds)
    text = table(rounds)
    (options.output / "speed.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
