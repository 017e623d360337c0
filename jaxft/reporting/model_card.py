"""The model card of a run: a README.md for people and for a hub, from results.json alone.

Path("runs/acl/README.md").write_text(model_card(results, command="python -m jaxft.train ..."))
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from huggingface_hub import EvalResult, ModelCardData

from jaxft.models.hub import MINILM_HUB_ID
from jaxft.reporting import facts, tables
from jaxft.reporting.formats import (
    capitalised,
    figure,
    percent,
)
from jaxft.reporting.markup import bullets, escape_markdown, escaped_bullets, fenced
from jaxft.reporting.schema import RunResults, flat
from jaxft.reporting.score_schema import Scores
from jaxft.reporting.table import (
    Entry,
    Table,
    bytes_entry,
    figure_entry,
    name_entry,
    number_entry,
    of_texts,
)
from jaxft.training.objectives import SINGLE_LABEL

# Fields of a config that the card shows elsewhere, or that do not concern training.
ELSEWHERE = ("task", "model.name", "method.name", "seed", "eval_batch_size", "save_every")


class Published(NamedTuple):
    """The library that reads a model's files.

    Attributes:
      library: its name on the hub.
      tags: of the library on the hub.
      use: the section on how to use it, Markdown; empty for the one of a run directory.
    """

    library: str = "jaxft"
    tags: tuple[str, ...] = ("jax",)
    use: str = ""


BY_JAXFT = Published()


def model_card(results: Mapping[str, Any], *, command: str, published: Published = BY_JAXFT) -> str:
    """Returns the card, Markdown after a YAML head.

    Args:
      results: the content of results.json; its `config`, if there is one, gives the settings.
      command: the command line that repeats the run.
    """
    run = cast(RunResults, results)
    sections = [
        front_matter(run, published),
        introduction(run),
        "## Result\n\n" + result_section(run),
        "## Data\n\n" + data_section(run),
        "## Training\n\n" + training_section(run),
        "## What is frozen, what is trained\n\n" + cost_section(run),
        "## Use\n\n" + (published.use or use_section(run)),
        "## Repeat\n\n" + fenced("sh", command),
        "## Limits\n\n" + bullets(limits(run)),
        "## Versions\n\n" + versions_section(run),
    ]
    return "\n\n".join(sections) + "\n"


# ---------------------------------------------------------------- head


def front_matter(results: RunResults, published: Published) -> str:
    """The YAML that a hub reads."""
    base = MINILM_HUB_ID if results["model"] == "minilm" else results["model"]
    data = ModelCardData(
        library_name=published.library,
        pipeline_tag="text-classification",
        base_model=base if is_hub_id(base) else None,
        tags=[
            *("jaxft", *published.tags, "text-classification"),
            *(results["method"], *task_tags(results)),
        ],
        metrics=hub_metrics(results),
        model_name=run_name(results),
        eval_results=evaluations(results) or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def evaluations(results: RunResults) -> list[EvalResult]:
    """The scores on test; a run that diverged has none."""
    test, shown = results["test"], facts.shown_metrics(results)
    metrics = [(*m.hub, facts.figure_of(test, name)) for name, m in shown.items() if m.hub[0]]
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


def hub_metrics(results: RunResults) -> list[str]:
    """The ids of the scores on a hub, each once."""
    shown = facts.shown_metrics(results).values()
    return list(dict.fromkeys(metric.hub[0] for metric in shown if metric.hub[0]))


def is_hub_id(model: str) -> bool:
    """Whether a model's name is valid as `base_model`, which a directory is not.

    A directory `mine` or `checkpoints/mine` looks like a hub id too, so the disk is checked.
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
    classes = f", {len(results['labels'])} classes" if results["labels"] else ""
    text = (
        f"{results.get('description', SINGLE_LABEL.description)}: `{results['model']}` fine-tuned "
        f"with the method `{results['method']}` for {escape_markdown(names)}"
        f"{sample_suffix(results)}{classes}. {share} of its parameters were trained. "
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
    scores, has_classes = tables.split_table(results), "per_class" in results["test"]
    scores = replace(scores, rows=[*scores.rows, *other_epoch(results)])
    parts = [
        f"{capitalised(tables.epoch_line(results))}.",
        scores.markdown(),
        *([tables.class_table(results["test"]).markdown()] if has_classes else []),
    ]
    if results.get("tasks"):
        parts.append(tables.task_table(results["tasks"], "majority accuracy").markdown())
    shares = [m.title for m in facts.shown_metrics(results).values() if m.is_share]
    drawn = " and ".join([", ".join(["Loss", *shares[:-1]]), *shares[-1:]])
    parts.append(f"![{drawn} by epoch](plots/learning_curves.png)")
    figure = facts.picture_of(results)
    if figure:
        parts.append(f"![{figure[1]}](plots/{figure[0]})")
    return "\n\n".join(parts)


def other_epoch(results: RunResults) -> list[tuple[Entry, ...]]:
    """A row for the last epoch's test scores if another epoch is reported."""
    last = results["last"]
    if "test" not in last or results["selected_epoch"] == last["epoch"]:
        return []
    name, metrics = f"for comparison: test, epoch {last['epoch']}", facts.shown_metrics(results)
    return [tables.score_row(name, last["test"], metrics)]


def data_section(results: RunResults) -> str:
    """The origin of the data, and how many examples of each class there are."""
    data, labels = results["data"], results["labels"]
    splits = {name: facts.split_figures(results, name) for name in ("train", "dev", "test")}
    rows = []
    if all("classes" in split for split in splits.values()):
        rows = [(n, *(split["classes"].get(n, 0) for split in splits.values())) for n in labels]
    if all("no_class" in split for split in splits.values()):
        rows.append(("none of them", *(split["no_class"] for split in splits.values())))
    sizes = [split.get("examples", split.get("size")) for split in splits.values()]
    entries = [
        (name_entry(n), *map(number_entry, counts)) for n, *counts in [*rows, ("all", *sizes)]
    ]
    parts = [f"Origin: {escape_markdown(data.get('origin', 'unknown'))}."]
    if data.get("notes"):
        parts.append(escaped_bullets(data["notes"]))
    counts = Table(("examples", *splits), [*entries, *value_rows(list(splits.values()))])
    return "\n\n".join([*parts, counts.markdown(), data_doubts(data)])


def value_rows(splits: Sequence[Mapping[str, Any]]) -> list[tuple[Entry, ...]]:
    """The range of the numbers in each split, where labels are numbers."""
    values = [split.get("values", {}) for split in splits]
    if not any(values):
        return []
    return [
        (name_entry(f"{name} number"), *(figure_entry(own.get(name)) for own in values))
        for name in ("lowest", "mean", "highest")
    ]


def data_doubts(data: Mapping[str, Any]) -> str:
    """Duplicates, overlaps and truncation, as far as the data report counts them."""
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
    lines += below_baseline(results, test) + unseen_limit(results, test)
    lines.append(
        f"One seed ({results['seed']}) only: no spread. Another seed gives other scores, and a "
        "difference to another run may be no more than that."
    )
    if results["select"] == "best":
        lines.append(
            "The epoch was chosen on dev, so the dev scores are optimistic; the "
            "test split was not used to choose."
        )
    limit = results.get("limit", SINGLE_LABEL.limit)
    lines.append(f"{limit} It was not examined for bias or misuse.")
    return lines


def below_baseline(results: RunResults, test: Scores) -> list[str]:
    """A line if a prediction without a model is as good."""
    if "baseline" in test:
        loss, floor = test.get("loss"), test["baseline"].get("loss")
        if loss is None or floor is None or loss < floor:
            return []
        name = escape_markdown(facts.baseline_name(results))
        return [f"Its loss is no lower than that of predicting the same throughout: {name}."]
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
    name = facts.main_metric(results)
    title = facts.metric_title(results, name)
    unseen, whole = facts.figure_of(results["test_unseen"], name), facts.figure_of(test, name)
    ending = (
        "no test text is left without them"
        if unseen is None
        else f"without them its {title} is {figure(unseen)}, not {figure(whole)}"
    )
    total = f"{test['examples']:,}" if test.get("examples") else "the"
    where = facts.unseen_in(data).replace(", ", " or ")
    return [f"{repeated:,} of {total} test texts also occur in {where}; {ending}."]


def versions_section(results: RunResults) -> str:
    """The packages and the device."""
    rows = [(name, str(version)) for name, version in results.get("versions", {}).items()]
    rows.append(("device", str(results["memory"].get("device", "unknown"))))
    return of_texts(("package", "version"), rows, left=True).markdown()
