"""Writes a task's splits as JSON lines with text and label, which both sides of speed.py read.

python scripts/benchmark/as_jsonl.py agnews_sup --output data/agnews_jsonl
"""

import argparse
import json
from pathlib import Path

from jaxft.data.tasks import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    dataset = load(options.task)
    options.output.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        examples = getattr(dataset, split)
        rows = ({"text": one.text, "label": one.label} for one in examples)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (options.output / f"{split}.jsonl").write_text(lines, "utf-8")
        print(f"{split}: {len(examples):,} texts")


if __name__ == "__main__":
    main()
