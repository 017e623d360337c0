"""Labels for new texts: the command of jaxft against a pipeline of transformers, whole processes.

    python scripts/benchmark/predict.py --run runs/restaurant --texts texts.jsonl \
        --peer_python PEER/bin/python --times 5 --output runs/predict.json

The run is exported to transformers' format, and both label the same texts, in turn, from the start
of a process to the last line on disk: jaxft with its programs kept, as from the second command on,
and the pipeline with batches of 32 texts of similar lengths. Prints the medians; the JSON has each
time. The labels must be the same.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from speed import measured

from jaxft.io import write_json

PIPELINE = """
import json, sys
from transformers import pipeline
model, texts, output = sys.argv[1:]
rows = [json.loads(line) for line in open(texts, encoding="utf-8")]
pairs = [{"text": row["term"], "text_pair": row["sentence"]} for row in rows]
order = sorted(range(len(pairs)), key=lambda i: len(pairs[i]["text_pair"]))
label = pipeline("text-classification", model, device="cpu")
found = label([pairs[i] for i in order], batch_size=32)
labels = dict(zip(order, (row["label"] for row in found)))
with open(output, "w", encoding="utf-8") as stream:
    stream.writelines(json.dumps({"prediction": labels[i]}) + "\\n" for i in range(len(rows)))
"""


def labels_in(path: Path) -> list[str]:
    """The predicted labels of a file of either side."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [row["prediction"] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a finished run on restaurant")
    parser.add_argument("--texts", type=Path, required=True, help="jsonl: term and sentence")
    parser.add_argument("--peer_python", required=True)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        exported, log = scratch / "model", scratch / "log"
        export = ["jaxft.export", str(options.run), "--format=transformers"]
        subprocess.run([sys.executable, "-m", *export, f"--output={exported}"], check=True)
        flags = [f"--run={options.run}", f"--input={options.texts}", "--label=none"]
        commands = {
            "jaxft": [sys.executable, "-m", "jaxft.predict", *flags],
            "pipeline": [options.peer_python, "-c", PIPELINE, str(exported), str(options.texts)],
        }
        commands["jaxft"].append(f"--output={scratch / 'jaxft.jsonl'}")
        commands["pipeline"].append(str(scratch / "pipeline.jsonl"))
        measured(commands["jaxft"], {}, log)  # which compiles
        rounds = []
        for _ in range(options.times):
            rounds.append({side: measured(x, {}, log) for side, x in commands.items()})
            print({side: round(x["command_s"], 1) for side, x in rounds[-1].items()}, flush=True)
        ours, theirs = (labels_in(scratch / f"{side}.jsonl") for side in commands)
    differ = sum(a != b for a, b in zip(ours, theirs, strict=True))
    if differ:
        sys.exit(f"{differ} of {len(ours)} labels differ")
    medians = {
        side: statistics.median(row[side]["command_s"] for row in rounds) for side in commands
    }
    found = {"texts": len(ours), "seconds": medians, "rounds": rounds}
    found["ratio"] = medians["jaxft"] / medians["pipeline"]
    write_json(options.output, found)
    print(json.dumps({name: found[name] for name in ("texts", "seconds", "ratio")}))


if __name__ == "__main__":
    main()
