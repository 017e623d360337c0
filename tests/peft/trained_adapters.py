"""Trained adapters as a finished run leaves them, with random numbers in them.

write_adapter(tmp_path / "a", backbone, "pfeiffer", seed=1, size=4)
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxft.models import trained as trained_files
from jaxft.models.backbone import Backbone, Params
from jaxft.training.partition import split
from jaxft.training.state import build_model


def write_adapter(
    directory: Path,
    backbone: Backbone,
    method: str,
    seed: int,
    base: Mapping[str, str] = MappingProxyType({"weights": "w", "config": "c"}),
    **options: Any,
) -> Params:
    """Writes a run's adapter/ and returns its adapters' leaves, of a size that logits notice.

    Args:
      base: the digests of its base model.
    """
    fields = {"size": 8, "activation": "relu", "layers": (), "train_layer_norm": False, **options}
    model = build_model(backbone, [], method, fields)
    rng = np.random.default_rng(seed)
    leaves = {
        path: rng.normal(0, 0.3, x.shape).astype(np.float32)
        for path, x in split(model.shapes, model.labels)[0].items()
    }
    settings = {
        "labels": ["a", "b", "c"],
        "method": {"name": method, **fields},
        "weights_sha256": "w",
        "base_model": {"name": "tiny", "sha256": dict(base)},
    }
    trained_files.save(directory / "adapter", leaves, settings)
    return {path: x for path, x in leaves.items() if "/adapter/" in path}
