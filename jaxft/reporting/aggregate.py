"""Run directories, sorted into groups: runs that differ in nothing but the seed.

    finished, unfinished = find([Path("runs")])
    groups, notes = make_groups([read_run(directory) for directory in finished])

A group is a task, a model, a method, and a variant: the other fields of the config that differ
between the groups of that method. Everything is read from results.json and env.json; no config is
executed.
"""

import json
import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxft.errors import InputError
from jaxft.reporting.added_fields import ADDED
from jaxft.reporting.facts import is_diverged
from jaxft.reporting.schema import Run, RunResults, flat

# The order of methods in a report; any others follow by name. It is not read from the registry in
# jaxft.peft, because that loads JAX.
METHOD_ORDER = (
    *("full", "head", "bitfit", "layernorm", "lora", "dora", "vera", "ia3"),
    *("houlsby", "pfeiffer", "parallel", "compacter", "fusion", "prefix"),
)

# Fields of a config in which two runs of one group may differ: the seed, the places of files (the
# fingerprints in env.json show whether the data are the same), and fields that change no score.
FREE = {
    *("seed", "seeds", "optim.learning_rates", "together", "data.dir", "data.source", "plugins"),
    *("eval_batch_size", "save_every", "mesh.seeds", "mesh.data", "mesh.fsdp", "mesh.tensor"),
}

# The fields of `method` that a built-in method reads (`jaxft.peft.method.Options`); others do not
# distinguish its groups. Of a method that is not here, every field does.
EVERY = {"name", "train_pooler", "layers", "unfreeze"}
LORA = {
    *("rank", "alpha", "dropout", "targets", "rank_stabilized", "rank_pattern", "alpha_pattern"),
    *("lora_init", "lr_ratio"),
}
BOTTLENECK = {"size", "activation", "train_layer_norm"}
READ = {
    **dict.fromkeys(("full", "head", "bitfit", "layernorm", "ia3"), EVERY),
    **dict.fromkeys(("lora", "dora"), EVERY | LORA),
    "vera": EVERY | {"vera_rank", "vera_seed", "dropout", "targets"},
    **dict.fromkeys(("houlsby", "pfeiffer"), EVERY | BOTTLENECK),
    "parallel": EVERY | BOTTLENECK | {"adapter_scale"},
    "compacter": EVERY | BOTTLENECK | {"phm_dim"},
    "fusion": EVERY | {"adapters", "dropout"},
    "prefix": EVERY | {"prefix_length"},
}

# Fields that an older jaxft did not write, with the values that they had in effect.
NEWER = {
    **ADDED,
    "objective": "single_label",
    "metric": "macro_f1",
    # transformers' Flax classes, with one dropout mask of attention for a whole batch.
    "model.implementation": "transformers",
    **{f"data.splits.{split}": "" for split in ("train", "dev", "test")},
    "data.label_separator": "",
}

# Digests in env.json of the data and the weights of a run, the most precise first; an
# older jaxft wrote only the last one.
ORIGINS = {
    "data": ("splits_sha256", "data_sha256"),
    "weights": ("model_sha256", "weights_sha256"),
}

# Names of fields that are too long for a table.
SHORT = {"learning_rate": "lr", "batch_size": "batch", "max_length": "length"}

# The fields of results.json that a repeated run reproduces to the bit; times and bytes differ.
REPEATED = ("test", "test_unseen", "dev", "last", "history")


@dataclass(frozen=True)
class RunGroup:
    """The runs of one setting, by seed.

    Attributes:
      model: only the last part of the path if it is a directory.
      variant: `rank 16, lr 0.0003`; empty if the method has one group only.
      runs: those that have a result.
      diverged: those whose loss or logits became NaN or infinite; their figures are not used.
    """

    task: str
    model: str
    method: str
    variant: str
    runs: tuple[Run, ...]
    diverged: tuple[Run, ...] = ()

    @property
    def all_runs(self) -> tuple[Run, ...]:
        """All runs, for facts that do not depend on their scores."""
        return (*self.runs, *self.diverged)

    @property
    def label(self) -> str:
        """`lora (rank 16)`."""
        return f"{self.method} ({self.variant})" if self.variant else self.method

    @property
    def first(self) -> RunResults:
        """The results of the lowest seed, for facts that all runs of the group share."""
        return self.all_runs[0].results


# ---------------------------------------------------------------- directories


def find(directories: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Returns the run directories at or below `directories`, finished and unfinished, by path.

    Raises:
      InputError: a directory is missing or cannot be read.
    """
    found: dict[Path, Path] = {}  # a directory given twice, or through a link, counts once
    for top in directories:
        if not top.is_dir():
            raise InputError(f"{top}: no such directory")
        for folder, below, files in os.walk(top, onerror=refuse):
            if is_run(files):
                below.clear()
                found.setdefault(Path(folder).resolve(), Path(folder))
    paths = sorted(found.values())
    return [p for p in paths if is_finished(p)], [p for p in paths if not is_finished(p)]


def refuse(error: OSError) -> None:
    """Raises InputError: a folder that cannot be read may hold runs."""
    raise InputError(f"{error.filename}: {error.strerror}") from error


def is_run(files: Sequence[str]) -> bool:
    """Whether these are the files of a run; a checkpoint's folder has a config.json, too."""
    return "results.json" in files or {"config.json", "env.json"} <= set(files)


def is_finished(directory: Path) -> bool:
    """Whether a run is finished; DONE is the last file that it writes."""
    return (directory / "DONE").exists()


# ---------------------------------------------------------------- groups


def make_groups(runs: Sequence[Run]) -> tuple[list[RunGroup], list[str]]:
    """Returns the groups, by task, model, method and variant, and notes on runs left out.

    The order of `runs` changes nothing.

    Raises:
      InputError: one group holds different data or weights, or a seed twice with different scores;
        or the groups of a task have different test sets.
    """
    runs = sorted(runs, key=lambda run: str(run.directory))
    by_key: dict[Hashable, list[Run]] = {}
    for run in runs:
        by_key.setdefault(group_key(run), []).append(run)
    for same in by_key.values():
        check_same_origin(same)
    kept, notes = {}, check_test_sets(runs)
    for key, same in by_key.items():
        kept[key], left_out = without_repeats(same)
        notes += left_out
    variants = variant_names(kept)
    models = short_names({run.results["model"] for run in runs})
    groups = []
    for key, members in kept.items():
        first = members[0].results
        model = models[first["model"]]
        sound = tuple(run for run in members if not is_diverged(run.results))
        lost = tuple(run for run in members if is_diverged(run.results))
        groups.append(RunGroup(first["task"], model, first["method"], variants[key], sound, lost))
    return sorted(groups, key=order), notes


def settings(results: RunResults) -> dict[str, Any]:
    """The fields of a run's config that determine its group, by their dotted names."""
    fields = flat(results["config"])
    read = READ.get(results["method"])
    # Of no plugin's option is it known whether the method reads it.
    known = set().union(*READ.values())
    unread = set() if read is None else {f"method.{name}" for name in known - read}
    # Those that an older jaxft did not write; "auto" is the same as what it chose.
    fields |= {name: x for name, x in NEWER.items() if name not in fields}
    fields |= {name: results.get(name, NEWER[name]) for name in ("objective", "metric")}
    return {name: x for name, x in fields.items() if name not in FREE | unread}


def group_key(run: Run) -> Hashable:
    """The key that all runs of a group share."""
    results = run.results
    fields = json.dumps(settings(results), sort_keys=True)
    return results["task"], results["model"], results["method"], fields


def check_same_origin(runs: Sequence[Run]) -> None:
    """Raises InputError if runs of a group were made from different data or weights."""
    for what, names in ORIGINS.items():
        first = runs[0]
        for run in runs[1:]:
            if differ(first, run, names):
                raise InputError(
                    f"{first.directory} and {run.directory} are of one setting, but their {what} "
                    "differ; report them apart"
                )


def differ(one: Run, other: Run, names: Sequence[str]) -> bool:
    """Whether two runs differ in the first of these digests that both have."""
    first: Mapping[str, Any] = one.env
    second: Mapping[str, Any] = other.env
    known = [name for name in names if name in first and name in second]
    return bool(known) and first[known[0]] != second[known[0]]


def origin(run: Run, what: str) -> str:
    """A run's most precise digest of its data or its model, as text."""
    env: Mapping[str, Any] = run.env
    name = next(name for name in ORIGINS[what] if name in env)
    return json.dumps(env[name], sort_keys=True)


def check_test_sets(runs: Sequence[Run]) -> list[str]:
    """Raises InputError if runs of a task are known to be tested on different texts.

    Returns:
      notes on tasks for which this is unknown: their runs differ in some data, and runs of an older
      jaxft do not record in which split.
    """
    seen: dict[str, Run] = {}
    unknown: dict[str, None] = {}
    for run in runs:
        task = run.results["task"]
        first = seen.setdefault(task, run)
        if test_differs(first, run):
            raise InputError(
                f"{first.directory} and {run.directory} are both of {task}, but their test "
                "sets differ; report them apart"
            )
        is_told = "splits_sha256" in first.env and "splits_sha256" in run.env
        if not is_told and first.env["data_sha256"] != run.env["data_sha256"]:
            unknown[task] = None
    return [
        f"{task}: its runs were trained on different data, and not all of them say whether their "
        "test texts are the same; the numbers of each class are"
        for task in unknown
    ]


def test_differs(one: Run, other: Run) -> bool:
    """Whether two runs were tested on different texts or labels, or numbers of each class."""
    if "splits_sha256" in one.env and "splits_sha256" in other.env:
        return one.env["splits_sha256"]["test"] != other.env["splits_sha256"]["test"]
    supports = support(one), support(other)
    return all(supports) and supports[0] != supports[1]  # empty if unknown


def support(run: Run) -> dict[str, int]:
    """Test examples of each class."""
    test = run.results["data"].get("splits", {}).get("test", {})
    if "classes" in test:
        return test["classes"]
    return {n: row["support"] for n, row in run.results["test"].get("per_class", {}).items()}


def repeated_part(run: Run) -> list[Any]:
    """The fields of results.json in which a repeated run does not differ."""
    results: Mapping[str, Any] = run.results
    return [results[name] for name in REPEATED]


def without_repeats(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Returns a group's runs by seed, each seed once, and a note for each run left out.

    Raises:
      InputError: two runs of a seed have different scores.
    """
    kept: dict[int, Run] = {}
    notes = []
    for run in runs:
        other = kept.setdefault(run.seed, run)
        if other is run:
            continue
        if repeated_part(run) != repeated_part(other):
            raise InputError(
                f"{other.directory} and {run.directory} are of one setting and seed, but their "
                "scores differ; leave one of them out"
            )
        notes.append(f"{run.directory} repeats {other.directory} and is left out")
    return [kept[seed] for seed in sorted(kept)], notes


# ---------------------------------------------------------------- names


def variant_names(members: Mapping[Hashable, Sequence[Run]]) -> dict[Hashable, str]:
    """Returns for each group the fields that distinguish it within its task, model and method."""
    families: dict[tuple[str, ...], list[Hashable]] = {}
    for key, runs in members.items():
        run = runs[0].results
        families.setdefault((run["task"], run["model"], run["method"]), []).append(key)
    names = {}
    for keys in families.values():
        fields = {key: settings(members[key][0].results) for key in keys}
        differing = [name for name in next(iter(fields.values())) if is_varied(name, fields)]
        # A field that only some configs have: an older jaxft wrote the others.
        differing += sorted({n for f in fields.values() for n in f} - set(fields[keys[0]]))
        for key in keys:
            parts = [f"{short(n, differing)} {shown(fields[key].get(n))}" for n in differing]
            names[key] = ", ".join(parts)
    return names


def is_varied(name: str, fields: Mapping[Hashable, Mapping[str, Any]]) -> bool:
    """Whether a field has several values."""
    return len({json.dumps(values.get(name)) for values in fields.values()}) > 1


def short(name: str, names: Sequence[str]) -> str:
    """`method.rank` -> `rank`, unless another field has the same last name."""
    last = [n.rpartition(".")[2] for n in (name, *names)]
    return SHORT.get(last[0], last[0]) if last.count(last[0]) == 2 else name


def shown(value: Any) -> str:
    """A value in a name: `0.0003`, `query+value`, `none`."""
    if isinstance(value, list):
        return "+".join(map(str, value)) or "all"
    return "none" if value in (None, "") else str(value)


def short_names(models: Iterable[str]) -> dict[str, str]:
    """Returns the last part of each directory if it is unique, and hub ids as they are.

    short_names(["/data/roberta", "allenai/scibert"])
    # {"/data/roberta": "roberta", "allenai/scibert": "allenai/scibert"}
    """
    names = {m: Path(m).name if m.startswith((".", "/", "~")) else m for m in models}
    taken = list(names.values())
    return {model: name if taken.count(name) == 1 else model for model, name in names.items()}


def order(group: RunGroup) -> tuple[Any, ...]:
    """The sort key: methods in the order of METHOD_ORDER, numbers in names by their size."""
    place = len(METHOD_ORDER)
    if group.method in METHOD_ORDER:
        place = METHOD_ORDER.index(group.method)
    numbers = tuple(float(x) for x in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", group.variant))
    return group.task, group.model, place, group.method, numbers, group.variant


def one_model(groups: Sequence[RunGroup]) -> bool:
    """Whether all groups are of one model."""
    return len({group.model for group in groups}) == 1


def name_of(group: RunGroup, groups: Sequence[RunGroup]) -> str:
    """The group's label, after its model if there are several."""
    return group.label if one_model(groups) else f"{group.model}: {group.label}"
