"""The rows that `jaxft memory MODEL` has planned before, found without importing JAX.

    asked = question("roberta-base", ["--config.method.rank=4"], "t4", {"method": "lora"})
    write(asked, rows)
    read(asked)                           # the rows; None if they are not known

A plan is kept by the job that it is of (`jaxft.planning.plan_cache`); to make the jobs takes JAX
and some seconds. An answer is kept by all that the jobs are made of instead: the command's
settings, the model's files, jaxft's code, the versions and the environment's variables. Where a
setting reads something else, such as data, plugins or the present devices, there is no question.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from jaxft.data.sources import cache_dir
from jaxft.errors import InputError
from jaxft.io import keep_text
from jaxft.models.architectures import ARCHITECTURES
from jaxft.planning import compilers, targets
from jaxft.reporting.schema import PlanRow

# Settings whose values are all that they mean.
PLAIN = re.compile(
    r"--?config\.((method|optim|mesh|model|memory)\.\w+|batch_size|data\.max_length|seeds)=.*"
)
NOT_PLAIN = re.compile(
    r"--?config\.(model\.name|method\.adapters|memory\.(targets|devices|steps|estimates))=.*"
)
# Variables of the environment that a plan may depend on; those that only name places are left out.
VARIABLES = ("JAX_", "JAXFT_", "FLAX_", "XLA_", "LIBTPU_", "TPU_")
PLACES = ("JAXFT_CACHE", "JAXFT_DATA", "JAXFT_PLAN_PYTHON", "JAX_COMPILATION_CACHE_DIR")
WEIGHTS = ("*.safetensors", "*.msgpack", "*.index.json")
PACKAGE = Path(__file__).parents[1]
CONFIGS = (PACKAGE / "configs", PACKAGE.parent / "configs")  # installed, or in a clone


def question(
    model: str, settings: Sequence[str], target: str, asked: Mapping[str, Any]
) -> str | None:
    """Returns a digest of all that decides the rows; None if that cannot be known without JAX.

    Args:
      model: as `config.model.name` takes it.
      settings: flags of the config, as `--config.method.rank=4`.
      target: devices; none of them may be a present one.
      asked: what else the command was asked for, ready for JSON.
    """
    known = all(PLAIN.fullmatch(x) and not NOT_PLAIN.fullmatch(x) for x in settings)
    if not known or not is_own(Path("configs/base.py")) or os.environ.get("JAXFT_PLUGINS"):
        return None
    described, platforms = description(model), platforms_of(target)
    if described is None or not platforms:
        return None
    content = {
        "model": [model, described],
        "settings": list(settings),  # the last one of a field counts
        "target": target,
        "asked": dict(asked),
        "code": code_digest(),
        "versions": {platform: versions_for(platform) for platform in sorted(platforms)},
        "environment": variables(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_own(config: Path) -> bool:
    """Whether a config's name means jaxft's own file, and not one in the current directory."""
    own = [folder / config.name for folder in CONFIGS]
    return not config.is_file() or any(file.is_file() and file.samefile(config) for file in own)


def platforms_of(target: str) -> set[str]:
    """Returns the platforms of absent devices; none if one is present or not known."""
    try:
        found = {one.platform for one in targets.parse_all(target)} if target else set()
    except InputError:
        return set()
    return set() if "here" in found else found


def description(model: str) -> Any:
    """Returns what identifies a model's shapes; None for one of the hub, which may change."""
    if model in ARCHITECTURES or model == "minilm":  # part of jaxft's code; its files are pinned
        return ""
    try:
        path = Path(model).expanduser()
        config = path / "config.json" if path.is_dir() else path
        if not config.is_file():
            return None
    except (OSError, ValueError, RuntimeError):  # no name of a file
        return None
    # The headers of weights beside a config.json are read as well (`jaxft.run.build.read_model`).
    beside = config.parent if config.name == "config.json" else None
    files = sorted(f for kind in WEIGHTS for f in beside.glob(kind)) if beside else []
    sizes = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return [config.read_text("utf-8", errors="replace"), sizes]


def versions_for(platform: str) -> dict[str, str]:
    """Returns the versions of the packages that compile for a platform."""
    with compilers.findable(platform):
        return compilers.versions()


def variables() -> dict[str, str]:
    """Returns the environment's variables that a plan may depend on."""
    found = {name: x for name, x in os.environ.items() if name.startswith(VARIABLES)}
    return {name: x for name, x in found.items() if name not in PLACES}


def code_digest() -> str:
    """sha256 over jaxft's files and configs, byte by byte: that is quicker than parsing them."""
    total = hashlib.sha256()
    for root in (PACKAGE, *(folder for folder in CONFIGS if folder.is_dir())):
        for path in sorted(root.rglob("*.py")):
            total.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return total.hexdigest()


def file_of(key: str) -> Path:
    return cache_dir() / "plans" / "answers" / f"{key}.json"


def read(key: str | None) -> list[PlanRow] | None:
    """Returns the rows of a question that was answered before, each with `cached`."""
    try:
        rows = json.loads(file_of(key).read_text("utf-8")) if key else []
    except (OSError, ValueError):
        return None
    return cast(list[PlanRow], [{**row, "cached": True} for row in rows]) or None


def write(key: str | None, rows: Sequence[PlanRow]) -> None:
    """Keeps the rows of a question."""
    if key:
        keep_text(file_of(key), json.dumps(list(rows)) + "\n")
