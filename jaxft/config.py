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
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jaxft.data.layout import CHOICES as BATCHES
from jaxft.errors import InputError, check_choice, nearest
from jaxft.peft.methods import METHODS, added_options
from jaxft.reporting.added_fields import ADDED

# The files of configs/: inside the package if jaxft was installed from a wheel, next to it in a
# clone.
PACKAGED = Path(__file__).parent / "configs"
CONFIGS = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[1] / "configs"
# Names that other tools have for a field.
SYNONYMS = {
    "lr": "optim.learning_rate",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "bs": "batch_size",
    "max_seq_length": "data.max_length",
    "max_len": "data.max_length",
    "warmup_ratio": "optim.warmup",
    "lr_scheduler_type": "optim.schedule",
    "gradient_accumulation_steps": "optim.accumulate",
    "max_grad_norm": "optim.clip",
    "lora_alpha": "method.alpha",
    "r": "method.rank",
    "lora_dropout": "method.dropout",
    "target_modules": "method.targets",
    "bottleneck_size": "method.size",
    "random_seed": "seed",
    "early_stopping_patience": "patience",
}


def make_importable() -> None:
    """Lets config files anywhere `from configs.base import ...`, as those of jaxft do."""
    if "configs" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "configs", CONFIGS / "__init__.py", submodule_search_locations=[str(CONFIGS)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["configs"] = module
    spec.loader.exec_module(module)


@cache
def config_module(name: str = "base.py") -> ModuleType:
    """Returns a file of configs/ as a module: the one with all defaults, or another."""
    make_importable()
    spec = importlib.util.spec_from_file_location("jaxft_defaults", CONFIGS / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def field_of(name: str, fields: Iterable[str]) -> str | None:
    """Returns the field that a name without its section most likely means, if there is one.

    field_of("lr", fields)             # "optim.learning_rate"
    field_of("rank", fields)           # "method.rank"
    """
    fields = list(fields)
    if name in fields:
        return name
    if SYNONYMS.get(name) in fields:
        return SYNONYMS[name]
    found = [field for field in fields if field.rpartition(".")[2] == name]
    # `seeds` and `targets` are fields of a run; the planner has some of the same name.
    of_run = [field for field in found if not field.startswith("memory.")]
    chosen = of_run or found
    return chosen[0] if len(chosen) == 1 else None


def by_name(config: ConfigDict) -> dict[str, Any]:
    """Returns a config's fields by their names, as in `{"optim.clip": 1.0}`."""
    return flatten_dict(config.to_dict(), sep=".")


def defaults(file: str = "base.py") -> dict[str, Any]:
    """Returns the fields of a file of configs/ by their names, with their defaults."""
    return by_name(config_module(file).get_config())


def set_fields(config: ConfigDict, given: Mapping[str, Any]) -> None:
    """Sets fields of a config by their names, with or without the section.

    set_fields(config, {"epochs": 8, "rank": 16, "optim.learning_rate": 3e-4})

    Raises:
      InputError: no field has the name, or several have.
    """
    values = by_name(config)
    for field, value in full_names(given, values).items():
        default = values[field]
        if isinstance(default, tuple):
            value = tuple(value) if isinstance(value, list | tuple) else (value,)
        try:
            config.update_from_flattened_dict({field: value})
        except (TypeError, ValueError) as err:
            raise InputError(
                f"{field}: {value!r}; expected {type(default).__name__}, for example {default!r}"
            ) from err


def add_options(config: ConfigDict) -> None:
    """Gives `config.method` the options that plugins' methods have and it lacks."""
    with config.unlocked():
        for name, default in added_options().items():
            if name not in config.method:
                config.method[name] = default


def full_names(given: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """Returns values by the full names of their fields.

    full_names({"rank": 16}, fields)        # {"method.rank": 16}

    Raises:
      InputError: no field has the name, or several have.
    """
    fields = list(fields)
    found = {}
    for name, value in given.items():
        field = name if name in fields else field_of(name, fields)
        if field is None:
            raise InputError(f"{name}: no such field{nearest_field(name, fields)}")
        found[field] = value
    return found


def nearest_field(name: str, fields: Iterable[str]) -> str:
    """Returns `; did you mean 'optim.learning_rate'?` for a name that is no field, or nothing."""
    fields = list(fields)
    leaf = name.rpartition(".")[2]
    known = field_of(leaf, fields)
    if known:
        return f"; did you mean '{known}'?"
    return nearest(name, fields) or nearest(leaf, [field.rpartition(".")[2] for field in fields])


def check_fields(config: ConfigDict, name: str = "base.py") -> None:
    """Raises InputError if a config has other fields, or other types, than configs/base.py.

    Args:
      name: another file of configs/ to compare with.
    """
    base, mine = defaults(name), by_name(config)
    for field in mine:
        if field not in base:
            raise InputError(f"config.{field}: no such field{nearest_field(field, base)}")
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


def each(kind: type) -> Callable[[Any], bool]:
    """Returns whether all values are of a type; True is no whole number."""
    return lambda values: all(type(value) is kind for value in values)


def each_another(is_valid: Callable[[Any], bool]) -> Callable[[tuple[Any, ...]], bool]:
    """Returns whether all values are valid and different."""
    return lambda values: all(map(is_valid, values)) and len(set(values)) == len(values)


# The objectives whose default metric is macro_f1: with them, "auto" is the same run.
BY_MACRO_F1 = ("auto", "single_label", "multi_label")

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
    "model.attention_dropout": (lambda x: x == -1 or 0 <= x < 1, "a rate in [0, 1), or -1"),
    "label_smoothing": (lambda x: 0 <= x < 1, "a share in [0, 1)"),
    "method.layers": (each(int), "whole numbers, e.g. -1,-2"),
    "method.targets": (each(str), "names, e.g. query,value"),
    "method.rank_pattern": (each(str), "patterns with a rank, as in configs/base.py"),
    "method.alpha_pattern": (each(str), "patterns with an alpha, as in configs/base.py"),
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
    """Raises InputError if a number is out of its range, or a choice none of those there are."""
    check_choice(config.select, ("best", "last"), "select")
    check_choice(config.data.batches, BATCHES, "data.batches")
    fields = by_name(config)
    for name, (is_valid, expected) in RANGES.items():
        if not is_valid(fields[name]):
            raise InputError(f"{name}: {fields[name]}; expected {expected}")


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The fields of a config that determine a run, as JSON would return them: tuples are lists."""
    fields = config.to_dict()
    del fields["memory"]  # what the planner compiles
    method = METHODS.get(fields["method"]["name"])
    for option in added_options():
        if method is None or not hasattr(method.options, option):
            fields["method"].pop(option, None)  # of a plugin's method, which is not this run's
    return json.loads(json.dumps(fields))


def flags_of(config: ConfigDict) -> list[str]:
    """Returns the flags that turn configs/base.py into this config.

    flags_of(config)        # ["--config.epochs=8", "--config.optim.learning_rate=0.0003"]

    Without the seed and config.memory.
    """
    base = defaults()
    return [
        f"--config.{name}={value if isinstance(value, str) else repr(value)}"
        for name, value in by_name(config).items()
        if value != base[name] and name != "seed" and not name.startswith("memory.")
    ]


def identity(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of config.json that identify a run.

    Left out are the devices that it runs on, the other seeds and learning rates, and the modules
    that define its method or task. The names of splits count only if they are set, so that runs
    from before that field keep their identity.
    """
    others = ("mesh", "seeds", "together", "plugins")
    kept = {name: value for name, value in fields.items() if name not in others}
    # A run of an older jaxft keeps its identity as long as the newer fields change nothing.
    if kept.get("metric") == "macro_f1" and kept.get("objective", "auto") in BY_MACRO_F1:
        kept["metric"] = ADDED["metric"]
    kept = {name: x for name, x in kept.items() if name not in ADDED or x != ADDED[name]}
    for section in {"model", "method", "data"} & kept.keys():
        kept[section] = {
            name: x
            for name, x in kept[section].items()
            if f"{section}.{name}" not in ADDED or x != ADDED[f"{section}.{name}"]
        }
    optim = {name: x for name, x in fields.get("optim", {}).items() if name != "learning_rates"}
    data = dict(kept.get("data", {}))
    if not any(data.get("splits", {}).values()):
        data.pop("splits", None)
    if not data.get("label_separator"):
        data.pop("label_separator", None)
    return kept | {"optim": optim} | ({"data": data} if data else {})


def config_digest(config: ConfigDict) -> str:
    """sha256 over the fields that identify a run."""
    return hashlib.sha256(
        json.dumps(identity(to_json(config)), sort_keys=True).encode()
    ).hexdigest()


def default_workdir(config: ConfigDict) -> Path:
    """`runs/acl_sup-lora-minilm-seed0-1a2b3c`: the same command finds the same directory."""
    digest = config_digest(config)[:6]
    model = Path(config.model.name).name
    task = config.task.replace(",", "+")
    return Path("runs") / f"{task}-{config.method.name}-{model}-seed{config.seed}-{digest}"
