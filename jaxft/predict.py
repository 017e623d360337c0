"""Predicts labels and probabilities of new texts with a finished run, and scores labelled ones.

    python -m jaxft.predict --run DIR --input FILE.{jsonl,csv,tsv,txt,parquet} --output FILE.jsonl
                            [--label COLUMN|none] [--scores FILE.json] [--plugins MODULES]
                            [--base MODEL]

DIR is a run directory of jaxft.train, an export (python -m jaxft.export), files of peft, AdapterHub
or transformers for a sequence classifier, or the hub id of one.

FILE has the columns that the run was trained with, or a column `text`, and `pair` (or `term` and
`sentence`) if it was trained on pairs. A .txt has one text per line; blank lines count. The output
has a line for each input, in order. If FILE also has the column of labels, the predictions are
scored: the scores are printed, and written next to the output as FILE.scores.json.
"""

import sys
from pathlib import Path
from typing import Any

from jaxft import cli, plugins
from jaxft.errors import InputError
from jaxft.io import write_json, write_jsonl
from jaxft.reporting import tables
from jaxft.run import process
from jaxft.run.classifier import Classifier
from jaxft.run.inputs import read_examples
from jaxft.run.load import load_run
from jaxft.run.scores import predictions


def main(argv: list[str]) -> int:
    """Parses the flags, predicts, scores, writes; see the module's docstring."""
    process.keep_heap()
    process.keep_programs()
    args = parse(argv)
    plugins.load([args.plugins])
    run = load_run(args.run, args.base)
    limit = run.settings["max_length"]
    examples = read_examples(args.input, run.settings, args.label)
    classifier = Classifier(run)
    logits_NxC, data = classifier.logits_of(examples)
    is_cut = (data.lengths > limit).tolist()
    found = predictions(logits_NxC, examples, classifier.labels, classifier.objective)
    rows = [
        row | ({"truncated": True} if cut else {}) for row, cut in zip(found, is_cut, strict=True)
    ]
    write_jsonl(args.output, rows)
    print(f"{len(rows)} predictions in {args.output}")
    if any(is_cut):
        print(f"note: {sum(is_cut)} of {len(rows)} texts were cut at {limit} tokens")
    blank = sum(not example.text.strip() for example in examples)
    if blank:
        print(f"note: {blank} of {len(rows)} lines are blank; each has its prediction")
    if examples[0].is_labelled:
        scores = classifier.scores(logits_NxC, data.labels)
        path = args.scores or args.output.with_suffix(".scores.json")
        write_json(path, {"run": str(args.run), "input": str(args.input), **scores})
        print("\n" + score_table(classifier, scores) + f"\n\nscores: {path}")
    return 0


def score_table(classifier: Classifier, scores: dict[str, Any]) -> str:
    """Returns the table of the scores, with the baseline's."""
    objective, baseline = classifier.objective, classifier.baseline()
    name = objective.baseline_name(baseline, classifier.labels) if baseline else "majority (class)"
    return tables.score_table(scores, classifier.labels, name, objective.shown_metrics())


def parse(argv: list[str]) -> Any:
    """Returns the flags, checked."""
    parser = cli.OneLineParser("python -m jaxft.predict", description=__doc__)
    parser.add_argument(
        "--run", required=True, help="run directory, export, or files of another library"
    )
    parser.add_argument("--base", default="", help="base model of an adapter of another library")
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        help="texts: jsonl, json, csv, tsv, txt, or .gz of it; parquet",
    )
    parser.add_argument("--output", type=Path, required=True, help="where to write JSON lines")
    parser.add_argument("--label", default="", help="column of the labels; none: do not score")
    parser.add_argument("--scores", type=Path, help="where to write the scores")
    parser.add_argument(
        "--plugins", default="", help="modules of your own that the run's method or model needs"
    )
    args = parser.parse_args(argv[1:])
    for name in ("output", "scores"):
        path = getattr(args, name)
        if path and not path.parent.is_dir():
            raise InputError(f"--{name}: no directory {path.parent}")
        if path and path.is_dir():
            raise InputError(f"--{name}: {path} is a directory; expected a file")
    return args


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
