"""Which checkpoints stay: the latest two and the best, whatever the dev scores are.

Real checkpoints of one number, saved as the loop saves; the expected ones by a rule that is written
here a second time, without the code that is tried.
"""

import math
import random
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxft.training.checkpoint import Checkpoints
from jaxft.training.selection import best_step
from jaxft.training.step import State
from soak.bench import Bench
from soak.trial import Record, Trial

SCORES = (None, math.nan, math.inf, -math.inf, 0.0, 0.25, 0.25, 0.5, 1.0)
METRICS = ("macro_f1", "accuracy", "loss")


@cache
def shapes() -> State:
    """A state of two numbers."""
    one = SingleDeviceSharding(jax.devices()[0])
    count = jax.ShapeDtypeStruct((), np.int32, sharding=one)
    return State(count, {"w": jax.ShapeDtypeStruct((), np.float32, sharding=one)}, {"n": count})


def state(step: int) -> State:
    """The state at a step, which is also its value."""
    one = SingleDeviceSharding(jax.devices()[0])
    count = jax.device_put(np.int32(step), one)
    return State(count, {"w": jax.device_put(np.float32(step), one)}, {"n": count})


def epoch(number: int, step: int, chance: random.Random) -> dict[str, Any]:
    """An epoch with random scores, some of them missing, equal or not finite."""
    dev: dict[str, Any] = {metric: chance.choice(SCORES) for metric in METRICS}
    if chance.random() < 0.5:  # as an older jaxft wrote it, without `finite`
        dev["finite"] = chance.random() < 0.8
    loss = chance.choice((0.3, 0.3, 0.2, math.nan, None))
    return {"epoch": number, "step": step, "train_loss": loss, "dev": dev}


def expected_best(history: list[dict[str, Any]], metric: str) -> int | None:
    """The step of the best epoch by the rule of docs/reliability.md."""
    best, best_score = None, -math.inf
    for entry in history:
        dev, loss = entry["dev"], entry["train_loss"]
        f1 = dev["macro_f1"]
        sound = loss is not None and math.isfinite(loss) and (f1 is None or math.isfinite(f1))
        if not sound or not dev.get("finite", f1 is not None):
            continue
        score = dev[metric]
        if score is None or not math.isfinite(score):
            score = -math.inf
        elif metric == "loss":
            score = -score
        if score >= best_score:
            best, best_score = entry["step"], score
    return best


def kept(bench: Bench, directory: Path, chance: random.Random, number: int) -> Record:
    """Saves a run of random epochs, with saves inside epochs, and looks after each save."""
    del bench, number
    metric, history, saved = chance.choice(METRICS), list[dict[str, Any]](), list[int]()
    wrong = []
    with Checkpoints(directory / "checkpoints", shapes()) as checkpoints:
        step = 0
        for _ in range(chance.randint(2, 9)):
            step += chance.randint(1, 9)
            if chance.random() < 0.7:
                history.append(epoch(len(history) + 1, step, chance))
            checkpoints.save(state(step), {"history": len(history)}, best_step(history, metric))
            checkpoints.wait()
            saved.append(step)
            best = expected_best(history, metric)
            wanted = sorted({*saved[-2:], *([best] if best is not None else [])})
            if checkpoints.steps() != wanted:
                wrong.append(f"{checkpoints.steps()} instead of {wanted}: {metric} {history}")
        for left in checkpoints.steps():
            if float(checkpoints.restore(left)[0].trained["w"]) != left:
                wrong.append(f"{left} restored as something else")
    return {"wrong": wrong, "saves": len(saved)}


TRIALS = [
    Trial("kept", 6, "which checkpoints stay, random dev scores against an oracle", 1000, kept)
]
