"""Plugins: modules of your own that add methods, families, metrics and tasks; imported by name.

    load(["my_method"])                  # imports my_method.py, which calls a register function
    words("my_method, my_task")          # ["my_method", "my_task"]

A name comes from the user: a command, a config, a Python call or $JAXFT_PLUGINS. Never from a run
directory, which is data: reading one must not run code.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from jaxft.errors import InputError
from jaxft.syntax import digest

VARIABLE = "JAXFT_PLUGINS"
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_loaded: list[str] = []


def words(text: str) -> list[str]:
    """Returns the names in `a,b`, and in `('a', 'b')`, which config flags take as well."""
    parts = [part.strip(" ()[]'\"") for part in text.split(",")]
    return [part for part in parts if part]


def load(names: Iterable[str] = ()) -> None:
    """Imports the modules of $JAXFT_PLUGINS and these, each once.

    The current directory is searched last, so that `jaxft train` finds the same modules as
    `python -m jaxft.train`.

    Raises:
      InputError: there is no such module, or it failed.
    """
    wanted = [*words(os.environ.get(VARIABLE, "")), *(w for name in names for w in words(name))]
    here = str(Path.cwd())
    if wanted and here not in sys.path:
        sys.path.append(here)
    for name in wanted:
        if name not in _loaded:
            load_one(name)
            _loaded.append(name)


def load_one(name: str) -> None:
    """Imports one module."""
    expected = "expected a module's name such as my_package.my_method"
    if not MODULE.fullmatch(name):
        raise InputError(f"plugins: {name!r}; {expected}")
    try:
        if find_spec(name) is None:
            raise ModuleNotFoundError(name=name)
        importlib.import_module(name)
    except InputError:
        raise
    except Exception as err:
        # The module is the user's Python: it may raise anything.
        parents = [name[: dot.start()] for dot in re.finditer(r"\.|$", name)]
        if isinstance(err, ModuleNotFoundError) and err.name in parents:
            place = "in the current directory, on $PYTHONPATH or installed"
            raise InputError(f"plugins: no module {name!r}; {expected}, {place}") from err
        raise InputError(f"plugins: {name} failed: {type(err).__name__}: {err}") from err


def loaded() -> tuple[str, ...]:
    """Returns the names that were loaded, for another process to load them, too."""
    return tuple(_loaded)


def source_digest() -> str:
    """sha256 of the loaded modules' sources, without comments; "" if none is loaded.

    Cached plans and cells of a sweep depend on it. Of a package, all its modules count.
    """
    files = [path for name in sorted(_loaded) for path in sources(name)]
    return digest((path.name, path.read_text("utf-8")) for path in files) if files else ""


def sources(name: str) -> list[Path]:
    """Returns the Python files of a loaded module."""
    file = sys.modules[name].__file__
    path = Path(file) if file else Path()
    return sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
