"""Which format takes which method, what refuses it by name, and what is left after a refusal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import TEXTS, leaves_of, write_base, write_own

import jaxft
from jaxft import cli, export
from jaxft.peft.interop import adapterhub_codecs, peft_codecs
from jaxft.peft.methods import METHODS
from jaxft.run.load import load_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

SMALL = {"rank": 2, "vera_rank": 2, "size": 4, "phm_dim": 2, "prefix_length": 2}
# The last words of the messages that refuse a method: the formats that take it.
EVERYWHERE = "use --format=peft or --format=transformers or --format=jaxft"
REFUSED = {
    "full": {
        "peft": "transformers or --format=jaxft",
        "adapterhub": "transformers or --format=jaxft",
    },
    "head": {
        "peft": "transformers or --format=jaxft",
        "adapterhub": "transformers or --format=jaxft",
    },
    "bitfit": {
        "peft": "transformers or --format=jaxft",
        "adapterhub": "transformers or --format=jaxft",
    },
    "layernorm": {"adapterhub": EVERYWHERE},
    "lora": {"adapterhub": EVERYWHERE},
    "dora": {"adapterhub": EVERYWHERE},
    "ia3": {"adapterhub": EVERYWHERE},
    "vera": {"adapterhub": EVERYWHERE},
    **{
        name: dict.fromkeys(("peft", "transformers"), "use --format=adapterhub or --format=jaxft")
        for name in adapterhub_codecs.CODECS
    },
    "fusion": dict.fromkeys(("peft", "adapterhub", "transformers"), "use --format=jaxft"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny", "bert")


def options_of(method: str, base: Path, folder: Path) -> dict[str, Any]:
    if method != "fusion":
        return SMALL
    own = write_own(folder / "part", base, "pfeiffer", **SMALL)
    return {"adapters": (str(own),)}


@pytest.mark.parametrize("method", METHODS)
def test_every_format_takes_a_method_or_names_those_that_do(
    method: str, base: Path, tmp_path: Path
) -> None:
    own = write_own(tmp_path / "own", base, method, **options_of(method, base, tmp_path))
    run = load_run(own)
    for kind in export.FORMATS:
        output = tmp_path / kind
        reason = REFUSED[method].get(kind)
        if reason is None:
            export.export(run, kind, output)
            assert (output / "README.md").is_file()
            back = load_run(output)
            if kind == "jaxft":
                assert leaves_of(back) == leaves_of(run)
        else:
            with pytest.raises(
                jaxft.InputError, match=f"cannot represent method '{method}'"
            ) as err:
                export.export(run, kind, output)
            assert str(err.value).endswith(reason)
            assert not output.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_the_tables_name_the_same_methods() -> None:
    assert set(REFUSED) == set(METHODS)
    assert {name for name, kinds in REFUSED.items() if "peft" not in kinds} == set(
        peft_codecs.CODECS
    )


def test_what_else_was_trained_is_refused_by_its_path(base: Path, tmp_path: Path) -> None:
    own = write_own(tmp_path / "a", base, "houlsby", size=4, train_layer_norm=True)
    with pytest.raises(jaxft.InputError, match="output/LayerNorm is trained, too"):
        export.export(load_run(own), "adapterhub", tmp_path / "out")
    both = {"rank": 2, "unfreeze": ".*layer/0/attention/self/query/kernel"}
    own = write_own(tmp_path / "b", base, "lora", **both)
    with pytest.raises(jaxft.InputError, match="in a module that was trained as well"):
        export.export(load_run(own), "peft", tmp_path / "out")
    own = write_own(tmp_path / "c", write_base(tmp_path / "other", "distilbert"), "houlsby", size=4)
    with pytest.raises(jaxft.InputError, match="a distilbert model, expected bert, roberta"):
        export.export(load_run(own), "adapterhub", tmp_path / "out")


def test_the_output_must_be_new(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_own(tmp_path / "own", base, "lora", rank=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    (tmp_path / "empty").mkdir()

    def line(*argv: str) -> str:
        assert cli.guarded(export.main, ["export", str(own), *argv]) == 2
        return capsys.readouterr().err

    flags = ["--format=peft", f"--output={tmp_path / 'full'}"]
    assert "is not empty; choose another" in line(*flags)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert "no directory" in line("--format=peft", f"--output={tmp_path / 'no' / 'where'}")
    assert "did you mean 'peft'" in line("--format=pef", f"--output={tmp_path / 'new'}")
    empty = ["export", str(own), "--format=peft", f"--output={tmp_path / 'empty'}"]
    assert export.main(empty) == 0
    assert (tmp_path / "empty" / "adapter_config.json").is_file()


def test_a_quantised_backbone_is_merged_as_it_computes(base: Path, tmp_path: Path) -> None:
    own = write_own(tmp_path / "own", base, "lora", frozen_dtype="int8", rank=2)
    ours = jaxft.load(own)
    ours.export(tmp_path / "whole", format="transformers")
    expected = ours.logits(TEXTS)
    np.testing.assert_allclose(
        jaxft.load(tmp_path / "whole").logits(TEXTS), expected, atol=1e-5, rtol=0
    )
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["dtype"] == "float32"


@pytest.fixture(scope="module")
def trained_minilm(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> jaxft.Run:
    fields = {"source": "sample", "max_length": 32, "epochs": 1}
    workdir = tmp_path_factory.mktemp("minilm") / "run"
    return jaxft.finetune("acl_sup", "minilm", "lora", workdir=workdir, **fields)


@pytest.mark.parametrize("kind", ["peft", "transformers"])
def test_trained_minilm_gives_the_same_logits_in_torch(
    kind: str, trained_minilm: jaxft.Run, minilm: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from exported import torch_logits
    from transformers import AutoConfig, AutoModelForSequenceClassification

    trained_minilm.classifier.export(tmp_path / kind, format=kind)
    if kind == "peft":
        config = AutoConfig.from_pretrained(tmp_path / kind)
        plain = AutoModelForSequenceClassification.from_pretrained(minilm, config=config)
        model = peft.PeftModel.from_pretrained(plain, tmp_path / kind)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / kind)
    expected = trained_minilm.classifier.logits(TEXTS)
    np.testing.assert_allclose(torch_logits(model, tmp_path / kind), expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose(
        jaxft.load(tmp_path / kind).logits(TEXTS), expected, atol=1e-5, rtol=0
    )
