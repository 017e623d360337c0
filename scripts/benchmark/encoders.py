"""A training step of jaxft's encoder beside one of transformers' Flax classes, or of torch.

    scripts/test_transformers4.sh --collect-only -q        # makes the environment with all of them
    .venv-transformers4/bin/python scripts/benchmark/encoders.py --output encoders.json
    .venv-transformers4/bin/python scripts/benchmark/encoders.py --against torch \
        --methods lora,houlsby,full --output torch.json

Both train MiniLM with the same method, batch and dropout rates, in one process; torch with peft and
adapters (`peer.py`). Their steps are taken in turn, so that whatever else the machine does meets
both. The output is the median of the seconds, the ratio of each pair of steps, and what XLA planned
for each program.
"""

import argparse
import json
import os
import statistics
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxft.models import backbone as backbones
from jaxft.models import hub, weights
from jaxft.planning.compiled import compiled_bytes
from jaxft.run.process import keep_heap
from jaxft.training.mesh import by_row, make_mesh, put_batch
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.programs import train_program
from jaxft.training.state import build_model, init_state, run_keys

AGAINST = ("transformers", "torch")


class Stepper:
    """One implementation, compiled and ready to step."""

    def __init__(self, implementation: str, method: str, rows: int, length: int) -> None:
        directory = hub.locate("minilm")
        backbone = backbones.load(directory, 3, implementation=implementation)
        shapes = backbones.parameter_shapes(backbone)
        arrays, fresh = weights.read(directory, shapes, backbone.family)
        model = build_model(backbone, fresh, method, {})
        schedule = make_schedule("constant", 1e-4, 1000, 0.0)
        optimizer = make_optimizer(
            model.labels, schedule, weight_decay=0.01, clip=1.0, accumulate=1
        )
        mesh = make_mesh()
        self.state, self.frozen = init_state(model, optimizer, arrays, 0, mesh)
        program = train_program(model, optimizer, mesh, batch_size=rows)
        start = time.perf_counter()
        program.compile(length)
        self.compile_s = time.perf_counter() - start
        self.bytes = compiled_bytes(program.executables[length])
        self.program = program
        self.batch = put_batch(by_row(mesh), make_batch(rows, length, backbone.config.vocab_size))
        self.key = run_keys(0)[1]

    def step(self) -> float:
        """Takes one step and returns its seconds."""
        start = time.perf_counter()
        self.state, metrics = self.program(self.state, self.frozen, self.batch, self.key)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - start


class TorchStepper:
    """The peer's model, optimizer and batch."""

    def __init__(self, method: str, rows: int, length: int) -> None:
        import torch  # here: Flax classes are compared without it
        from peer import SCHEDULE, build_model

        torch.manual_seed(0)
        self.torch, self.clip, self.bytes, self.compile_s = (
            torch,
            SCHEDULE["max_grad_norm"],
            None,
            0.0,
        )
        self.model = build_model(hub.locate("minilm"), method, 3).train()
        self.trained = [x for x in self.model.parameters() if x.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=1e-4, weight_decay=SCHEDULE["weight_decay"]
        )
        batch = make_batch(rows, length, self.model.config.vocab_size)
        names = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "types"}
        self.batch = {
            name: torch.tensor(batch[own]).long()
            for name, own in {**names, "labels": "labels"}.items()
        }

    def step(self) -> float:
        """Takes one step and returns its seconds."""
        start = time.perf_counter()
        self.model(**self.batch).loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.trained, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start


def make_batch(rows: int, length: int, vocabulary: int) -> dict[str, np.ndarray]:
    """Returns random ids_BxL without padding, and labels_B."""
    rng = np.random.default_rng(0)
    ids_BxL = rng.integers(5, vocabulary, (rows, length), dtype=np.int32)
    return {
        "ids": ids_BxL,
        "mask": np.ones_like(ids_BxL),
        "types": np.zeros_like(ids_BxL),
        "labels": rng.integers(0, 3, rows, dtype=np.int32),
        "weights": np.ones(rows, np.float32),
    }


def compare(against: str, method: str, rows: int, length: int, steps: int) -> dict[str, Any]:
    """Returns both implementations' figures for one shape."""
    names = ("jaxft", against)
    steppers = {
        name: (
            TorchStepper(method, rows, length)
            if name == "torch"
            else Stepper(name, method, rows, length)
        )
        for name in names
    }
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for stepper in steppers.values():
        stepper.step()
    for number in range(steps):
        # The first of a pair finds the caches cold; each is first as often.
        for name in names if number % 2 else names[::-1]:
            seconds[name].append(steppers[name].step())
    ratios = [a / b for a, b in zip(*(seconds[name] for name in names), strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "method": method,
        "batch_size": rows,
        "length": length,
        "steps": steps,
        "median_s": medians,
        "ratio": {"median": quartiles[1], "quartiles": [quartiles[0], quartiles[2]]},
        "compile_s": {name: stepper.compile_s for name, stepper in steppers.items()},
        "bytes": {name: stepper.bytes for name, stepper in steppers.items()},
    }


def summary(row: dict[str, Any]) -> str:
    """Returns a line on one shape."""
    (low, high), time_ratio = row["ratio"]["quartiles"], row["ratio"]["median"]
    other, bytes_ = list(row["bytes"])[1], list(row["bytes"].values())
    memory = f", {bytes_[0]['peak'] / bytes_[1]['peak']:.3f} of its memory" if bytes_[1] else ""
    return (
        f"{row['method']} {row['batch_size']} x {row['length']}: {time_ratio:.3f} "
        f"({low:.3f} to {high:.3f}) of the time of {other}{memory}"
    )


def main() -> None:
    """Parses the flags, compares, prints each row and writes all of them."""
    keep_heap()  # as jaxft.train does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--against", choices=AGAINST, default=AGAINST[0])
    parser.add_argument("--methods", default="lora,full", help="of fine-tuning, with commas")
    parser.add_argument("--lengths", default="32,64,128", help="of the texts, with commas")
    parser.add_argument("--batch_size", type=int, default=32, help="texts a step")
    parser.add_argument("--steps", type=int, default=20, help="pairs of steps")
    args = parser.parse_args()
    rows = []
    for method in args.methods.split(","):
        for length in map(int, args.lengths.split(",")):
            row = compare(args.against, method, args.batch_size, length, args.steps)
            rows.append(row)
            print(summary(row), flush=True)
    packages = ["jax", "flax", "transformers", *(["torch"] if args.against == "torch" else [])]
    versions = {name: metadata.version(name) for name in packages}
    record = {"cores": os.cpu_count(), "versions": versions, "rows": rows}
    args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
