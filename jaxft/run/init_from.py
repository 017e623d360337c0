"""A run that starts from the trained leaves of another: `config.init_from`.

parts, start = started(config, parts, labels, objective)
start.sha256, start.note                        # "" without init_from

The method and its shapes must be the same; the output layer is taken if the labels are, too.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxft.errors import InputError
from jaxft.models import trained as trained_files
from jaxft.run import build
from jaxft.run.load import load_run
from jaxft.run.trained_run import TrainedRun
from jaxft.training.objectives import Objective
from jaxft.training.state import saved_shapes


class Start(NamedTuple):
    """Where a run starts.

    Attributes:
      sha256: of the leaves that were taken; empty if none were.
      note: what was taken, a line to print.
    """

    sha256: str = ""
    note: str = ""


def started(
    config: ConfigDict, parts: build.Parts, labels: Sequence[str], objective: Objective
) -> tuple[build.Parts, Start]:
    """Returns the parts with the leaves of `config.init_from` in place of the checkpoint's.

    Raises:
      InputError: that model has another method, base model or shape.
    """
    name = config.get("init_from", "")  # an older run has none
    if not name:
        return parts, Start()
    run = load_run(name, field="init_from")
    check_same_kind(name, run, parts, config)
    is_output = re.compile(parts.model.backbone.family.output).fullmatch
    settings = run.settings
    own_labels = (settings.get("objective", "single_label"), list(settings["labels"]))
    same_labels = own_labels == (objective.name, list(labels))
    taken = {path: x for path, x in run.trained.items() if same_labels or not is_output(path)}
    wanted = {
        path: x
        for path, x in saved_shapes(parts.model, parts.weights).items()
        if same_labels or not is_output(path)
    }
    signatures = [
        {path: trained_files.signature(x) for path, x in leaves.items()}
        for leaves in (taken, wanted)
    ]
    trained_files.check_leaves(run.folder, *signatures)
    fresh = [path for path in parts.newly_initialised if path not in taken]
    head = "its head, too" if same_labels else "but not its output layer: the labels are others"
    note = f"starts from {name}: {len(taken)} trained parameters, {head}"
    begun = replace(parts, weights={**parts.weights, **taken}, newly_initialised=fresh)
    return begun, Start(digest(taken), note)


def check_same_kind(name: str, run: TrainedRun, parts: build.Parts, config: ConfigDict) -> None:
    """Raises InputError unless a model has the method and the base model of this run."""
    theirs, ours = run.config.method.name, config.method.name
    if theirs != ours:
        hint = "; for a whole model, set model.name to its directory" if theirs == "full" else ""
        raise InputError(f"init_from: {name} was trained by {theirs!r}, not by {ours!r}{hint}")
    known = run.settings.get("base_model", {}).get("sha256", {})
    found = build.model_digests(parts.directory)
    # A whole model replaces all of the base model's weights, so its shapes are compared alone.
    compared = () if theirs == "full" else ("weights", "config")
    changed = [part for part in compared if part in known and known[part] != found[part]]
    if changed:
        raise InputError(
            f"init_from: {name} has another base model than {config.model.name}: the "
            f"{' and the '.join(changed)} differ"
        )


def digest(leaves: Mapping[str, Any]) -> str:
    """sha256 over the paths and the bytes of leaves."""
    found = hashlib.sha256()
    for path, x in sorted(leaves.items()):
        found.update(path.encode() + x.tobytes())
    return found.hexdigest()
