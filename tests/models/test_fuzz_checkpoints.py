"""Whatever is in a checkpoint's files, it is read or refused in one line that names the file.

100,000 examples of each test instead of some (docs/reliability.md):

    JAXFT_FUZZ=100000 python -m pytest tests/models/test_fuzz_checkpoints.py
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from jaxft.data.encode import encode
from jaxft.data.examples import Example
from jaxft.data.tokenizer import load_tokenizer
from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models import weights
from jaxft.models.backbone import Params
from jaxft.models.bert import BERT
from jaxft.models.family import find
from jaxft.models.names import torch_name
from tests import tiny
from tests.families import FAMILIES, SIZES
from tests.families import tiny as config_of
from tests.fuzzing import EXAMPLES, FEW, read_or_refused

SOME = settings(
    FEW, max_examples=max(EXAMPLES // 100, 5)
)  # to trace a model takes a tenth of a second
CONFIG = config_of("bert", vocab_size=30, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
INNER = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(st.text(max_size=8), SCALAR)
JSON = INNER | st.lists(INNER, max_size=4) | st.dictionaries(st.text(max_size=8), INNER, max_size=4)
# What a config may say of a model without an array of gigabytes being traced.
NUMBER = st.integers(-3, 64) | SCALAR.filter(lambda x: not isinstance(x, int))
SMALL = NUMBER | st.lists(NUMBER, max_size=2) | st.dictionaries(st.text(max_size=4), NUMBER)
SMALL |= st.sampled_from([{"full_attention": {"rope_theta": "x"}}, ["full_attention"], {"0": "x"}])
# Of config.json, what a family reads beside the fields of its own config.
OTHERS = ("layer_types", "rope_parameters", "rope_scaling", "id2label", "label2id", "problem_type")


@pytest.fixture(scope="module")
def shapes() -> Params:
    return backbones.parameter_shapes(backbones.from_config(CONFIG, num_labels=3))


@pytest.fixture(scope="module")
def whole(shapes: Params) -> dict[str, bytes]:
    """The bytes of a checkpoint of each kind."""
    params = tiny.random_params(shapes, 0)
    tensors = {}
    for path, x in params.items():
        name, is_transposed = torch_name(path)
        tensors[name] = np.ascontiguousarray(x.T if is_transposed else x)
    return {
        "model.safetensors": save(tensors),
        "flax_model.msgpack": msgpack_serialize(backbones.nested(params)),
    }


@pytest.mark.parametrize("name", ["model.safetensors", "flax_model.msgpack"])
@FEW
@given(noise=st.binary(max_size=40), place=st.floats(0, 1), replaced=st.integers(0, 40))
def test_fuzz_damaged_weights(
    name: str,
    noise: bytes,
    place: float,
    replaced: int,
    whole: dict[str, bytes],
    shapes: Params,
    tmp_path: Path,
) -> None:
    start = int(place**4 * len(whole[name]))  # most are at the start, where the headers are
    content = whole[name][:start] + noise + whole[name][start + replaced :]
    (tmp_path / name).write_bytes(content)
    found = read_or_refused(lambda: weights.read(tmp_path, shapes, BERT), str(tmp_path))
    if found is not None:
        params, fresh = found
        assert {path: x.shape for path, x in params.items()} == {
            path: x.shape for path, x in shapes.items() if path not in fresh
        }
        assert all(path.startswith(BERT.may_be_missing) for path in fresh)


def check_config(
    family: str, data: st.DataObject, tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    """Changes a few fields of a config.json and reads it."""
    config = config_of(family, **SIZES)
    own = {field.name for field in dataclasses.fields(find(family).read_config(config, 3))}
    names = st.sampled_from(sorted({*config, *own, *OTHERS})) | st.text(max_size=6)
    fields = data.draw(st.dictionaries(names, SMALL, max_size=3))
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    read_or_refused(lambda: read(tmp_path), "config.json")


@pytest.mark.parametrize("family", ["bert", "roberta", *FAMILIES])
@FEW
@given(data=st.data())
def test_fuzz_a_config_of_other_values(family: str, data: st.DataObject, tmp_path: Path) -> None:
    check_config(family, data, tmp_path, lambda path: backbones.load(path, 3))


@pytest.mark.parametrize("family", ["bert", "roberta", *FAMILIES])
@SOME
@given(data=st.data())
def test_fuzz_the_model_of_a_config(family: str, data: st.DataObject, tmp_path: Path) -> None:
    check_config(family, data, tmp_path, shapes_of)


def shapes_of(directory: Path) -> Params:
    return backbones.parameter_shapes(backbones.load(directory, 3))


@pytest.mark.parametrize("value", [-1.0, 3.5e38, float("inf"), float("nan")])
def test_an_initialisation_that_float32_does_not_hold_is_refused(value: float) -> None:
    with pytest.raises(InputError, match=r"config\.json: initializer_range .*such as 0\.02"):
        backbones.from_config({**CONFIG, "initializer_range": value}, 3)


@FEW
@given(content=st.binary(max_size=100) | JSON.map(lambda x: json.dumps(x).encode()))
def test_fuzz_a_config_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    read_or_refused(lambda: backbones.load(tmp_path, 3), "config.json")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.txt"])
@FEW
@given(noise=st.binary(max_size=40), place=st.floats(0, 1), replaced=st.integers(0, 40))
def test_fuzz_a_damaged_tokenizer(
    name: str,
    noise: bytes,
    place: float,
    replaced: int,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "model"
    if not directory.exists():
        shutil.copytree(tiny_checkpoint, directory)
    content = (tiny_checkpoint / name).read_bytes()
    start = int(place * len(content))
    (directory / name).write_bytes(content[:start] + noise + content[start + replaced :])
    tokenizer = read_or_refused(lambda: load_tokenizer(directory), str(directory))
    if tokenizer is not None:
        encoded = encode(
            tokenizer, [Example("0", "The soup, né?", "soup", "x", "t", "t:1")], ["x"], 8
        )
        assert len(encoded.ids[0]) <= 8
