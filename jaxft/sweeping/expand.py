"""From a table's config to settings: models x tasks x methods x variants x seeds, each resolved.

    settings = expand(table)
    settings[0].config                     # every field of configs/base.py
    flags_of(settings[0].config)           # ["--config.task=acl_sup", ...], the fields that differ

configs/tables/grid.py lists the fields of a table.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from jaxft import plugins
from jaxft.config import (
    by_name,
    check_fields,
    check_values,
    config_module,
    defaults,
    full_names,
    nearest_field,
)
from jaxft.data import tasks
from jaxft.errors import InputError, check_choice
from jaxft.peft.methods import METHODS

TABLE_FILE = "tables/grid.py"
# The fields of a table that hold other fields in each table.
OPEN = ("variant", "overrides", "slurm")
# The fields of a setting that are not fields of configs/base.py.
PER = ("per_task", "per_method", "per_model")
# The axes of a grid, which a setting cannot change, and the table's field for each.
AXES = {
    "task": "tasks",
    "model.name": "model.names",
    "plugins": "plugins",
    "method.name": "methods",
    "seed": "seeds",
    "seeds": "seeds",
    "optim.learning_rates": "variant",  # one for each
}


@dataclass(frozen=True)
class Setting:
    """A run of the grid with its whole config.

    Attributes:
      variant: the variant's name in the table; empty if the table has no variants.
      config: every field of configs/base.py.
    """

    task: str
    model: str
    method: str
    variant: str
    seed: int
    config: ConfigDict


def make_table(axes: Mapping[str, Any], fields: Mapping[str, Any]) -> ConfigDict:
    """Returns a table with these axes, whose overrides are the fields.

    make_table({"tasks": ["acl_sup"], "methods": ["lora"]}, {"epochs": 8, "learning_rate": 1e-3})

    Args:
      axes: fields of configs/tables/grid.py.
      fields: of configs/base.py, with or without the section.

    Raises:
      InputError: a field is not valid.
    """
    table = config_module(TABLE_FILE).get_config()
    for name, values in axes.items():
        check_is_list(values, name)
        table.update_from_flattened_dict({name: tuple(values)})
    known = defaults()
    overrides = full_names(fields, known)
    for name in overrides:
        check_field(name, name, known)
    table.overrides.update(unflatten_dict(overrides, sep="."))
    return table


def check_is_list(values: Any, name: str) -> None:
    """Raises InputError for a single name, whose letters would be taken for names."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InputError(f"{name}: {values!r}; expected a list, such as [{values!r}]")


def expand(table: ConfigDict) -> list[Setting]:
    """Returns the grid's runs: all rows with their first seed, then all with their second, ...

    Raises:
      InputError: a field, a name or a value is not valid. The message gives the nearest valid one.
    """
    plugins.load(words(table.get("plugins", ())))
    check_table(table)
    chosen = words(table.variants) or list(table.variant) or [""]
    axes = list(product(chosen, words(table.model.names), task_names(table), words(table.methods)))
    seeds = {variant: seeds_of(table, variant) for variant in chosen}
    return [
        resolve(table, *row, seeds[row[0]][number])
        for number in range(max(map(len, seeds.values())))
        for row in axes
        if number < len(seeds[row[0]])
    ]


# ---------------------------------------------------------------- the fields of a table


def check_table(table: ConfigDict) -> None:
    """Raises InputError if a table has other fields, or other types, than configs/tables/grid.py.

    The settings in it are checked later, when they replace the defaults.
    """
    whole = config_module(TABLE_FILE).get_config()
    if "model" in table and "names" not in table.model:
        raise InputError(
            "--config: this is the config of one run; a grid starts from configs/tables/grid.py, "
            "for example --config configs/tables/minilm_grid.py"
        )
    of_runs = defaults()
    for name in table:
        if name in of_runs and name not in whole:
            raise InputError(f"config.{name}: a field of a run; set config.overrides.{name}")
    closed = {name: x for name, x in table.items() if name not in OPEN}
    check_fields(ConfigDict({**closed, **{name: whole[name] for name in OPEN}}), TABLE_FILE)
    for name in OPEN:
        if name not in table:
            raise InputError(f"config.{name} is missing; start a table from configs/{TABLE_FILE}")
        check_is_fields(table[name], f"config.{name}")
    for name, setting in table.variant.items():
        check_is_fields(setting, f"config.variant.{name}")
    for name in ("model.names", "tasks", "methods"):
        if not words(table[name]):
            raise InputError(f"config.{name}: empty; expected one name or more")
    for variant in words(table.variants):
        check_choice(variant, list(table.variant), "config.variants")
    for method in words(table.methods):
        check_choice(method, METHODS, "config.methods")
    axes = {"tasks": task_names(table), "methods": words(table.methods)}
    for name, values in (axes | {"model.names": words(table.model.names)}).items():
        if len(set(values)) < len(values):
            raise InputError(f"config.{name}: a name is listed twice")
    if len(set(words(table.variants))) < len(words(table.variants)):
        raise InputError("config.variants: a name is listed twice")


def check_is_fields(value: Any, where: str) -> None:
    """Raises InputError unless the value is a mapping of fields, or of settings by name."""
    if not isinstance(value, ConfigDict | dict):
        raise InputError(f"{where}: {value!r}; expected fields")


def words(values: tuple[Any, ...]) -> list[str]:
    """Returns the names in a tuple; `--config.methods=full,lora` gives one string with both."""
    return [part for value in values for part in str(value).split(",")]


def task_names(table: ConfigDict) -> list[str]:
    """Returns the tasks as `config.task` writes them.

    `acl` becomes `acl_sup`; `a_sup+b_sup`, one task merged of two, becomes `a_sup,b_sup`.
    """
    return [full_task(name) for name in words(table.tasks)]


def full_task(name: str) -> str:
    """Returns a task of a table as `config.task` writes it, or raises InputError."""
    parts = [f"{part}_sup" if part in tasks.CATALOGUE else part for part in name.split("+")]
    task = ",".join(parts)
    tasks.parse_task(task)
    return task


def seeds_of(table: ConfigDict, variant: str) -> list[int]:
    """Returns the seeds of a variant: the table's, else the variant's, else 0."""
    own = table.variant[variant].get("seeds", ()) if variant else ()
    where = "config.seeds" if table.seeds else f"config.variant.{variant}.seeds"
    seeds = table.seeds or (own if isinstance(own, tuple | list) else (own,)) or (0,)
    for seed in seeds:
        if not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise InputError(f"{where}: {seed!r}; expected seeds from 0 to 2**32 - 1, e.g. 0,1,2")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{where}: a seed is listed twice")
    return list(seeds)


# ---------------------------------------------------------------- a run's config


def resolve(
    table: ConfigDict, variant: str, model: str, task: str, method: str, seed: int
) -> Setting:
    """Returns a run with its whole config, checked."""
    config = config_module().defaults_of(task, method)
    fields = by_name(config)
    names = {"task": task_keys(task), "method": {method}, "model": {model}}
    layers = {"config.overrides": table.overrides.to_dict()}
    if variant:
        own = {name: x for name, x in table.variant[variant].to_dict().items() if name != "seeds"}
        layers = {f"config.variant.{variant}": own, **layers}
    for where, layer in layers.items():
        for place, name, value in assignments(layer, where, names):
            check_field(place, name, fields)
            fields[name] = fitting(value, fields[name])
    fields |= {"task": task, "method.name": method, "model.name": model, "seed": seed}
    fields["plugins"] = tuple(words(table.plugins))
    config = ConfigDict(unflatten_dict(fields, sep="."))
    check_fields(config)
    check_values(config)
    return Setting(task, model, method, variant, seed, config)


def task_keys(task: str) -> set[str]:
    """Returns the names that `per_task` may use for a task: `acl_sup`, `acl`."""
    parts = task.split(",")
    if len(parts) == 1:
        return {task, task.removesuffix("_sup").removesuffix("_fs")}
    return {"+".join(names) for names in product(*({x, x.removesuffix("_sup")} for x in parts))}


def assignments(
    layer: Mapping[str, Any], where: str, names: Mapping[str, set[str]]
) -> Iterator[tuple[str, str, Any]]:
    """Yields `(place in the table, field, value)` of a setting. A later value replaces an earlier.

    Args:
      names: the names of the run's "task", "method" and "model".
    """
    check_is_fields(layer, where)
    plain = {name: x for name, x in layer.items() if name not in PER}
    for name, value in flatten_dict(plain, sep=".").items():
        yield f"{where}.{name}", name, value
    for per in PER:
        variants = layer.get(per, {})
        check_is_fields(variants, f"{where}.{per}")
        for name, inner in variants.items():
            check_key(per, name, f"{where}.{per}")
            if name in names[per.removeprefix("per_")]:
                yield from assignments(inner, f"{where}.{per}.{name}", names)


def check_key(per: str, name: str, where: str) -> None:
    """Raises InputError for an unknown name of a method or a task.

    A model's name is not checked: --config.model.names may leave out models of the table.
    """
    if per == "per_method":
        check_choice(name, METHODS, where)
    if per == "per_task":
        try:
            full_task(name)
        except InputError as err:
            raise InputError(f"{where}: {err}") from err


def check_field(where: str, name: str, fields: Mapping[str, Any]) -> None:
    """Raises InputError if a setting cannot set a field."""
    if name in AXES:
        raise InputError(f"{where}: the grid sets this field; see config.{AXES[name]}")
    if name not in fields:
        hint = nearest_field(name, [*fields, *PER])
        raise InputError(f"{where}: no such field of configs/base.py{hint}")


def fitting(value: Any, default: Any) -> Any:
    """Returns a value as the field's type: 1 becomes 1.0; `query,value` and lists become tuples."""
    if isinstance(default, tuple) and not isinstance(value, tuple):
        if isinstance(value, list):
            return tuple(value)
        return tuple(value.split(",")) if isinstance(value, str) else (value,)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    return str(value) if isinstance(default, str) and isinstance(value, int | float) else value
