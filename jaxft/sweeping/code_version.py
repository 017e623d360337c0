"""The version of the code that computed a run's figures.

    code_version()      # {"jaxft": "0.1.0", "sha256": "5e0c...", "commit": "624d11e" or None}

The sha256 covers the syntax of the modules that handle data, weights, training and memory figures.
Comments, docstrings and layout do not count, nor do plots, reports and the sweep: a change that
cannot affect results must not invalidate days of finished runs. Loaded plugins count as well.
"""

import hashlib
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jaxft import plugins
from jaxft.syntax import digest_files

ROOT = Path(__file__).parents[1]  # the package jaxft
# The modules of the package that compute the figures in results.json.
COUNTED = tuple(
    f"{package}/**/*.py" for package in ("run", "data", "models", "peft", "planning", "training")
)


def code_version(root: Path = ROOT) -> dict[str, Any]:
    """Returns the release, the sha256 of the counted modules, and git's commit or None."""
    own, added = digest_files(root, COUNTED), plugins.source_digest()
    return {
        "jaxft": version("jaxft"),
        "sha256": hashlib.sha256((own + added).encode()).hexdigest() if added else own,
        "commit": commit(root),
    }


def commit(root: Path) -> str | None:
    """Returns git's commit, with a plus if files have changed since; None outside a repository."""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
