"""adapters loads our bottleneck adapters with their head, and we load its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import TEXTS, leaves_of, run_snippet, torch_logits, write_base, write_own

import jaxft

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "houlsby": ("houlsby", {"size": 8, "activation": "relu"}),
    "pfeiffer": ("pfeiffer", {"size": 7, "layers": (1,)}),
    "parallel": ("parallel", {"size": 8, "adapter_scale": 2.5}),
    "compacter": ("compacter", {"size": 8, "phm_dim": 2}),
    "prefix": ("prefix", {"prefix_length": 5}),
}


@pytest.fixture(scope="module", params=["bert", "roberta"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / request.param, request.param)


def adapter_model(directory: Path, base: Path) -> Any:
    """As docs/export.md loads it."""
    return run_snippet("AutoAdapterModel", acl_houlsby=directory, roberta_base=base)["model"]


@pytest.mark.transformers4
@pytest.mark.parametrize("case", CASES)
def test_adapters_gives_our_logits(case: str, base: Path, tmp_path: Path) -> None:
    pytest.importorskip("adapters")
    method, options = CASES[case]
    ours = jaxft.load(write_own(tmp_path / "own", base, method, **options))
    ours.export(tmp_path / "hub", format="adapterhub")
    model = adapter_model(tmp_path / "hub", base)
    theirs = torch_logits(model, tmp_path / "hub")
    np.testing.assert_allclose(theirs, ours.logits(TEXTS), atol=1e-4, rtol=0)
    assert model.get_labels_dict() == dict(enumerate(ours.labels))

    if method == "prefix":
        return  # adapters saves it as a pickle alone
    # What adapters saves again has the same bits.
    model.save_adapter(str(tmp_path / "saved"), "jaxft", use_safetensors=True)
    assert leaves_of(jaxft.load(tmp_path / "saved").run) == leaves_of(ours.run)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_its_files_come_back_to_the_bit(case: str, base: Path, tmp_path: Path) -> None:
    method, options = CASES[case]
    for train_pooler in (True, False):
        options = {**options, "train_pooler": train_pooler}
        own = write_own(tmp_path / f"own{train_pooler}", base, method, **options)
        ours = jaxft.load(own)
        ours.export(tmp_path / f"hub{train_pooler}", format="adapterhub")
        back = jaxft.load(tmp_path / f"hub{train_pooler}")
        assert leaves_of(back.run) == leaves_of(ours.run)
        assert back.labels == ours.labels
