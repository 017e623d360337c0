"""Checkpoints of any kind become the parameters with which torch's model gives the same logits."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from families import torch_logits
from flax.serialization import msgpack_serialize
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    RobertaConfig,
)

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models import weights
from jaxft.models.backbone import Backbone, Params
from jaxft.models.bert import BERT

torch = pytest.importorskip("torch")

Config = dict[str, Any]
Batch = dict[str, np.ndarray]

CLASSIFIER = ["classifier/bias", "classifier/kernel"]
EMOTIONS, INTENTS = ("joy", "anger", "fear"), ("Background", "Uses", "Future")
POOLER = ["bert/pooler/dense/bias", "bert/pooler/dense/kernel"]
ROBERTA_HEAD = [f"classifier/{d}/{x}" for d in ("dense", "out_proj") for x in ("bias", "kernel")]


def torch_config(config: Config, num_labels: int = 3) -> Any:
    family = BertConfig if config["model_type"] == "bert" else RobertaConfig
    return family.from_dict({**config, "num_labels": num_labels})


def torch_model(auto_class: Any, config: Config, directory: Path, **save: Any) -> Any:
    """Returns a random torch model, no leaf of it zero or one throughout, saved in a directory."""
    torch.manual_seed(0)
    model = auto_class.from_config(torch_config(config)).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.add_(torch.randn(x.shape) * 0.05)
    model.save_pretrained(directory, **save)
    return model


def read(directory: Path, num_labels: int = 3) -> tuple[Backbone, Params, list[str]]:
    backbone = backbones.load(directory, num_labels)
    shapes = backbones.parameter_shapes(backbone)
    params, fresh = weights.read(directory, shapes, backbone.family)
    assert sorted([*params, *fresh]) == sorted(shapes)
    assert all(x.dtype == np.float32 and x.shape == shapes[p].shape for p, x in params.items())
    assert weights.read_fresh(directory, shapes, backbone.family) == fresh  # from headers alone
    return backbone, params, fresh


def refused(directory: Path) -> str:
    """Reads a checkpoint that must be refused, and returns the one line that says why."""
    with pytest.raises(InputError) as caught:
        read(directory)
    message = str(caught.value)
    assert "\n" not in message
    assert str(directory) in message
    return message


def assert_same(params: Params, expected: Params) -> None:
    assert params.keys() == expected.keys()
    for path, x in expected.items():
        np.testing.assert_array_equal(params[path], x, err_msg=path)


def assert_same_logits(model: Any, directory: Path, batch: Batch) -> None:
    """Compares torch's logits with those of the checkpoint read here, in float32."""
    backbone, params, fresh = read(directory)
    assert not fresh
    expected_BxC = torch_logits(model, batch)
    logits_BxC = backbones.forward(backbone, backbone.module, params, batch, None)
    assert expected_BxC.std() > 0.01
    np.testing.assert_allclose(logits_BxC, expected_BxC, atol=1e-4, rtol=0)


@pytest.fixture(scope="session")
def expected(torch_checkpoint: Path) -> Params:
    return read(torch_checkpoint)[1]


@pytest.fixture
def directory(torch_checkpoint: Path, tmp_path: Path) -> Path:
    """The config of `torch_checkpoint`, without weights."""
    (tmp_path / "config.json").write_bytes((torch_checkpoint / "config.json").read_bytes())
    return tmp_path


@pytest.fixture
def tensors(torch_checkpoint: Path) -> dict[str, np.ndarray]:
    """The weights of `torch_checkpoint` by torch's names."""
    return load_file(torch_checkpoint / "model.safetensors")


def test_the_real_minilm_gives_torchs_logits_on_pairs(minilm: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=3).eval()
    model.classifier.weight.data.normal_()
    model.save_pretrained(tmp_path)
    terms = ["battery life", "the staff", "sushi"]
    texts = ["It lasts for days.", "Rude, and slow to answer!", "Fresh."]
    encoded = AutoTokenizer.from_pretrained(minilm)(terms, texts, padding=True, return_tensors="np")
    names = {"ids": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}
    batch = {short: encoded[name].astype(np.int32) for short, name in names.items()}
    assert (batch["mask"] == 0).any()
    assert (batch["types"] == 1).any()
    assert_same_logits(model, tmp_path, batch)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_tiny_classifier_gives_torchs_logits_on_a_padded_batch(
    family: str,
    tiny_bert_config: Config,
    tiny_roberta_config: Config,
    make_batch: Callable[[Config], Batch],
    tmp_path: Path,
) -> None:
    config = tiny_bert_config if family == "bert" else tiny_roberta_config
    model = torch_model(AutoModelForSequenceClassification, config, tmp_path)
    assert_same_logits(model, tmp_path, make_batch(config))


def test_safetensors_need_no_metadata(
    directory: Path, tensors: dict[str, np.ndarray], expected: Params
) -> None:
    save_file(tensors, directory / "model.safetensors", metadata=None)
    assert_same(read(directory)[1], expected)


def test_shards_are_one_checkpoint(
    torch_checkpoint: Path, expected: Params, tmp_path: Path
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(torch_checkpoint)
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same(read(tmp_path)[1], expected)


def test_names_of_old_checkpoints_are_understood(
    directory: Path, tensors: dict[str, np.ndarray], expected: Params
) -> None:
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): x
        for name, x in tensors.items()
    }
    assert old.keys() != tensors.keys()
    old["bert.embeddings.position_ids"] = np.arange(64)[None]
    save_file(old, directory / "model.safetensors")
    assert_same(read(directory)[1], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weights_of_16_bit_are_raised_to_float32(
    dtype: Any, directory: Path, tensors: dict[str, np.ndarray], expected: Params
) -> None:
    from safetensors.torch import save_file as save_torch

    halves = {name: torch.tensor(x).to(dtype) for name, x in tensors.items()}
    save_torch(halves, directory / "model.safetensors")
    _, params, fresh = read(directory)
    assert not fresh
    rounded = {path: torch.tensor(x).to(dtype).float().numpy() for path, x in expected.items()}
    assert_same(params, rounded)


def test_a_base_model_lacks_the_classifier_only(tiny_bert_config: Config, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BertModel(torch_config(tiny_bert_config))
    model.save_pretrained(tmp_path)
    _, params, fresh = read(tmp_path)
    assert fresh == CLASSIFIER
    kernel = params["bert/encoder/layer/1/attention/self/key/kernel"]
    expected = model.encoder.layer[1].attention.self.key.weight.detach().numpy().T
    np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize(
    ("family", "lacks"), [("bert", POOLER + CLASSIFIER), ("roberta", ROBERTA_HEAD)]
)
def test_a_masked_language_model_lacks_pooler_and_classifier(
    family: str,
    lacks: list[str],
    tiny_bert_config: Config,
    tiny_roberta_config: Config,
    tmp_path: Path,
) -> None:
    config = tiny_bert_config if family == "bert" else tiny_roberta_config
    torch_model(AutoModelForMaskedLM, config, tmp_path)
    assert read(tmp_path)[2] == lacks


def test_a_classifier_over_other_labels_is_fresh(torch_checkpoint: Path, expected: Params) -> None:
    _, params, fresh = read(torch_checkpoint, num_labels=5)
    assert fresh == CLASSIFIER
    assert_same(params, {path: x for path, x in expected.items() if path not in fresh})


def test_a_classifier_is_taken_over_by_the_names_of_its_labels(
    torch_checkpoint: Path, expected: Params
) -> None:
    backbone = backbones.load(torch_checkpoint, len(EMOTIONS))
    shapes = backbones.parameter_shapes(backbone)
    path = torch_checkpoint / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "id2label": dict(enumerate(EMOTIONS))}))
    try:
        read_all, read_headers = (
            [read(torch_checkpoint, shapes, BERT, labels) for labels in (EMOTIONS, INTENTS)]
            for read in (weights.read, weights.read_fresh)
        )
    finally:
        path.write_text(json.dumps(config))
    (params, fresh), (_, other) = read_all
    assert fresh == []
    assert_same(params, expected)
    assert other == CLASSIFIER
    assert read_headers == [fresh, other]
    # Without names they are LABEL_0, LABEL_1, ...: nobody knows of what.
    assert weights.read(torch_checkpoint, shapes, BERT, INTENTS)[1] == CLASSIFIER


def test_a_roberta_classifier_over_other_labels_keeps_its_dense_layer(
    tiny_roberta_config: Config, tmp_path: Path
) -> None:
    torch_model(AutoModelForSequenceClassification, tiny_roberta_config, tmp_path)
    assert read(tmp_path, num_labels=5)[2] == [
        "classifier/out_proj/bias",
        "classifier/out_proj/kernel",
    ]


def whole(tree: Params) -> Any:
    return backbones.nested(tree)


def in_collection(tree: Params) -> Any:
    return {"params": backbones.nested(tree)}


def base_model(tree: Params) -> Any:
    return backbones.nested({p.removeprefix("bert/"): x for p, x in tree.items() if "bert/" in p})


def in_bfloat16(tree: Params) -> Any:
    return backbones.nested({path: jnp.asarray(x, jnp.bfloat16) for path, x in tree.items()})


@pytest.mark.parametrize("layout", [whole, in_collection, base_model, in_bfloat16])
def test_flax_checkpoints_are_read_with_and_without_prefix(
    layout: Callable[[Params], Any], directory: Path, expected: Params
) -> None:
    (directory / "flax_model.msgpack").write_bytes(msgpack_serialize(layout(expected)))
    _, params, fresh = read(directory)
    assert fresh == (CLASSIFIER if layout is base_model else [])
    if layout is in_bfloat16:
        expected = {path: jnp.bfloat16(x).astype(np.float32) for path, x in expected.items()}
    assert_same(params, {path: x for path, x in expected.items() if path not in fresh})


def save_bin(model: Any, directory: Path) -> None:
    """Saves a model as transformers did before safetensors."""
    model.config.save_pretrained(directory)
    (directory / "model.safetensors").unlink(missing_ok=True)
    torch.save(model.state_dict(), directory / "pytorch_model.bin")


def converted(directory: Path) -> None:
    """Runs the Python part of the command that a refused .bin checkpoint is told."""
    message = refused(directory)
    assert ".bin" in message
    command = shlex.split(message[message.index("pip install torch") :])
    assert command[:6] == ["pip", "install", "torch", "&&", "python", "-c"]
    exec(command[6], {})


def test_a_bin_checkpoint_is_refused_with_a_command_that_converts_it(
    torch_checkpoint: Path, expected: Params, tmp_path: Path
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(torch_checkpoint)
    save_bin(model, tmp_path)
    converted(tmp_path)
    _, params, _ = read(tmp_path)
    assert_same(params, {path: expected[path] for path in params})


def test_the_conversion_of_a_bin_checkpoint_invents_no_weights(
    tiny_bert_config: Config, tmp_path: Path
) -> None:
    model = torch_model(AutoModelForMaskedLM, tiny_bert_config, tmp_path)
    save_bin(model, tmp_path)
    converted(tmp_path)
    assert read(tmp_path)[2] == POOLER + CLASSIFIER


def test_a_directory_without_weights_says_what_is_expected(directory: Path) -> None:
    assert "model.safetensors" in refused(directory)


def test_missing_encoder_weights_are_named(directory: Path, tensors: dict[str, np.ndarray]) -> None:
    del tensors["bert.encoder.layer.1.output.dense.bias"]
    save_file(tensors, directory / "model.safetensors")
    message = refused(directory)
    assert "1 of 41" in message
    assert "bert/encoder/layer/1/output/dense/bias" in message


def test_more_layers_than_the_config_names_are_not_dropped_in_silence(
    directory: Path, tensors: dict[str, np.ndarray]
) -> None:
    extra = "bert.encoder.layer.2.output.dense.bias"
    save_file({**tensors, extra: np.zeros(32, np.float32)}, directory / "model.safetensors")
    message = refused(directory)
    assert "more layers" in message
    assert "bert/encoder/layer/2/output/dense/bias" in message


def test_a_tensor_of_the_encoder_without_a_place_is_named(
    directory: Path, tensors: dict[str, np.ndarray], expected: Params
) -> None:
    heads = {"cls.predictions.bias": np.zeros(3, np.float32)}  # of another head: not the encoder's
    save_file({**tensors, **heads}, directory / "model.safetensors")
    assert_same(read(directory)[1], expected)
    extra = "bert.embeddings.distance.weight"
    save_file({**tensors, extra: np.zeros(32, np.float32)}, directory / "model.safetensors")
    message = refused(directory)
    assert "1 tensors of the checkpoint have no place in a bert model" in message
    assert extra in message


def test_weights_of_another_size_are_named_with_both_sizes(
    directory: Path, tensors: dict[str, np.ndarray]
) -> None:
    tensors["bert.embeddings.word_embeddings.weight"] = np.zeros((90, 32), np.float32)
    save_file(tensors, directory / "model.safetensors")
    message = refused(directory)
    assert "bert/embeddings/word_embeddings/embedding" in message
    assert "(90, 32)" in message
    assert "(100, 32)" in message


def test_weights_of_another_family_are_refused(
    tiny_roberta_config: Config, directory: Path
) -> None:
    torch_model(AutoModelForMaskedLM, tiny_roberta_config, directory / "roberta")
    (directory / "roberta" / "model.safetensors").rename(directory / "model.safetensors")
    assert "is it a bert model?" in refused(directory)


@pytest.mark.parametrize("cut", [0, 4, 100, -1], ids=lambda cut: f"cut at {cut}")
def test_a_safetensors_file_cut_short_is_refused(
    cut: int, torch_checkpoint: Path, directory: Path
) -> None:
    content = (torch_checkpoint / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(content[:cut])
    assert "not a readable safetensors file" in refused(directory)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"a": "model-1.safetensors"}}, "model-1.safetensors is missing"),
        ({}, "weight_map"),
        (None, "JSON"),
    ],
    ids=["missing shard", "no map", "no JSON"],
)
def test_a_broken_index_of_shards_is_refused(index: Any, said: str, directory: Path) -> None:
    content = "{" if index is None else json.dumps(index)
    (directory / "model.safetensors.index.json").write_text(content)
    message = refused(directory)
    assert "model.safetensors.index.json" in message
    assert said in message


@pytest.mark.parametrize(
    "content", [b"", b"not msgpack", msgpack_serialize(3), msgpack_serialize({"a": 1})]
)
def test_a_broken_flax_checkpoint_is_refused(content: bytes, directory: Path) -> None:
    (directory / "flax_model.msgpack").write_bytes(content)
    refused(directory)
