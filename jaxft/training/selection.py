"""The epoch that is reported, and when to stop: functions of a run's history, without JAX.

    best_entry(history)                     # the epoch with the best dev macro-F1
    best_entry(history, "mcc")              # with the best dev score by another metric
    stops_early(history, patience=3)        # whether none of the last three epochs was better

A history has a dict for each finished epoch: `{"epoch", "step", "train_loss", "dev"}`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jaxft.training.objectives import SINGLE_LABEL, lower_is_better

Entry = TypeVar("Entry", bound=Mapping[str, Any])

DEFAULT = SINGLE_LABEL.default


def is_finite(entry: Mapping[str, Any]) -> bool:
    """Whether an epoch's losses and dev logits were finite throughout."""
    loss, dev = entry["train_loss"], entry["dev"]
    # A correlation may be undefined though all logits were finite; runs of an older jaxft do not
    # say whether they were, and have a macro-F1 if so.
    is_sound = dev.get("finite", dev.get("macro_f1") is not None)
    figures = [x for x in (loss, dev.get("macro_f1")) if x is not None]
    return bool(is_sound) and loss is not None and all(map(math.isfinite, figures))


def merit(entry: Mapping[str, Any], metric: str) -> float:
    """Returns an epoch's dev score, made so that more is better; -inf if there is none."""
    score = entry["dev"].get(metric)
    if score is None or not math.isfinite(score):
        return -math.inf
    return -score if lower_is_better(metric) else score


def best_entry(history: Sequence[Entry], metric: str = DEFAULT) -> Entry | None:
    """Returns the epoch with the best dev score; in a tie the later one, which has trained longer.

    None if no epoch was finite. An epoch is `lost` if its checkpoint could not be read.
    """
    finite = [e for e in history if is_finite(e) and "lost" not in e]
    return max(finite, key=lambda e: (merit(e, metric), e["epoch"]), default=None)


def best_step(history: Sequence[Mapping[str, Any]], metric: str = DEFAULT) -> int | None:
    """Returns the step at which the best epoch ended; None if there is no best one yet."""
    best = best_entry(history, metric)
    return best["step"] if best else None


def is_over(record: Mapping[str, Any], patience: int, metric: str = DEFAULT) -> bool:
    """Whether a run needs no further epoch: it diverged, or it stops early."""
    return bool(record.get("diverged")) or stops_early(record["history"], patience, metric)


def stops_early(history: Sequence[Mapping[str, Any]], patience: int, metric: str = DEFAULT) -> bool:
    """Whether none of the last `patience` epochs was better; an equal score is not better."""
    if not patience or not history:
        return False
    return history[-1]["epoch"] - last_improvement(history, metric) >= patience


def last_improvement(history: Sequence[Mapping[str, Any]], metric: str = DEFAULT) -> int:
    """Returns the last epoch whose dev score was better than all before; 0 if none was finite."""
    highest, found = -math.inf, 0
    for entry in history:
        if is_finite(entry) and merit(entry, metric) > highest:
            highest, found = merit(entry, metric), entry["epoch"]
    return found
