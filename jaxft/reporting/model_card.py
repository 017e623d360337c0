"""The model card of a run: a README.md for people and for a hub, from results.json alone.

Path("runs/acl/README.md").write_text(model_card(results, command="python -m jaxft.train ..."))
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxft.models.hub import MINILM_HUB_ID
from jaxft.reporting import tables

# Fields of a config that the card says elsewhere, or that say nothing about training.
ELSEWHERE = ("task", "model.name", "method.name", "seed", "eval_batch_size", "save_every")


def model_card(results: Mapping[str, Any], *, command: str) -> str:
    """Returns the card, Markdown behind a YAML head.

    Args:
      results: what stands in results.json; `config`, where it is there, gives the settings.
      command: the command line that repeats the run.
    """
    sections = [
        front_matter(results),
        introduction(results),
        "## Result\n\n" + result_section(results),
        "## Data\n\n" + data_section(results),
        "## Training\n\n" + training_section(results),
        "## What is frozen, what is trained\n\n" + cost_section(results),
        "## Use\n\n" + use_section(),
        "## Repeat\n\n" + fenced("sh", command),
        "## Limits\n\n" + bullets(limits(results)),
        "## Versions\n\n" + versions_section(results),
    ]
    return "\n\n".join(sections) + "\n"


# ---------------------------------------------------------------- head


def front_matter(results: Mapping[str, Any]) -> str:
    """The YAML that a hub reads; strings are quoted as JSON, which is YAML."""
    test = tables.chosen(results)
    lines = ["library_name: jaxft", "pipeline_tag: text-classification"]
    base = MINILM_HUB_ID if results["model"] == "minilm" else results["model"]
    if is_hub_id(base):
        lines.append(f"base_model: {quoted(base)}")
    tags = ["jaxft", "jax", "text-classification", results["method"], *task_tags(results)]
    lines += ["tags:", *(f"- {quoted(tag)}" for tag in tags)]
    lines += ["metrics:", "- accuracy", "- f1", "model-index:"]
    lines += [f"- name: {quoted(run_name(results))}", "  results:"]
    lines += ["  - task:", "      type: text-classification"]
    name = quoted(tables.dataset_names(results["task"]) + sample_suffix(results))
    lines += ["    dataset:", f"      type: {quoted(results['task'])}", f"      name: {name}"]
    lines += ["      split: test", "    metrics:"]
    for kind, title, key in (("accuracy", "Accuracy", "accuracy"), ("f1", "Macro F1", "macro_f1")):
        value = "null" if test.get(key) is None else f"{test[key]:.4f}"
        lines += [f"    - type: {kind}", f"      name: {title}", f"      value: {value}"]
    return "\n".join(["---", *lines, "---"])


def is_hub_id(model: str) -> bool:
    """Whether a model's name can stand in `base_model`: a directory cannot.

    `mine` or `checkpoints/mine` looks like a hub id, but where the run was made it is there.
    """
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
    return not looks_local and not Path(model).is_dir()


def task_tags(results: Mapping[str, Any]) -> list[str]:
    return [part.strip() for part in results["task"].split(",")]


def run_name(results: Mapping[str, Any]) -> str:
    return f"{results['method']} on {results['model']}, {results['task']}"


def sample_suffix(results: Mapping[str, Any]) -> str:
    return " (bundled sample, not the dataset)" if is_sample(results) else ""


def is_sample(results: Mapping[str, Any]) -> bool:
    return results["data"].get("source") == "sample"


def introduction(results: Mapping[str, Any]) -> str:
    """What it is, in a paragraph, and what would mislead who reads no further."""
    names = tables.dataset_names(results["task"])
    share = tables.percent(results["parameters"]["trained"], results["parameters"]["total"])
    text = (
        f"A text classifier: `{results['model']}` fine-tuned with the method "
        f"`{results['method']}` for {escape(names)}{sample_suffix(results)}, "
        f"{len(results['labels'])} classes. {share} of its parameters were trained. "
        "Written by [jaxft](#versions) from the run's `results.json`."
    )
    alarms = [f"> **{escape(line)}**" for line in tables.warnings(results)]
    if is_sample(results):
        alarms.append(f"> **The data is a bundled sample: not a result about {escape(names)}.**")
    return "\n\n".join([f"# {escape(run_name(results))}", text, *alarms])


# ---------------------------------------------------------------- result and data


def result_section(results: Mapping[str, Any]) -> str:
    """The score table, the table of classes, of tasks if several, and the plots."""
    heads = ("", "accuracy", "macro-F1", "loss", "examples")
    parts = [
        f"{capitalised(tables.epoch_line(results))}.",
        markdown_table(heads, [*tables.score_rows(results), *other_epoch(results)]),
        markdown_table(
            ("class", "precision", "recall", "F1", "support"),
            tables.class_rows(tables.chosen(results)),
        ),
    ]
    if results.get("tasks"):
        heads = ("task", "accuracy", "macro-F1", "majority accuracy", "examples")
        parts.append(markdown_table(heads, tables.task_rows(results["tasks"])))
    parts.append("![Loss, accuracy and macro-F1 by epoch](plots/learning_curves.png)")
    parts.append("![Confusion matrix of the test split](plots/confusion_test.png)")
    return "\n\n".join(parts)


def other_epoch(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for the last epoch's test scores where another epoch is the one reported."""
    last = results["last"]
    if "test" not in last or tables.chosen_epoch(results) == last["epoch"]:
        return []
    scores = [tables.figure(last["test"].get(key)) for key in ("accuracy", "macro_f1", "loss")]
    return [(f"for comparison: test, epoch {last['epoch']}", *scores, tables.count(last["test"]))]


def data_section(results: Mapping[str, Any]) -> str:
    """Where the data is from, and how many examples of each class there are."""
    data, labels = results["data"], results["labels"]
    splits = {name: tables.split_figures(results, name) for name in ("train", "dev", "test")}
    rows = []
    if all("classes" in split for split in splits.values()):
        rows = [(n, *(f"{s['classes'].get(n, 0):,}" for s in splits.values())) for n in labels]
    sizes = [split.get("examples", split.get("size")) for split in splits.values()]
    rows.append(("all", *(tables.NONE if n is None else f"{n:,}" for n in sizes)))
    said = [f"Origin: {escape(data.get('origin', 'unknown'))}."]
    if data.get("notes"):
        said.append(bullets([escape(note) for note in data["notes"]]))
    return "\n\n".join([*said, markdown_table(("examples", *splits), rows), data_doubts(data)])


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


def training_section(results: Mapping[str, Any]) -> str:
    """Seed, epochs and time, then every setting of the config."""
    history, timing = results["history"], results["timing"]
    epochs = results["last"]["epoch"]
    said = [
        f"seed {results['seed']}",
        f"{epochs:,} {'epoch' if epochs == 1 else 'epochs'}, {history[-1]['step']:,} steps",
        f"reported epoch: {tables.chosen_epoch(results)} (`select={results['select']}`)",
        f"train loss in the last epoch: {tables.figure(history[-1]['train_loss'])}",
        *(f"{name}: {text}" for name, text in tables.costs(results)[1:]),
    ]
    if timing.get("padding_fraction") is not None:
        share = 100 * timing["padding_fraction"]
        shapes = timing.get("compiled_shapes")
        said.append(f"{share:.1f}% of the tokens computed are padding; {shapes} shapes compiled")
    settings = results.get("config") or {"method": results.get("method_options", {})}
    rows = [row for row in flat(settings) if row[0] not in ELSEWHERE]
    table = markdown_table(("setting", "value"), [(f"`{k}`", f"`{v}`") for k, v in rows], "--")
    return "\n\n".join([bullets(said), *([table] if rows else [])])


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """`{"optim": {"clip": 1.0}}` -> `[("optim.clip", "1.0")]`; what is empty is left out."""
    rows = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{name}.")
        elif value not in ("", None, [], ()):
            rows.append((f"{prefix}{name}", json.dumps(value, ensure_ascii=False, default=str)))
    return rows


def cost_section(results: Mapping[str, Any]) -> str:
    """The parameter table, with the compiled step's buffers below it."""
    parameters, memory = results["parameters"], results["memory"]
    heads = ("partition", "parameters", "share", "weights", "gradients", "optimizer")
    rows = [
        (
            name,
            f"{count:,}",
            tables.percent(count, parameters["total"]),
            *map(tables.human_bytes, sizes),
        )
        for name, count, sizes in tables.partition_costs(parameters, memory)
    ]
    parts = [markdown_table(heads, rows)]
    compiled = memory.get("compiled")
    if compiled:
        cells = [(name, tables.human_bytes(size)) for name, size in compiled.items()]
        runs = results["timing"].get("seeds_together", 1)
        of = f", of the {runs} runs that trained together" if runs > 1 else ""
        parts += [
            f"Buffers of one compiled training step at its longest input{of}, by XLA. "
            "`temporaries` are activations and gradients; `peak` is all of them less the "
            "`aliased`, which reuse a donated argument's memory:",
            markdown_table(("buffers", "bytes"), cells),
        ]
    return "\n\n".join(parts)


def use_section() -> str:
    """How to predict with it; the card lies in the run directory."""
    line = "python -m jaxft.predict --run DIR --input FILE.jsonl --output OUT.jsonl"
    return f"`DIR` is the directory this card lies in.\n\n{fenced('sh', line)}"


# ---------------------------------------------------------------- limits and versions


def limits(results: Mapping[str, Any]) -> list[str]:
    """What the scores do not show, in order of weight."""
    lines = [escape(line) for line in tables.warnings(results)]
    names = escape(tables.dataset_names(results["task"]))
    if is_sample(results):
        lines.append(f"The data is a bundled sample made for trying jaxft out, not {names}.")
    test = tables.chosen(results)
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


def below_majority(test: Mapping[str, Any]) -> list[str]:
    """A line if predicting one class throughout scores as high."""
    share = test.get("majority_accuracy")
    accuracy = test.get("accuracy")
    if share is None or test.get("collapsed") or accuracy is None or accuracy > share:
        return []
    return ["Its accuracy is no higher than that of predicting the majority class throughout."]


def unseen_limit(results: Mapping[str, Any], test: Mapping[str, Any]) -> list[str]:
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
        else f"without them its macro-F1 is {tables.figure(unseen)}, not "
        f"{tables.figure(test['macro_f1'])}"
    )
    total = f"{test['examples']:,}" if test.get("examples") else "the"
    where = tables.unseen_in(data).replace(", ", " or ")
    return [f"{repeated:,} of {total} test texts also occur in {where}; {ending}."]


def versions_section(results: Mapping[str, Any]) -> str:
    """Packages and what they ran on."""
    rows = [(name, str(version)) for name, version in results["versions"].items()]
    rows.append(("device", str(results["memory"].get("device", "unknown"))))
    return markdown_table(("package", "version"), rows, "--")


# ---------------------------------------------------------------- Markdown


def markdown_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], alignment: str = "--:"
) -> str:
    """A table: the first column to the left, the others by `alignment`."""
    rules = ["--", *[alignment] * (len(heads) - 1)]
    lines = [heads, rules, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def fenced(language: str, code: str) -> str:
    """A code block whose fence is longer than any run of backticks in the code."""
    fence = "```"
    while fence in code:
        fence += "`"
    return f"{fence}{language}\n{code.strip()}\n{fence}"


def escape(text: str) -> str:
    """One line that neither ends a table's cell nor opens a tag."""
    line = " ".join(text.split()).replace("|", "\\|")
    # Inside `code` an entity would show as it is written, and a tag opens nothing.
    is_code = len(line) > 1 and line[0] == line[-1] == "`" and "`" not in line[1:-1]
    return line if is_code else line.replace("<", "&lt;").replace("`", "\\`")


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def capitalised(text: str) -> str:
    """Only the first letter: str.capitalize would lower the rest."""
    return text[:1].upper() + text[1:]
