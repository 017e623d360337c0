"""The sha256 of Python sources without their comments, docstrings and layout.

digest_files(root, ["training/*.py", "data/*.py"])      # "5e0c..."
"""

import ast
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

DIGEST_LENGTH = 64  # characters of a sha256
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def digest_files(root: Path, patterns: Iterable[str]) -> str:
    """Returns the `digest` of the files below `root` that the glob patterns name."""
    files = named_files(root, patterns)
    return digest((str(path.relative_to(root)), path.read_text("utf-8")) for path in files)


def digest_bytes(root: Path, patterns: Iterable[str]) -> str:
    """Returns the sha256 of the same files as they are, which takes a tenth of the time."""
    total = hashlib.sha256()
    for path in named_files(root, patterns):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root)} {content}\n".encode())
    return total.hexdigest()


def named_files(root: Path, patterns: Iterable[str]) -> list[Path]:
    """Returns the files below `root` that the glob patterns name, in order."""
    return sorted({path for pattern in patterns for path in root.glob(pattern)})


def digest(sources: Iterable[tuple[str, str]]) -> str:
    """sha256 over `(name, source)` pairs, comments, docstrings and layout left out."""
    total = hashlib.sha256()
    for name, source in sources:
        total.update(f"{name}\n{plain(source)}\n".encode())
    return total.hexdigest()


@lru_cache(maxsize=512)  # all modules take half a second, and every run of a process asks
def plain(source: str) -> str:
    """A module's source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
