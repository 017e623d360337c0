"""The fields of a config: their defaults and ranges, and which of them determine a run.

    fields = to_json(config)                 # plain JSON, as config.json of a run holds it
    default_workdir(config)                  # runs/acl_sup-lora-minilm-seed0-1a2b3c
    check_fields(config); check_values(config)       # an InputError names the field

configs/base.py has every default with a comment.
"""

import hashlib
import importlib.util
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jaxft.errors import InputError, check_choice, nearest

ROOT = Path(__file__).parents[1]  # of the repository: configs/ is beside jaxft/


@cache
def config_module(name: str = "base.py") -> ModuleType:
    """Returns a file of configs/ as a module: that with all defaults, or another."""
    spec = importlib.util.spec_from_file_location("jaxft_defaults", ROOT / "configs" / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_fields(config: ConfigDict, name: str = "base.py") -> None:
    """Raises InputError if a config has other fields, or other types, than configs/base.py.

    Args:
      name: another file of configs/ to compare with.
    """
    base = flatten_dict(config_module(name).get_config().to_dict(), sep=".")
    mine = flatten_dict(config.to_dict(), sep=".")
    for field in mine:
        if field not in base:
            raise InputError(f"config.{field}: no such field{nearest(field, base)}")
    for field, default in base.items():
        if field not in mine:
            raise InputError(f"config.{field} is missing; start a config from configs/{name}")
        is_number = isinstance(default, float) and isinstance(mine[field], int)
        if type(mine[field]) is not type(default) and not is_number:
            raise InputError(
                f"config.{field}: {mine[field]!r}; expected {type(default).__name__}, "
                f"for example {default!r}"
            )


def whole(values: tuple[Any, ...]) -> bool:
    """Whether all values are whole numbers above 0."""
    return all(isinstance(value, int) and value >= 1 for value in values)


def is_seed(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**32


def is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def each_another(is_valid: Callable[[Any], bool]) -> Callable[[tuple[Any, ...]], bool]:
    """Returns whether all values are valid, and none stands twice."""
    return lambda values: all(map(is_valid, values)) and len(set(values)) == len(values)


# field -> (whether a value is valid, what is expected); names are checked where they are used.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "data.few_shot": (lambda x: x >= 1, "a whole number above 0"),
    "data.split_seed": (lambda x: x >= 0, "0 or more"),
    "optim.learning_rate": (is_rate, "a number above 0"),
    "optim.learning_rates": (
        each_another(is_rate),
        "different numbers above 0, e.g. 1e-3,3e-4",
    ),
    "optim.weight_decay": (lambda x: 0 <= x < math.inf, "0 or more"),
    "optim.clip": (lambda x: 0 <= x < math.inf, "0 or more"),
    "optim.accumulate": (lambda x: x >= 1, "a whole number above 0"),
    "batch_size": (lambda x: x >= 1, "a whole number above 0"),
    "eval_batch_size": (lambda x: x >= 1, "a whole number above 0"),
    "epochs": (lambda x: x >= 1, "a whole number above 0"),
    "seed": (is_seed, "0 to 2**32 - 1"),
    "seeds": (each_another(is_seed), "different whole numbers from 0 to 2**32 - 1, e.g. 1,2,3"),
    "patience": (lambda x: x >= 0, "0 or more"),
    "save_every": (lambda x: x >= 0, "0 or more"),
    "memory.top_layers": (lambda x: x >= 1, "a whole number above 0"),
    "memory.steps": (lambda x: x >= 0, "0 or more"),
    "memory.seeds": (whole, "whole numbers above 0, e.g. 1,5"),
    "memory.batch_sizes": (whole, "whole numbers above 0, e.g. 8,16"),
    "memory.lengths": (whole, "whole numbers above 0, e.g. 64,128"),
}


def check_values(config: ConfigDict) -> None:
    """Raises InputError if a number is out of its range."""
    check_choice(config.select, ("best", "last"), "select")
    fields = flatten_dict(config.to_dict(), sep=".")
    for name, (is_valid, expected) in RANGES.items():
        if not is_valid(fields[name]):
            raise InputError(f"{name}: {fields[name]}; expected {expected}")


def to_json(config: ConfigDict) -> dict[str, Any]:
    """What of a config determines a run, as JSON would give it back: tuples are lists."""
    fields = config.to_dict()
    del fields["memory"]  # what the planner compiles
    return json.loads(json.dumps(fields))


def identity(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns what of config.json makes a run another run.

    All but the devices it runs on and the seeds and learning rates it trains beside. The names of
    splits count where there are any: runs from before that field are the same runs.
    """
    others = ("mesh", "seeds", "together")
    kept = {name: value for name, value in fields.items() if name not in others}
    optim = {name: x for name, x in fields.get("optim", {}).items() if name != "learning_rates"}
    data = dict(fields.get("data", {}))
    if not any(data.get("splits", {}).values()):
        data.pop("splits", None)
    return kept | {"optim": optim} | ({"data": data} if data else {})


def config_digest(config: ConfigDict) -> str:
    """sha256 over what makes a run another run."""
    return hashlib.sha256(
        json.dumps(identity(to_json(config)), sort_keys=True).encode()
    ).hexdigest()


def default_workdir(config: ConfigDict) -> Path:
    """`runs/acl_sup-lora-minilm-seed0-1a2b3c`: the same command finds the same directory."""
    digest = config_digest(config)[:6]
    model = Path(config.model.name).name
    task = config.task.replace(",", "+")
    return Path("runs") / f"{task}-{config.method.name}-{model}-seed{config.seed}-{digest}"
