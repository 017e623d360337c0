"""Labels and probabilities for new texts, from a run directory.

    python -m jaxft.predict --run DIR --input FILE.{jsonl,csv,tsv,txt} --output FILE.jsonl

FILE has a column `text`, and `pair` (or `term` and `sentence`) where the run was trained on pairs;
a .txt has a text a line. The output has a line for each input, in order.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxft import cli, wiring
from jaxft.data.encode import encode
from jaxft.data.examples import Columns, Example
from jaxft.data.readers import read_rows, to_examples
from jaxft.errors import InputError
from jaxft.models import trained as trained_files
from jaxft.report.results import predictions
from jaxft.training import loop, mesh
from jaxft.training.compile import eval_program
from jaxft.training.partition import split
from jaxft.training.sharding import param_shardings


def read_examples(path: Path, is_pair: bool) -> tuple[Example, ...]:
    """Returns the texts of a file; labels, if it has any, are not read."""
    if is_pair and path.suffix == ".txt":
        raise InputError(f"{path}: the run wants pairs; expected a file with columns text and pair")
    rows = read_rows(path)
    names = rows[0].fields
    text, pair = ("term", "sentence") if "term" in names else ("text", "pair")
    identity = "id" if "id" in names else ""
    columns = Columns(text=text, pair=pair if is_pair else "", label="", id=identity)
    return to_examples(rows, task="", columns=columns, labels=())


def predict(
    config: ConfigDict,
    trained: dict[str, np.ndarray],
    settings: dict[str, Any],
    examples: tuple[Example, ...],
) -> list[dict[str, Any]]:
    """Returns a row for each example: its text, the label and the probabilities.

    On the run's own test texts the batches, and so the bits, are those of the run.
    """
    parts = wiring.load_parts(config, len(settings["labels"]))
    if wiring.weights_digest(parts.directory) != settings["weights_sha256"]:
        raise InputError(f"{parts.directory}: not the weights that the run was trained on")

    devices = mesh.make_mesh()  # those of this machine, whatever the run was trained on
    shardings = param_shardings(parts.model.shapes, devices)
    everything = {**parts.weights, **trained}
    on_devices = {path: mesh.put(x, shardings[path]) for path, x in everything.items()}
    trained_params, frozen = split(on_devices, parts.model.labels)
    plan = loop.Plan(
        batch_size=0,
        eval_batch_size=settings["eval_batch_size"],
        epochs=0,
        # New texts may be longer than all that the buckets were chosen for.
        buckets=tuple(sorted({*settings["buckets"], settings["max_length"]})),
    )
    run_eval = eval_program(parts.model, devices, plan.eval_batch_size)
    data = encode(parts.tokenizer, examples, settings["labels"], settings["max_length"])
    logits_NxC = loop.logits_of(plan, data, run_eval, trained_params, frozen, devices)
    if not np.isfinite(logits_NxC).all():
        raise InputError("the model gives logits that are not finite; did training diverge?")
    return list(predictions(logits_NxC, examples, settings["labels"]))


def main(argv: list[str]) -> int:
    """Parses the flags, predicts, writes; see the module's docstring."""
    parser = cli.OneLineParser("python -m jaxft.predict", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run directory of jaxft.train")
    parser.add_argument("--input", type=Path, required=True, help="texts: jsonl, csv, tsv or txt")
    parser.add_argument("--output", type=Path, required=True, help="where to write JSON lines")
    args = parser.parse_args(argv[1:])
    if not (args.run / "DONE").exists() and args.run.is_dir():
        raise InputError(f"--run: {args.run} is not finished; its training command continues it")
    if not args.output.parent.is_dir():
        raise InputError(f"--output: no directory {args.output.parent}")
    config = ConfigDict(wiring.read_json(args.run / "config.json"))
    trained, settings = trained_files.load(args.run / wiring.trained_folder(config.method.name))
    examples = read_examples(args.input, settings["pair"])
    rows = predict(config, trained, settings, examples)
    wiring.write_jsonl(args.output, rows)
    print(f"{len(rows)} predictions in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
