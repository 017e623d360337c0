"""The model card of a run: a README.md for people and for a hub, from results.json alone.

Path("runs/acl/README.md").write_text(model_card(results, command="python -m jaxft.train ..."))
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from huggingface_hub import EvalResult, ModelCardData

from jaxft.models.hub import MINILM_HUB_ID
from jaxft.reporting import facts, tables
from jaxft.reporting.formats import (
    capitalised,
    figure,
    percent,
)
from jaxft.reporting.markup import bullets, escape_markdown, escaped_bullets, fenced
from jaxft.reporting.schema import RunResults, Scores, flat
from jaxft.reporting.table import Entry, Table, bytes_entry, name_entry, number_entry, of_texts

# Fields of a config that the card says elsewhere, or that say nothing about training.
ELSEWHERE = ("task", "model.name", "method.name", "seed", "eval_batch_size", "save_every")


def model_card(results: Mapping[str, Any], *, command: str) -> str:
    """Returns the card, Markdown after a YAML head.

    Args:
      results: the content of results.json; its `config`, if there is one, gives the settings.
      command: the command line that repeats the run.
    """
    run = cast(RunResults, results)
    sections = [
        front_matter(run),
        introduction(run),
        "## Result\n\n" + result_section(run),
        "## Data\n\n" + data_section(run),
        "## Training\n\n" + training_section(run),
        "## What is frozen, what is trained\n\n" + cost_section(run),
        "## Use\n\n" + use_section(run),
        "## Repeat\n\n" + fenced("sh", command),
        "## Limits\n\n" + bullets(limits(run)),
        "## Versions\n\n" + versions_section(run),
    ]
    return "\n\n".join(sections) + "\n"


# ---------------------------------------------------------------- head


def front_matter(results: RunResults) -> str:
    """The YAML that a hub reads."""
    base = MINILM_HUB_ID if results["model"] == "minilm" else results["model"]
    data = ModelCardData(
        library_name="jaxft",
        pipeline_tag="text-classification",
        base_model=base if is_hub_id(base) else None,
        tags=["jaxft", "jax", "text-classification", results["method"], *task_tags(results)],
        metrics=["accuracy", "f1"],
        model_name=run_name(results),
        eval_results=evaluations(results) or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def evaluations(results: RunResults) -> list[EvalResult]:
    """The scores on test; a run that diverged has none."""
    test = results["test"]
    metrics = (("accuracy", "Accuracy", test["accuracy"]), ("f1", "Macro F1", test["macro_f1"]))
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=results["task"],
            dataset_name=facts.dataset_names(results["task"]) + sample_suffix(results),
            dataset_split="test",
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for kind, name, value in metrics
        if value is not None
    ]


def is_hub_id(model: str) -> bool:
    """Whether a model's name is valid as `base_model`, which a directory is not.

    `mine` or `checkpoints/mine` looks like a hub id, but where the run was made it is there.
    """
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
    return not looks_local and not Path(model).is_dir()


def task_tags(results: RunResults) -> list[str]:
    return [part.strip() for part in results["task"].split(",")]


def run_name(results: RunResults) -> str:
    return f"{results['method']} on {results['model']}, {results['task']}"


def sample_suffix(results: RunResults) -> str:
    return " (bundled sample, not the dataset)" if facts.is_sample(results) else ""


def introduction(results: RunResults) -> str:
    """The model in a paragraph, and warnings for a reader who stops here."""
    names = facts.dataset_names(results["task"])
    share = percent(results["parameters"]["trained"], results["parameters"]["total"])
    text = (
        f"A text classifier: `{results['model']}` fine-tuned with the method "
        f"`{results['method']}` for {escape_markdown(names)}{sample_suffix(results)}, "
        f"{len(results['labels'])} classes. {share} of its parameters were trained. "
        "Written by [jaxft](#versions) from the run's `results.json`."
    )
    alarms = [f"> **{escape_markdown(line)}**" for line in facts.warnings(results)]
    if facts.is_sample(results):
        alarms.append(
            f"> **The data is a bundled sample: not a result about {escape_markdown(names)}.**"
        )
    return "\n\n".join([f"# {escape_markdown(run_name(results))}", text, *alarms])


# ---------------------------------------------------------------- result and data


def result_section(results: RunResults) -> str:
    """The score table, the table of classes, of tasks if several, and the plots."""
    scores = tables.split_table(results)
    scores = replace(scores, rows=[*scores.rows, *other_epoch(results)])
    parts = [
        f"{capitalised(tables.epoch_line(results))}.",
        scores.markdown(),
        tables.class_table(results["test"]).markdown(),
    ]
    if results.get("tasks"):
        parts.append(tables.task_table(results["tasks"], "majority accuracy").markdown())
    parts.append("![Loss, accuracy and macro-F1 by epoch](plots/learning_curves.png)")
    parts.append("![Confusion matrix of the test split](plots/confusion_test.png)")
    return "\n\n".join(parts)


def other_epoch(results: RunResults) -> list[tuple[Entry, ...]]:
    """A row for the last epoch's test scores if another epoch is reported."""
    last = results["last"]
    if "test" not in last or results["selected_epoch"] == last["epoch"]:
        return []
    return [tables.score_row(f"for comparison: test, epoch {last['epoch']}", last["test"])]


def data_section(results: RunResults) -> str:
    """The origin of the data, and how many examples of each class there are."""
    data, labels = results["data"], results["labels"]
    splits = {name: facts.split_figures(results, name) for name in ("train", "dev", "test")}
    rows = []
    if all("classes" in split for split in splits.values()):
        rows = [(n, *(split["classes"].get(n, 0) for split in splits.values())) for n in labels]
    sizes = [split.get("examples", split.get("size")) for split in splits.values()]
    entries = [
        (name_entry(n), *map(number_entry, counts)) for n, *counts in [*rows, ("all", *sizes)]
    ]
    parts = [f"Origin: {escape_markdown(data.get('origin', 'unknown'))}."]
    if data.get("notes"):
        parts.append(escaped_bullets(data["notes"]))
    counts = Table(("examples", *splits), entries)
    return "\n\n".join([*parts, counts.markdown(), data_doubts(data)])


def data_doubts(data: Mapping[str, Any]) -> str:
    """Repeats and cuts, as far as the data report counts them."""
    counted = [
        ("train examples that repeat an earlier text", data.get("train_duplicates")),
        ("train texts that carry several labels", data.get("train_conflicts")),
        ("dev texts that also occur in train", data.get("dev_in_train")),
        ("of those, under another label", data.get("dev_in_train_other_label")),
        ("test texts that also occur in train", data.get("test_in_train")),
        ("of those, under another label", data.get("test_in_train_other_label")),
        ("test texts that also occur in dev", data.get("test_in_dev")),
        ("of those, under another label", data.get("test_in_dev_other_label")),
    ]
    for split, figures in data.get("splits", {}).items():
        what = f"{split} texts cut off at {data.get('max_length')} tokens"
        counted.append((what, figures.get("truncated")))
    return bullets([f"{what}: {n:,}" for what, n in counted if n is not None])


# ---------------------------------------------------------------- training and cost


def training_section(results: RunResults) -> str:
    """Seed, epochs and time, then every setting of the config."""
    history, timing = results["history"], results["timing"]
    epochs = results["last"]["epoch"]
    lines = [
        f"seed {results['seed']}",
        f"{epochs:,} {'epoch' if epochs == 1 else 'epochs'}, {history[-1]['step']:,} steps",
        f"reported epoch: {results['selected_epoch']} (`select={results['select']}`)",
        f"train loss in the last epoch: {figure(history[-1]['train_loss'])}",
        *(f"{name}: {text}" for name, text in tables.costs(results)[1:]),
    ]
    padding = timing.get("padding_fraction")
    if padding is not None:
        share = 100 * padding
        shapes = timing.get("compiled_shapes")
        lines.append(f"{share:.1f}% of the tokens computed are padding; {shapes} shapes compiled")
    settings = results.get("config") or {"method": results.get("method_options", {})}
    rows = [(f"`{k}`", f"`{v}`") for k, v in set_fields(settings) if k not in ELSEWHERE]
    table = of_texts(("setting", "value"), rows, left=True).markdown()
    return "\n\n".join([bullets(lines), *([table] if rows else [])])


def set_fields(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """`{"optim": {"clip": 1.0}}` -> `[("optim.clip", "1.0")]`; empty fields are left out."""
    return [
        (name, json.dumps(value, ensure_ascii=False, default=str))
        for name, value in flat(settings).items()
        if value not in ("", None, [], ())
    ]


def cost_section(results: RunResults) -> str:
    """The parameter table, with the compiled step's buffers below it."""
    memory = results["memory"]
    parts = [tables.partition_table(results["parameters"], memory).markdown()]
    compiled = memory.get("compiled")
    if compiled:
        buffers: Mapping[str, Any] = compiled
        rows = [(name_entry(name), bytes_entry(size)) for name, size in buffers.items()]
        runs = facts.runs_together(results)
        of = f", of the {runs} runs that trained together" if runs > 1 else ""
        parts += [
            f"Buffers of one compiled training step at its longest input{of}, by XLA. "
            "`temporaries` are activations and gradients; `peak` is all of them less the "
            "`aliased`, which reuse a donated argument's memory:",
            Table(("buffers", "bytes"), rows).markdown(),
        ]
    return "\n\n".join(parts)


def use_section(results: RunResults) -> str:
    """How to predict with it; the card is in the run directory."""
    line = "python -m jaxft.predict --run DIR --input FILE.jsonl --output OUT.jsonl"
    plugins = (results.get("config") or {}).get("plugins")
    line += f" --plugins={','.join(plugins)}" if plugins else ""
    return f"`DIR` is the directory of this card.\n\n{fenced('sh', line)}"


# ---------------------------------------------------------------- limits and versions


def limits(results: RunResults) -> list[str]:
    """The limits of the scores, in order of weight."""
    lines = [escape_markdown(line) for line in facts.warnings(results)]
    names = escape_markdown(facts.dataset_names(results["task"]))
    if facts.is_sample(results):
        lines.append(f"The data is a bundled sample made for trying jaxft out, not {names}.")
    test = results["test"]
    lines += below_majority(test) + unseen_limit(results, test)
    lines.append(
        f"One seed ({results['seed']}) only: no spread. Another seed gives other scores, and a "
        "difference to another run may be no more than that."
    )
    if results["select"] == "best":
        lines.append(
            "The epoch was chosen on dev, so the dev scores are higher than those to expect; the "
            "test split was not used to choose."
        )
    lines.append(
        "It knows its classes only, and gives one of them to any text, whatever its language or "
        "subject. It was not examined for bias or for misuse."
    )
    return lines


def below_majority(test: Scores) -> list[str]:
    """A line if predicting one class throughout scores as high."""
    share = test.get("majority_accuracy")
    accuracy = test.get("accuracy")
    if share is None or test.get("collapsed") or accuracy is None or accuracy > share:
        return []
    return ["Its accuracy is no higher than that of predicting the majority class throughout."]


def unseen_limit(results: RunResults, test: Scores) -> list[str]:
    """A line if the test split shares texts with train or dev."""
    data = results["data"]
    seen = test.get("examples") and test["examples"] - results["test_unseen"].get("examples", 0)
    repeated = seen if "test_in_dev" in data else data.get("test_in_train")
    if not repeated:
        return []
    unseen = results["test_unseen"].get("macro_f1")
    ending = (
        "no test text is left without them"
        if unseen is None
        else f"without them its macro-F1 is {figure(unseen)}, not {figure(test['macro_f1'])}"
    )
    total = f"{test['examples']:,}" if test.get("examples") else "the"
    where = facts.unseen_in(data).replace(", ", " or ")
    return [f"{repeated:,} of {total} test texts also occur in {where}; {ending}."]


def versions_section(results: RunResults) -> str:
    """The packages and the device."""
    rows = [(name, str(version)) for name, version in results.get("versions", {}).items()]
    rows.append(("device", str(results["memory"].get("device", "unknown"))))
    return of_texts(("package", "version"), rows, left=True).markdown()
