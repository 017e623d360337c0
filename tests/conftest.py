"""What several test modules share: the real backbone, and tiny ones that train in seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models import hub
from jaxft.models.backbone import Params
from jaxft.training.mesh import make_mesh
from jaxft.training.state import Model, build_model, init_params

Config = dict[str, Any]
Batch = dict[str, np.ndarray]
MakeModel = Callable[..., tuple[Model, Params]]
MakeBatch = Callable[[Config], Batch]


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real MiniLM; skips where neither the cache, the hub nor the package index has it."""
    try:
        return hub.locate("minilm")
    except InputError as err:
        pytest.skip(str(err))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that need transformers 4.57, and puts the files with slow tests first.

    A worker takes a file at a time. With a long one at the end, the other worker would wait for it.
    """
    for item in items:
        if "flax_transformers" in getattr(item, "fixturenames", ()):
            item.add_marker("transformers4")
    slow: dict[Path, int] = {}
    for item in items:
        slow[item.path] = slow.get(item.path, 0) + (item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: slow[item.path] == 0)  # stable: otherwise the order stays


@pytest.fixture(scope="session")
def flax_transformers() -> None:
    """transformers' Flax classes; skips, saying why, where version 5 is installed."""
    import transformers

    if int(transformers.__version__.split(".")[0]) >= 5:
        pytest.skip(f"transformers {transformers.__version__} has no Flax classes; 4.57 has")


@pytest.fixture(scope="session")
def tiny_bert_config() -> Config:
    return {
        "model_type": "bert",
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    }


@pytest.fixture(scope="session")
def tiny_roberta_config(tiny_bert_config: Config) -> Config:
    """RoBERTa's table holds pad_token_id + 1 positions that no token ever uses."""
    roberta = {
        "model_type": "roberta",
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "max_position_embeddings": 66,
        "layer_norm_eps": 1e-5,
    }
    return {**tiny_bert_config, **roberta}


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_bert_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny random base model and a tokenizer made of the bundled samples."""
    directory = tmp_path_factory.mktemp("tiny-bert")
    tiny.write_checkpoint(directory, tiny_bert_config)
    return directory


@pytest.fixture(scope="session")
def torch_checkpoint(tiny_bert_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT classifier of three labels as torch saves it, no leaf zero or one throughout."""
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**tiny_bert_config, num_labels=3))
    with torch.no_grad():
        for x in model.parameters():
            x.add_(torch.randn(x.shape) * 0.05)
    directory = tmp_path_factory.mktemp("torch-bert")
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def make_batch() -> MakeBatch:
    """Builds three rows of 12, 7 and 3 tokens, in two types where the config has two.

    One shape for all tests: what JAX compiles for an operation, the next test finds compiled.
    """

    def make(config: Config) -> Batch:
        rng = np.random.default_rng(0)
        ids_BxL = rng.integers(5, config["vocab_size"], (3, 12))
        mask_BxL = (np.arange(12) < np.array([[12], [7], [3]])).astype(np.int32)
        types_BxL = (np.arange(12) >= 6) * mask_BxL * (config["type_vocab_size"] - 1)
        ids_BxL = np.where(mask_BxL, ids_BxL, config["pad_token_id"])
        return {"ids": ids_BxL.astype(np.int32), "mask": mask_BxL, "types": types_BxL}

    return make


@pytest.fixture(scope="session")
def make_model(tiny_bert_config: Config) -> MakeModel:
    """Builds `(model, params)` of a method: a random backbone, the method's own initialisation.

    make_model("lora", rank=4)                   # on the tiny BERT; keywords are Options' fields
    make_model("full", config=tiny_roberta_config, remat="layer", seed=1)
    """

    def make(
        method: str,
        config: Config = tiny_bert_config,
        *,
        seed: int = 0,
        fresh: tuple[str, ...] = (),
        dtype: str = "float32",
        remat: str = "none",
        scan: str = "off",
        implementation: str = "jaxft",
        **options: Any,
    ) -> tuple[Model, Params]:
        backbone = backbones.from_config(
            config,
            num_labels=3,
            dtype=dtype,
            remat=remat,
            scan=scan,
            implementation=implementation,
        )
        model = build_model(backbone, list(fresh), method, dict(**options))
        params = tiny.random_params(backbones.parameter_shapes(backbone), seed)
        # As a run does: from the weights, where a method's modules start from them.
        params |= init_params(model, params, seed, make_mesh(1), set(model.shapes) - set(params))
        return model, params

    return make
