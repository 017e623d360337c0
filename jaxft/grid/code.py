"""The version of the code that a run's figures come from.

    code_version()      # {"jaxft": "0.1.0", "sha256": "5e0c...", "commit": "624d11e" or None}

The sha256 is over the syntax of the modules that data, weights and training go through. Comments,
docstrings and layout do not count, nor do plots, reports, the planner and the sweep itself: what
cannot change a figure must not repeat a grid of days.
"""

import ast
import hashlib
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]  # the package jaxft
# Of the package: what a figure in results.json is computed by.
COUNTED = (
    *("train.py", "wiring.py", "report/results.py"),
    *("data/*.py", "models/*.py", "peft/*.py", "training/*.py"),
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_version(root: Path = ROOT) -> dict[str, Any]:
    """Returns the release, the sha256 of what counts, and git's commit where there is one."""
    files = sorted({path for pattern in COUNTED for path in root.glob(pattern)})
    return {
        "jaxft": version("jaxft"),
        "sha256": digest((str(path.relative_to(root)), path.read_text("utf-8")) for path in files),
        "commit": commit(root),
    }


def digest(sources: Iterable[tuple[str, str]]) -> str:
    """sha256 over what `(name, source)` pairs say to Python."""
    total = hashlib.sha256()
    for name, source in sources:
        total.update(f"{name}\n{plain(source)}\n".encode())
    return total.hexdigest()


def plain(source: str) -> str:
    """A module's source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def commit(root: Path) -> str | None:
    """Returns git's commit, with a plus if files have changed since; None outside a repository."""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
