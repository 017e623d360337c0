"""Opens hostile files under an audit hook, and prints what was opened and executed, as JSON.

    python tests/audited.py DIRECTORY OUTPUT       # of test_nobody_let_in.py

An audit hook (PEP 578) cannot be removed, so this is a process of its own. Two passes are made: the
first imports what is imported when it is first needed; the second is recorded.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxft
from jaxft import cli, export, predict, report, train
from jaxft.data.examples import Columns
from jaxft.data.readers import read_file
from jaxft.data.tasks.semeval import read_semeval_xml
from jaxft.errors import InputError
from jaxft.reporting import sealed

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty")
CALLS = ("socket.connect", "socket.getaddrinfo", "socket.bind", "ctypes.dlopen", "marshal.loads")

events: list[list[str]] = []
recording = False


def hook(name: str, args: tuple[Any, ...]) -> None:
    """Notes an event that may let somebody in."""
    if not recording:
        return
    if name == "open":
        path, mode, flags = args
        is_write = bool(flags & WRITES) if isinstance(flags, int) else "r" not in str(mode)
        events.append(
            [
                "write" if is_write else "read",
                os.fsdecode(path) if not isinstance(path, int) else "",
            ]
        )
    elif name == "exec":
        events.append(["exec", args[0].co_filename])
    elif name == "compile":
        events.append(["compile", str(args[1])])
    elif (
        name.startswith("pickle.")
        or name in (*STARTS, *CALLS)
        or name in ("os.remove", "os.rename", "shutil.rmtree")
    ):
        events.append([name, str(args)[:200]])
    elif name == "import":
        events.append(["import", str(args[0])])


def attempts(directory: Path, output: Path) -> dict[str, Callable[[], Any]]:
    """What is tried with each hostile file, by its name in the directory."""

    def command(module: Any, *arguments: str) -> Callable[[], Any]:
        name = module.__name__.rpartition(".")[2]
        return lambda: cli.guarded(module.main, [name, *arguments])

    def read(path: Path) -> Any:
        if path.suffix == ".xml":
            return read_semeval_xml(path, task="t", labels=("positive",))
        return read_file(path, task="t", columns=Columns(), labels=())

    found: dict[str, Callable[[], Any]] = {}
    for path in sorted((directory / "data").iterdir()):
        found[f"data/{path.name}"] = lambda path=path: read(path)
    for path in sorted((directory / "models").iterdir()):
        found[f"models/{path.name}"] = command(
            train,
            *("--config=acl_lora", "--config.data.source=sample", "--config.data.max_length=16"),
            *(f"--config.model.name={path}", "--dry_run", f"--workdir={output / 'run'}"),
        )
    for path in sorted((directory / "trained").iterdir()):
        found[f"load {path.name}"] = lambda path=path: jaxft.load(path)
        found[f"predict {path.name}"] = command(
            predict,
            f"--run={path}",
            f"--input={directory / 'in.txt'}",
            f"--output={output / 'x.jsonl'}",
        )
        found[f"export {path.name}"] = command(
            export, str(path), "--format=peft", f"--output={output / path.name}"
        )
        found[f"report {path.name}"] = command(report, str(path), f"--output={output / 'report'}")
        found[f"sealed {path.name}"] = lambda path=path: sealed.changed(path)
    return found


def main() -> None:
    """Tries everything twice, and prints the events of the second time by attempt."""
    global recording
    directory, output = map(Path, sys.argv[1:])
    sys.addaudithook(hook)
    noted: dict[str, Any] = {}
    for last in (False, True):
        for name, attempt in attempts(directory, output).items():
            events.clear()
            recording = last
            with contextlib.redirect_stdout(sys.stderr):
                try:
                    result = attempt()
                    ended = f"exit code {result}" if isinstance(result, int) else "read"
                except InputError:
                    ended = "refused"
            recording = False
            noted[name] = {"ended": ended, "events": list(events)}
    print(json.dumps(noted))


if __name__ == "__main__":
    main()
