"""Writes a trained model as files of another library, and pushes them to the hub if asked to.

    python -m jaxft.export DIR --format=peft|adapterhub|transformers|jaxft --output DIR
                           [--push_to_hub=ORG/NAME] [--base MODEL] [--plugins MODULES]

DIR is a finished run, or anything else that `jaxft.load` takes. The output is a new directory with
weights, config, labels, tokenizer and a model card. What a format cannot represent is refused; the
page export.md has a table of methods and formats.
"""

import sys
from pathlib import Path
from typing import Any

from jaxft import cli, plugins
from jaxft.run.export import FORMATS, export, push
from jaxft.run.load import load_run
from jaxft.run.trained_run import plugins_named


def main(argv: list[str]) -> int:
    """Parses the flags and writes the export; see the module's docstring."""
    args = parse(argv)
    plugins.load([args.plugins])
    run = load_run(args.run, args.base, "DIR")
    with plugins_named(run.settings):
        export(run, args.format, args.output)
    print(f"{run.config.method.name} as {args.format} in {args.output}")
    if args.push_to_hub:
        print(f"pushed to {push(args.output, args.push_to_hub)}")
    return 0


def parse(argv: list[str]) -> Any:
    """Returns the flags."""
    parser = cli.OneLineParser("python -m jaxft.export", description=__doc__)
    parser.add_argument("run", metavar="DIR", help="run directory, or what else jaxft.load takes")
    parser.add_argument("--format", required=True, help=" | ".join(FORMATS))
    parser.add_argument("--output", type=Path, required=True, help="a new directory")
    parser.add_argument("--push_to_hub", default="", help="upload it as ORG/NAME")
    parser.add_argument("--base", default="", help="base model of an adapter of another library")
    parser.add_argument(
        "--plugins", default="", help="modules of your own that the run's method or model needs"
    )
    return parser.parse_args(argv[1:])


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
