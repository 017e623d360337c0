"""Adapters that peft and adapters themselves made load, and give the logits that torch gave."""

import json
from pathlib import Path

import numpy as np
import pytest
from exported import leaves_of, write_base

import jaxft

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "fixtures" / "adapters"
METHODS = {"peft_lora": "lora", "peft_dora": "dora", "adapters_pfeiffer": "pfeiffer"}


@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_of_another_library_gives_its_logits(name: str, tmp_path: Path) -> None:
    directory = FOLDER / name
    expected = json.loads((directory / "expected.json").read_text())
    base = write_base(tmp_path / "base", expected["base"])
    classifier = jaxft.load(directory, base=str(base))
    assert classifier.run.config.method.name == METHODS[name]
    logits = classifier.logits(expected["texts"])
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4, rtol=0)
    assert classifier.labels == (
        ("a", "b", "c") if name.startswith("adapters") else ("LABEL_0", "LABEL_1", "LABEL_2")
    )

    # There and back.
    kind = "adapterhub" if name.startswith("adapters") else "peft"
    classifier.export(tmp_path / "out", format=kind)
    assert leaves_of(jaxft.load(tmp_path / "out").run) == leaves_of(classifier.run)
