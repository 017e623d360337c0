"""The commands of jaxft under one name: `jaxft train ...` is `python -m jaxft.train ...`."""

import importlib
import os
import sys

from jaxft.errors import InputError, check_choice

COMMANDS = {
    "train": "fine-tune an encoder, or continue an interrupted run",
    "predict": "label new texts with a finished run, and score them if they are labelled",
    "export": "write a trained model as files of peft, adapters or transformers",
    "memory": "plan the memory of each method's training step, on this device or on absent ones",
    "sweep": "run a grid of models, tasks, methods and seeds",
    "report": "compare finished runs: tables, tests and plots",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command that the first argument names; returns its exit code."""
    argv = sys.argv if argv is None else argv
    if not argv[1:] or argv[1] in ("-h", "--help"):
        lines = [f"  jaxft {name:<8} {text}" for name, text in COMMANDS.items()]
        print("\n".join(["usage: jaxft COMMAND [--help] ...", "", *lines]))
        return 0
    if argv[1] == "--version":
        from jaxft import __version__

        print(f"jaxft {__version__}")
        return 0
    try:
        name = check_choice(argv[1], COMMANDS, "jaxft")
    except InputError as err:
        print(str(err), file=sys.stderr)
        return 2
    # See jaxft/__init__.py.
    os.environ.setdefault("USE_TORCH", "0")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from jaxft import exits

    command = importlib.import_module(f"jaxft.{name}").main
    # argv[0] is the name in the command's messages and in env.json.
    sys.argv = [name, *argv[2:]]
    return exits.guarded(command, sys.argv)


if __name__ == "__main__":
    sys.exit(main())
