"""The changed functions of Orbax's modules answer as the original ones do, and leak nothing."""

import sys
from pathlib import Path
from types import FunctionType
from typing import Any

from orbax.checkpoint._src.serialization import tensorstore_utils

from jaxft.training.private_orbax import avoid_leaks


def built(build: Any, directory: str) -> dict[str, Any]:
    return build(directory, "params.kernel")


def test_the_place_of_an_array_is_the_same_and_finding_it_leaks_nothing(tmp_path: Path) -> None:
    avoid_leaks()
    changed = tensorstore_utils._build_ocdbt_kvstore_tspec
    original = FunctionType(
        changed.__code__, vars(tensorstore_utils), "original", changed.__defaults__
    )
    original.__kwdefaults__ = changed.__kwdefaults__
    for directory in (str(tmp_path), f"{tmp_path}/", "gs://bucket/run"):
        assert built(changed, directory) == built(original, directory)
    assert built(changed, str(tmp_path))["manifest"] == {"driver": "file", "path": f"{tmp_path}/"}

    grown = {}
    for name, build in {"changed": changed, "original": original}.items():
        built(build, str(tmp_path))
        before = sys.getallocatedblocks()  # of Python's own allocator
        for _ in range(1000):
            built(build, str(tmp_path))
        grown[name] = sys.getallocatedblocks() - before
    assert grown["changed"] < 100, grown
    # If this fails, TensorStore has mended the leak, and avoid_leaks can go.
    assert grown["original"] > 1000, grown
