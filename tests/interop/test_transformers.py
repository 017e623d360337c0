"""transformers loads our whole and merged models without a missing or unexpected parameter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import LABELS, TEXTS, leaves_of, torch_logits, write_base, write_own

import jaxft

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "full": ("bert", "full", "single_label", {}),
    "head": ("roberta", "head", "multi_label", {}),
    "bitfit": ("bert", "bitfit", "regression", {"train_pooler": False}),
    "lora, merged": ("roberta", "lora", "single_label", {"rank": 2, "targets": ("all-linear",)}),
    "dora, merged": ("bert", "dora", "single_label", {"rank": 2}),
    "pissa, merged": ("bert", "lora", "single_label", {"rank": 2, "lora_init": "pissa"}),
    "vera, merged": ("bert", "vera", "single_label", {"vera_rank": 4}),
    "ia3, merged": ("roberta", "ia3", "single_label", {}),
    "layernorm": ("distilbert", "layernorm", "single_label", {}),
    "lora, merged, of another family": ("distilbert", "lora", "single_label", {"rank": 2}),
}
PROBLEMS = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


def loaded(directory: Path) -> Any:
    """The model, if nothing is missing or unexpected."""
    from transformers import AutoModelForSequenceClassification

    model, info = AutoModelForSequenceClassification.from_pretrained(
        directory, output_loading_info=True
    )
    assert not any(info.values()), info
    return model


@pytest.mark.parametrize("case", CASES)
def test_transformers_gives_our_logits(case: str, tmp_path: Path) -> None:
    family, method, objective, options = CASES[case]
    base = write_base(tmp_path / "base", family)
    ours = jaxft.load(write_own(tmp_path / "own", base, method, objective, **options))
    ours.export(tmp_path / "whole", format="transformers")
    model = loaded(tmp_path / "whole")
    expected = ours.logits(TEXTS)
    np.testing.assert_allclose(torch_logits(model, tmp_path / "whole"), expected, atol=1e-4, rtol=0)
    names = LABELS.get(objective, ["LABEL_0"])
    assert model.config.id2label == dict(enumerate(names))
    assert model.config.problem_type == PROBLEMS[objective]
    assert model.config.architectures == [type(model).__name__]

    back = jaxft.load(tmp_path / "whole")
    assert (back.labels, back.objective) == (ours.labels, ours.objective)
    np.testing.assert_allclose(back.logits(TEXTS), expected, atol=1e-5, rtol=0)
    if method == "full":
        assert leaves_of(back.run) == leaves_of(ours.run)
