"""The classifier without its parameters: config, positions, shapes, dtypes, rematerialisation."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models.backbone import Params
from jaxft.training.state import Model

Config = dict[str, Any]
MakeModel = Callable[..., tuple[Model, Params]]
FAMILIES = ["bert", "roberta"]


@pytest.fixture
def configs(tiny_bert_config: Config, tiny_roberta_config: Config) -> dict[str, Config]:
    return {"bert": tiny_bert_config, "roberta": tiny_roberta_config}


def padded_batch(pad_id: int) -> dict[str, jax.Array]:
    ids_BxL = jnp.array([[7, 9, 11, 20, 31, 9], [7, 12, 9, pad_id, pad_id, pad_id]], jnp.int32)
    mask_BxL = (ids_BxL != pad_id).astype(jnp.int32)
    return {"ids": ids_BxL, "mask": mask_BxL, "types": jnp.zeros_like(ids_BxL)}


def test_roberta_counts_positions_as_transformers_does(tiny_roberta_config: Config) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.models.roberta.modeling_flax_roberta import (
            create_position_ids_from_input_ids,
        )
    backbone = backbones.from_config(tiny_roberta_config, num_labels=2)
    rng = np.random.default_rng(0)
    for _ in range(20):  # padding anywhere, at the left and inside too
        ids_BxL = jnp.asarray(rng.integers(0, 4, (3, 9)), jnp.int32)
        expected_BxL = create_position_ids_from_input_ids(ids_BxL, backbone.pad_id)
        positions_BxL = backbones.positions(backbone, ids_BxL)
        assert positions_BxL.dtype == jnp.int32
        np.testing.assert_array_equal(positions_BxL, expected_BxL)


def test_bert_counts_positions_from_zero_through_the_padding(tiny_bert_config: Config) -> None:
    backbone = backbones.from_config(tiny_bert_config, num_labels=2)
    positions_BxL = backbones.positions(backbone, padded_batch(backbone.pad_id)["ids"])
    np.testing.assert_array_equal(positions_BxL, [range(6)] * 2)


@pytest.mark.parametrize(("family", "longest"), [("bert", 64), ("roberta", 64)])
def test_the_longest_sequence_is_what_the_position_table_holds(
    family: str, longest: int, configs: dict[str, Config]
) -> None:
    backbone = backbones.from_config(configs[family], num_labels=2)
    assert backbone.max_length == longest
    last = backbones.positions(backbone, jnp.full((1, longest), 5)).max()
    assert last == configs[family]["max_position_embeddings"] - 1


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_are_those_of_transformers(family: str, configs: dict[str, Config]) -> None:
    from transformers import (
        FlaxBertForSequenceClassification,
        FlaxRobertaForSequenceClassification,
    )

    model_class = (
        FlaxBertForSequenceClassification
        if family == "bert"
        else FlaxRobertaForSequenceClassification
    )
    backbone = backbones.from_config(configs[family], num_labels=4)
    expected = backbones.flat(model_class(backbone.config, _do_init=False).params_shape_tree)
    shapes = backbones.parameter_shapes(backbone)
    assert {p: (x.shape, x.dtype) for p, x in shapes.items()} == {
        p: (x.shape, x.dtype) for p, x in expected.items()
    }


def test_shapes_of_a_model_larger_than_memory_cost_nothing(tiny_bert_config: Config) -> None:
    huge = {"vocab_size": 10**9, "hidden_size": 2**16, "intermediate_size": 2**18}
    backbone = backbones.from_config({**tiny_bert_config, **huge}, num_labels=2)
    before = len(jax.live_arrays())
    shapes = backbones.parameter_shapes(backbone)
    assert len(jax.live_arrays()) == before
    assert sum(x.size for x in shapes.values()) > 6e13


def test_an_initialisation_has_the_shapes_that_were_told(tiny_bert_config: Config) -> None:
    backbone = backbones.from_config({**tiny_bert_config, "num_hidden_layers": 1}, num_labels=2)
    shapes = backbones.parameter_shapes(backbone)
    init = jax.jit(lambda key: backbones.init(backbone, backbone.module, key))
    params = init(jax.random.key(0))
    assert {p: x.shape for p, x in params.items()} == {p: x.shape for p, x in shapes.items()}
    assert {x.dtype for x in params.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize("method", ["full", "lora", "pfeiffer"])
def test_bfloat16_is_of_the_computation_only(method: str, make_model: MakeModel) -> None:
    batch = padded_batch(pad_id=0)
    logits = {}
    for dtype in ("float32", "bfloat16"):
        model, params = make_model(method, dtype=dtype)
        assert {x.dtype for x in model.shapes.values()} == {jnp.dtype("float32")}
        logits[dtype] = model.forward(params, batch, None)
        assert logits[dtype].dtype == jnp.float32
    assert not jnp.array_equal(logits["bfloat16"], logits["float32"])
    np.testing.assert_allclose(logits["bfloat16"], logits["float32"], atol=0.05)


@pytest.mark.parametrize("method", ["full", "lora", "houlsby"])
def test_rematerialised_layers_give_the_same_loss_and_gradients(
    method: str, make_model: MakeModel
) -> None:
    batch = padded_batch(pad_id=0)
    found = []
    for remat in ("none", "layer"):
        model, params = make_model(method, remat=remat)

        def loss(params: Params, model: Model = model) -> jax.Array:
            return jnp.square(model.forward(params, batch, jax.random.key(3))).sum()

        lowered = jax.jit(jax.value_and_grad(loss)).lower(params)
        assert ("optimization_barrier" in lowered.as_text()) == (remat == "layer")
        found.append(lowered.compile()(params))
    (loss_none, grads_none), (loss_layer, grads_layer) = found
    np.testing.assert_allclose(loss_layer, loss_none, rtol=1e-6)
    for path, grad in grads_none.items():
        np.testing.assert_allclose(grads_layer[path], grad, atol=1e-6, rtol=1e-4, err_msg=path)


def test_padding_changes_no_logits(make_model: MakeModel, configs: dict[str, Config]) -> None:
    for config in configs.values():
        model, params = make_model("full", config=config)
        padded = padded_batch(config["pad_token_id"])
        alone = {name: x[1:, :3] for name, x in padded.items()}
        logits_BxC = model.forward(params, padded, None)
        np.testing.assert_allclose(
            logits_BxC[1:], model.forward(params, alone, None), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ('{"model_type": "gpt2"}', "'gpt2'"),
        ("{}", "None"),
        ("[]", "config.json"),
        ('{"model_type": "bert", "hidden_size": 30, "num_attention_heads": 7}', "config.json"),
        ('{"model_type": "bert", "hidden_act": "gelux"}', "config.json"),
    ],
)
def test_a_config_that_is_none_is_refused_in_one_line(
    content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError) as caught:
        backbones.parameter_shapes(backbones.load(tmp_path, num_labels=2))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dtype_and_remat_are_checked(tmp_path: Path, tiny_bert_config: Config) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_bert_config))
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        backbones.load(tmp_path, 2, dtype="bfloat")
    with pytest.raises(InputError, match="did you mean 'layer'"):
        backbones.load(tmp_path, 2, remat="layers")
