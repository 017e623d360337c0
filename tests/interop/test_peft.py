"""peft loads what jaxft trained, jaxft loads what peft trained, and both give the same logits."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import TEXTS, leaves_of, run_snippet, torch_logits, write_base, write_own

import jaxft

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"rank": 4, "alpha": 12.0}),
    "lora, everything": (
        "lora",
        {"rank": 2, "targets": ("all-linear",), "layers": (1,), "train_pooler": False},
    ),
    "rsLoRA, other ranks and alphas": (
        "lora",
        {
            "rank": 2,
            "rank_stabilized": True,
            "targets": ("query", "value", "key"),
            "rank_pattern": ("key=5", ".*layer/1/attention/self/value=3"),
            "alpha_pattern": ("value=2.5",),
        },
    ),
    "dora": ("dora", {"rank": 3, "rank_pattern": ("query=2",)}),
    "pissa": ("lora", {"rank": 2, "lora_init": "pissa", "alpha_pattern": ("value=3",)}),
    "ia3": ("ia3", {"layers": (1,)}),
    "vera": ("vera", {"vera_rank": 5, "targets": ("all-linear",)}),
    "layernorm": ("layernorm", {}),
    "layernorm, one layer": ("layernorm", {"layers": (0,), "train_pooler": False}),
    "lora, a LayerNorm unfrozen": (
        "lora",
        {"rank": 2, "unfreeze": ".*layer/1/output/LayerNorm/.*"},
    ),
}


@pytest.fixture(scope="module", params=["bert", "roberta"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / request.param, request.param)


def peft_model(directory: Path, base: Path) -> Any:
    """As docs/export.md loads it."""
    with warnings.catch_warnings():
        # peft does not know LayerNorm's width, and needs it for nothing.
        warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
        return run_snippet("PeftModel", acl_lora=directory, roberta_base=base)["model"]


@pytest.mark.parametrize("case", CASES)
def test_peft_gives_our_logits_and_its_files_come_back_to_the_bit(
    case: str, base: Path, tmp_path: Path
) -> None:
    method, options = CASES[case]
    ours = jaxft.load(write_own(tmp_path / "own", base, method, **options))
    ours.export(tmp_path / "peft", format="peft")
    expected = ours.logits(TEXTS)
    theirs = torch_logits(peft_model(tmp_path / "peft", base), tmp_path / "peft")
    np.testing.assert_allclose(theirs, expected, atol=1e-4, rtol=0)

    back = jaxft.load(tmp_path / "peft")
    if case == "pissa":  # A and A0 are one matrix in peft
        np.testing.assert_allclose(back.logits(TEXTS), expected, atol=1e-5, rtol=0)
        back.export(tmp_path / "again", format="peft")
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            assert (tmp_path / "again" / name).read_bytes() == (
                tmp_path / "peft" / name
            ).read_bytes()
        return
    assert leaves_of(back.run) == leaves_of(ours.run)
    assert back.labels == ours.labels
    assert back.run.settings["columns"] == ours.run.settings["columns"]
    np.testing.assert_array_equal(back.logits(TEXTS), expected)
