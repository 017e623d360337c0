"""Labels and probabilities for new texts, and scores where they are labelled, from a run directory.

    python -m jaxft.predict --run DIR --input FILE.{jsonl,csv,tsv,txt,parquet} --output FILE.jsonl
                            [--label COLUMN|none] [--scores FILE.json]

FILE has the columns that the run was trained with, or a column `text`, and `pair` (or `term` and
`sentence`) where it was trained on pairs; a .txt has a text a line, blank lines included. The
output has a line for each input, in order. If FILE has the labels' column too, the predictions are
scored: the table is printed, and written beside the output as FILE.scores.json.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxft import cli
from jaxft.data.encode import Encoded, encode
from jaxft.data.examples import Columns, Example
from jaxft.data.readers import Row, read_decoded, read_rows, suffix_of, to_examples
from jaxft.errors import InputError
from jaxft.io import read_json, write_json, write_jsonl
from jaxft.models import trained as trained_files
from jaxft.reporting import tables
from jaxft.run import build
from jaxft.run.results import predictions
from jaxft.training import loop, mesh
from jaxft.training.metrics import score
from jaxft.training.partition import split
from jaxft.training.programs import eval_program
from jaxft.training.sharding import param_shardings


@dataclass(frozen=True)
class TrainedRun:
    """What a run left to predict with.

    Attributes:
      folder: where the trained leaves are.
      config: `model`, `method` and `data.max_length`, as the run had them.
      settings: of `jaxft.models.trained`.
    """

    folder: Path
    config: ConfigDict
    trained: dict[str, np.ndarray]
    settings: dict[str, Any]


def load_run(run: Path) -> TrainedRun:
    """Returns what a finished run left.

    Raises:
      InputError: the run is missing or not finished, or its files are not what was saved.
    """
    if not run.is_dir():
        raise InputError(f"--run: no directory {run}")
    if not (run / "DONE").exists():
        raise InputError(f"--run: {run} is not finished; its training command continues it")
    folders = [run / name for name in ("adapter", "model") if (run / name).is_dir()]
    if not folders:
        raise InputError(f"--run: {run} has neither adapter/ nor model/; is it a run?")
    trained, settings = trained_files.load(folders[0])
    if "base_model" not in settings:  # written by an older jaxft
        config = ConfigDict(read_json(run / "config.json"))
    else:
        model = {name: x for name, x in settings["base_model"].items() if name != "sha256"}
        data = {"max_length": settings["max_length"]}
        config = ConfigDict({"model": model, "method": settings["method"], "data": data})
    return TrainedRun(folders[0], config, trained, settings)


def load_parts(run: TrainedRun) -> build.Parts:
    """Returns the run's model, and the weights of the backbone that it was trained on.

    Raises:
      InputError: the backbone is not the one that the run was trained on.
    """
    labels, settings = run.settings["labels"], run.settings
    if (run.folder / "config.json").is_file():  # a whole model
        return build.load_parts(run.config, labels, run.folder, trained=True)
    parts = build.load_parts(run.config, labels)
    known = settings.get("base_model", {}).get("sha256", {"weights": settings["weights_sha256"]})
    digests = build.model_digests(parts.directory)
    changed = [name for name, digest in known.items() if digests[name] != digest]
    if changed:
        raise InputError(
            f"{parts.directory}: not the model that the run was trained on: "
            f"{' and '.join(changed)} changed since"
        )
    return parts


def predict(run: TrainedRun, examples: Sequence[Example]) -> tuple[np.ndarray, Encoded]:
    """Returns logits_NxC (float32) of texts, and the texts as token ids.

    On the run's own test texts the batches, and so the bits, are those of the run.

    Raises:
      InputError: the trained parameters do not fit the model, or a logit is not finite.
    """
    settings, parts = run.settings, load_parts(run)
    model, devices = parts.model, mesh.make_mesh()  # of this machine, whatever trained the run
    wanted = {path: model.shapes[path] for path in model.shapes if path not in parts.weights}
    wanted |= split(model.shapes, model.labels)[0]
    signatures = [
        {path: trained_files.signature(x) for path, x in leaves.items()}
        for leaves in (run.trained, wanted)
    ]
    trained_files.check_leaves(run.folder / trained_files.LEAVES, *signatures)

    shardings = param_shardings(model.axes, model.shapes, devices)
    everything = {**parts.weights, **run.trained}
    on_devices = {path: mesh.put(x, shardings[path]) for path, x in everything.items()}
    trained_params, frozen = split(on_devices, model.labels)
    plan = loop.Plan(
        batch_size=0,
        eval_batch_size=settings["eval_batch_size"],
        epochs=0,
        # New texts may be longer than all that the buckets were chosen for.
        buckets=tuple(sorted({*settings["buckets"], settings["max_length"]})),
    )
    run_eval = eval_program(model, devices, plan.eval_batch_size)
    data = encode(parts.tokenizer, examples, settings["labels"], settings["max_length"])
    logits_NxC = loop.logits_of(plan, data, run_eval, trained_params, frozen, devices)
    if not np.isfinite(logits_NxC).all():
        raise InputError("the model gives logits that are not finite; did training diverge?")
    return logits_NxC, data


# ---------------------------------------------------------------- what to predict


def read_examples(path: Path, settings: dict[str, Any], label: str) -> tuple[Example, ...]:
    """Returns the texts of a file, with their labels if it has a column of them.

    Args:
      settings: of the run: whether it takes pairs, what its columns were called, its labels.
      label: the labels' column; "" for the run's own, if the file has it; "none" reads no labels.

    Raises:
      InputError: naming file and line.
    """
    if suffix_of(path) == ".txt":
        if settings["pair"]:
            raise InputError(f"{path}: the run takes pairs; expected a file with two text columns")
        return lines_of(path)
    rows = read_rows(path)
    columns = choose_columns(path, rows[0], settings, label)
    return to_examples(rows, task="", columns=columns, labels=settings["labels"])


def lines_of(path: Path) -> tuple[Example, ...]:
    """Returns an example a line, blank ones too: line i of the output belongs to line i."""
    lines = read_decoded(path).removesuffix("\n").split("\n")
    examples = []
    for number, line in enumerate(lines, 1):
        where = f"{path.name}:{number}"
        examples.append(Example(where, line.removesuffix("\r"), None, "", "", where))
    return tuple(examples)


def choose_columns(path: Path, first: Row, settings: dict[str, Any], label: str) -> Columns:
    """Returns which columns of a file hold the text (and pair), the labels and the ids.

    The run's own names come first, then `text` and `pair`, and for pairs `term` and `sentence`.
    """
    own = settings.get("columns", {})
    candidates = [(own.get("text", "text"), own.get("pair", "")), ("text", "pair")]
    if settings["pair"]:
        candidates.append(("term", "sentence"))
    else:
        candidates = [(text, "") for text, _ in candidates]
    names = first.fields
    fit = [pair for pair in candidates if all(name in names for name in pair if name)]
    fit = [pair for pair in fit if bool(pair[1]) == settings["pair"]]
    if not fit:
        wanted = " or ".join(dict.fromkeys(" and ".join(filter(None, c)) for c in candidates))
        has = ", ".join(map(str, names)) or "no field at all"
        raise InputError(f"{path}:{first.line}: no column {wanted}; it has {has}")
    if label and label != "none" and label not in names:
        raise InputError(f"--label: {path} has no column {label!r}; it has {', '.join(names)}")
    known = label or own.get("label", "label")
    return Columns(
        text=fit[0][0],
        pair=fit[0][1],
        label=known if known in names and label != "none" else "",
        id="id" if "id" in names else "",
    )


# ---------------------------------------------------------------- results


def make_scores(
    logits_NxC: np.ndarray, labels_N: np.ndarray, settings: dict[str, Any]
) -> dict[str, Any]:
    """Returns the scores of labelled texts, as results.json has those of the test split."""
    labels = settings["labels"]
    majority = labels.index(settings["majority"]) if "majority" in settings else 0
    found = score(logits_NxC, labels_N, labels, majority)
    if "majority" not in settings:  # an older jaxft did not write which class that is
        found["majority_accuracy"] = None
    return found


def main(argv: list[str]) -> int:
    """Parses the flags, predicts, scores, writes; see the module's docstring."""
    args = parse(argv)
    run = load_run(args.run)
    examples = read_examples(args.input, run.settings, args.label)
    logits_NxC, data = predict(run, examples)
    is_cut = (data.lengths > run.settings["max_length"]).tolist()
    rows = [
        {**row, **({"truncated": True} if cut else {})}
        for row, cut in zip(
            predictions(logits_NxC, examples, run.settings["labels"]), is_cut, strict=True
        )
    ]
    write_jsonl(args.output, rows)
    print(f"{len(rows)} predictions in {args.output}")
    if any(is_cut):
        limit = run.settings["max_length"]
        print(f"note: {sum(is_cut)} of {len(rows)} texts were cut at {limit} tokens")
    blank = sum(not example.text.strip() for example in examples)
    if blank:
        print(f"note: {blank} of {len(rows)} lines are blank; each has its prediction")
    if examples[0].label:
        scores = make_scores(logits_NxC, data.labels, run.settings)
        path = args.scores or args.output.with_suffix(".scores.json")
        write_json(path, {"run": str(args.run), "input": str(args.input), **scores})
        print("\n" + tables.score_table(scores, run.settings) + f"\n\nscores: {path}")
    return 0


def parse(argv: list[str]) -> Any:
    """Returns the flags, checked."""
    parser = cli.OneLineParser("python -m jaxft.predict", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run directory of jaxft.train")
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        help="texts: jsonl, json, csv, tsv, txt, or .gz of it; parquet",
    )
    parser.add_argument("--output", type=Path, required=True, help="where to write JSON lines")
    parser.add_argument("--label", default="", help="column of the labels; none: do not score")
    parser.add_argument("--scores", type=Path, help="where to write the scores")
    args = parser.parse_args(argv[1:])
    for name in ("output", "scores"):
        path = getattr(args, name)
        if path and not path.parent.is_dir():
            raise InputError(f"--{name}: no directory {path.parent}")
    return args


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
