"""Compare jaxft with its peer (Trainer, peft, adapters) on restaurant, over several seeds.

    python scripts/benchmark/quality.py --data data/restaurant \
        --model models/all-MiniLM-L6-v2 --output runs/quality \
        --methods full,lora,houlsby --seeds 0,1,2 --sides both

Both sides get the same settings. What differs is no setting of both:

- jaxft trains BERT's pooler, unless --train_pooler=False; peft and adapters freeze it.
- jaxft's adapters start with a zero up projection, those of `adapters` with N(0, 0.02).
- jaxft's batches hold texts of all lengths, nearly the same number of tokens each; the peer's are
  shuffled.

Each (side, method, seed) is one subprocess, one after the other, with its log in OUTPUT. A run
whose result is already there is not repeated, so the command can be stopped and started again.
Prints a Markdown table of the last weights' test metrics in percent (mean ± sample standard
deviation over the seeds) and writes table.md and quality.json into OUTPUT.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SIDES = ("peer", "jaxft")
EPOCHS = 3
BATCH_SIZE = 32
# Given to both sides on the command line, so that neither side's default can make a difference.
LEARNING_RATES = {"full": 1e-4, "head": 1e-3, "lora": 1e-3, "lora_top2": 1e-3, "houlsby": 5e-4}
# What peer.py holds as constants, for jaxft.
LORA = {"rank": 8, "alpha": 16, "dropout": 0.1}
JAXFT_METHOD = {
    "full": {"name": "full"},
    "head": {"name": "head"},
    "lora": {"name": "lora", **LORA},
    "lora_top2": {"name": "lora", **LORA, "layers": "-1,-2"},
    "houlsby": {"name": "houlsby", "size": 64},
}
JAXFT_OPTIM = {"warmup": 0.06, "weight_decay": 0.01}
MISSING = "-"

Row = dict[str, Any]


def peer_command(options: argparse.Namespace, method: str, seed: int, output: Path) -> list[str]:
    return [
        sys.executable,
        str(Path(__file__).with_name("peer.py")),
        f"--data={options.data}",
        f"--model={options.model}",
        f"--method={method}",
        f"--seed={seed}",
        f"--epochs={EPOCHS}",
        f"--batch_size={BATCH_SIZE}",
        f"--learning_rate={LEARNING_RATES[method]}",
        f"--output={output}",
    ]


def method_flags(method: str) -> list[str]:
    """The flags of jaxft.train that give it a method's settings."""
    optim = {"learning_rate": LEARNING_RATES[method]} | JAXFT_OPTIM
    return [
        *(f"--config.optim.{name}={value}" for name, value in optim.items()),
        *(f"--config.method.{name}={value}" for name, value in JAXFT_METHOD[method].items()),
    ]


def jaxft_command(options: argparse.Namespace, method: str, seed: int, workdir: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "jaxft.train",
        f"--config=configs/restaurant.py:{JAXFT_METHOD[method]['name']}",
        f"--workdir={workdir}",
        "--config.model.name=minilm",
        f"--config.seed={seed}",
        f"--config.epochs={EPOCHS}",
        f"--config.batch_size={BATCH_SIZE}",
        *method_flags(method),
        "--config.select=last",
        f"--config.method.train_pooler={options.train_pooler}",
    ]


def execute(command: list[str], log: Path, data: Path) -> None:
    """Run one command from the repository's root; its output goes to `log`."""
    # jaxft looks for <task>/train.json under $JAXFT_DATA; the peer is given the task's folder.
    environment = os.environ | {"JAXFT_DATA": str(data.parent)}
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}; see {log}:\n{tail}")


def read_peer(path: Path) -> Row:
    result = json.loads(path.read_text(encoding="utf-8"))
    return result["test_last"] | {"seconds": result["train_seconds"]}


def read_jaxft(path: Path) -> Row:
    result = json.loads(path.read_text(encoding="utf-8"))
    test = {name: result["test"][name] for name in ("accuracy", "macro_f1", "collapsed")}
    return test | {"seconds": result["timing"]["train_s"]}


def run_peer(options: argparse.Namespace, method: str, seed: int) -> Row:
    output = options.output / f"peer-{method}-{seed}.json"
    if not output.is_file():
        command = peer_command(options, method, seed, output)
        execute(command, output.with_suffix(".log"), options.data)
    return read_peer(output)


def run_jaxft(options: argparse.Namespace, method: str, seed: int) -> Row:
    workdir = options.output / f"jaxft-{method}-{seed}"
    # jaxft itself returns at once for a finished run; only DONE says that results.json is final.
    if not (workdir / "DONE").is_file():
        log = options.output / f"{workdir.name}.log"
        execute(jaxft_command(options, method, seed, workdir), log, options.data)
    return read_jaxft(workdir / "results.json")


def collect(options: argparse.Namespace) -> list[Row]:
    run = {"peer": run_peer, "jaxft": run_jaxft}
    rows = []
    for method in options.methods:
        for seed in options.seeds:
            for side in options.sides:
                row = {"side": side, "method": method, "seed": seed}
                row |= run[side](options, method, seed)
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def summarize(rows: list[Row], method: str, side: str) -> Row | None:
    """Mean and sample standard deviation over the seeds, or None for a side that did not run."""
    chosen = [row for row in rows if (row["method"], row["side"]) == (method, side)]
    if not chosen:
        return None
    summary: Row = {"seeds": len(chosen), "collapsed": sum(row["collapsed"] for row in chosen)}
    for name in ("accuracy", "macro_f1", "seconds"):
        values = [row[name] for row in chosen]
        summary[name] = {
            "mean": statistics.mean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
        }
    return summary


def percent(summary: Row | None, name: str) -> str:
    if summary is None:
        return MISSING
    mean, std = summary[name]["mean"], summary[name]["std"]
    # One seed has no deviation; "± 0.0" would claim one.
    return f"{100 * mean:.1f}" if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}"


def difference(peer: Row | None, jaxft: Row | None) -> str:
    if peer is None or jaxft is None:
        return MISSING
    return f"{100 * (jaxft['accuracy']['mean'] - peer['accuracy']['mean']):+.1f}"


def seconds(summary: Row | None) -> str:
    return MISSING if summary is None else f"{summary['seconds']['mean']:.0f}"


def table_line(method: str, peer: Row | None, jaxft: Row | None) -> str:
    cells = (
        method,
        percent(peer, "accuracy"),
        percent(jaxft, "accuracy"),
        difference(peer, jaxft),
        percent(peer, "macro_f1"),
        percent(jaxft, "macro_f1"),
        f"{seconds(peer)} / {seconds(jaxft)}",
    )
    return f"| {' | '.join(cells)} |"


def markdown(summaries: dict[str, dict[str, Row | None]]) -> str:
    lines = [
        "| method | peer accuracy | jaxft accuracy | difference in points "
        "| peer macro-F1 | jaxft macro-F1 | seconds, peer / jaxft |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        table_line(method, sides["peer"], sides["jaxft"]) for method, sides in summaries.items()
    ]
    # A collapsed run still has the majority's accuracy, so the table alone would hide it.
    lines += [
        f"\n{method}, {side}: {summary['collapsed']} of {summary['seeds']} runs predict one class."
        for method, sides in summaries.items()
        for side, summary in sides.items()
        if summary is not None and summary["collapsed"]
    ]
    return "\n".join(lines) + "\n"


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder named restaurant")
    parser.add_argument("--model", type=Path, help="the peer's model folder (all-MiniLM-L6-v2)")
    parser.add_argument("--methods", default="full,lora,houlsby")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--train_pooler",
        choices=("True", "False"),
        default="True",
        help="jaxft's default, True, trains BERT's pooler with every method; peft and adapters "
        "freeze it",
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sides", choices=("both", *SIDES), default="both")
    options = parser.parse_args()
    options.methods = options.methods.split(",")
    options.seeds = [int(seed) for seed in options.seeds.split(",")]
    options.sides = SIDES if options.sides == "both" else (options.sides,)
    check_options(parser, options)
    # The subprocesses run in the repository's root, where a relative path would mean another place.
    options.data, options.output = options.data.resolve(), options.output.resolve()
    options.model = options.model and options.model.resolve()
    return options


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    unknown = sorted(set(options.methods) - set(LEARNING_RATES))
    if unknown:
        parser.error(f"--methods: unknown {', '.join(unknown)}; known: {', '.join(LEARNING_RATES)}")
    if not (options.data / "test.json").is_file():
        parser.error(f"--data: no test.json in {options.data}")
    if "peer" in options.sides and options.model is None:
        parser.error("--model is needed for the peer side")


def main() -> None:
    options = parse_options()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = collect(options)
    summaries = {
        method: {side: summarize(rows, method, side) for side in SIDES}
        for method in options.methods
    }
    table = markdown(summaries)
    document = {"runs": rows, "summary": summaries}
    (options.output / "quality.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    (options.output / "table.md").write_text(table, "utf-8")
    print(table)


if __name__ == "__main__":
    main()
