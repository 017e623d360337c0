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
Batch = dict[str, np.ndarray]
MakeModel = Callable[..., tuple[Model, Params]]
MakeBatch = Callable[[Config], Batch]
# Compiled without LLVM's optimisation: operation by operation takes longer.
QUICK = {"xla_backend_optimization_level": 0}
FAMILIES = ["bert", "roberta"]


@pytest.fixture
def configs(tiny_bert_config: Config, tiny_roberta_config: Config) -> dict[str, Config]:
    return {"bert": tiny_bert_config, "roberta": tiny_roberta_config}


def test_roberta_counts_positions_as_transformers_does(
    flax_transformers: None, tiny_roberta_config: Config
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.models.roberta.modeling_flax_roberta import (
            create_position_ids_from_input_ids,
        )
    backbone = backbones.from_config(tiny_roberta_config, num_labels=2)
    # Padding anywhere, at the left and inside too.
    ids_BxL = jnp.asarray(np.random.default_rng(0).integers(0, 4, (50, 12)), jnp.int32)
    expected_BxL = create_position_ids_from_input_ids(ids_BxL, backbone.pad_id)
    positions_BxL = backbones.positions(backbone, ids_BxL)
    assert positions_BxL.dtype == jnp.int32
    np.testing.assert_array_equal(positions_BxL, expected_BxL)


def test_bert_counts_positions_from_zero_through_the_padding(
    tiny_bert_config: Config, make_batch: MakeBatch
) -> None:
    backbone = backbones.from_config(tiny_bert_config, num_labels=2)
    positions_BxL = backbones.positions(backbone, make_batch(tiny_bert_config)["ids"])
    np.testing.assert_array_equal(positions_BxL, [range(12)] * 3)


@pytest.mark.parametrize(("family", "longest"), [("bert", 64), ("roberta", 64)])
def test_the_longest_sequence_is_what_the_position_table_holds(
    family: str, longest: int, configs: dict[str, Config]
) -> None:
    backbone = backbones.from_config(configs[family], num_labels=2)
    assert backbone.max_length == longest
    last = backbones.positions(backbone, jnp.full((1, longest), 5)).max()
    assert last == configs[family]["max_position_embeddings"] - 1


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_are_those_of_transformers(
    family: str, flax_transformers: None, configs: dict[str, Config]
) -> None:
    from transformers import (
        BertConfig,
        FlaxBertForSequenceClassification,
        FlaxRobertaForSequenceClassification,
        RobertaConfig,
    )

    model_class, config_class = (
        (FlaxBertForSequenceClassification, BertConfig)
        if family == "bert"
        else (FlaxRobertaForSequenceClassification, RobertaConfig)
    )
    backbone = backbones.from_config(configs[family], num_labels=4)
    hf_config = config_class.from_dict({**configs[family], "num_labels": 4})
    expected = backbones.flat(model_class(hf_config, _do_init=False).params_shape_tree)
    shapes = backbones.parameter_shapes(backbone)
    assert {p: (x.shape, x.dtype) for p, x in shapes.items()} == {
        p: (x.shape, x.dtype) for p, x in expected.items()
    }


def test_shapes_of_a_model_larger_than_memory_cost_nothing(tiny_bert_config: Config) -> None:
    huge = {"vocab_size": 10**9, "hidden_size": 2**16, "intermediate_size": 2**18}
    backbone = backbones.from_config({**tiny_bert_config, **huge}, num_labels=2)
    shapes = backbones.parameter_shapes(backbone)  # an allocation of these would fail
    assert sum(x.size for x in shapes.values()) > 6e13


def test_bfloat16_is_of_the_computation_only(
    tiny_bert_config: Config, make_model: MakeModel, make_batch: MakeBatch
) -> None:
    logits = {}
    for dtype in ("float32", "bfloat16"):
        model, params = make_model("houlsby", dtype=dtype)
        assert {x.dtype for x in model.shapes.values()} == {jnp.dtype("float32")}
        forward = jax.jit(model.forward, compiler_options=QUICK)
        logits[dtype] = forward(params, make_batch(tiny_bert_config), None)
        assert logits[dtype].dtype == jnp.float32
    assert not jnp.array_equal(logits["bfloat16"], logits["float32"])
    np.testing.assert_allclose(logits["bfloat16"], logits["float32"], atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "policy"),
    [("full", "layer"), ("full", "dots"), ("lora", "dots"), ("houlsby", "dots")],
)
def test_rematerialised_layers_give_the_same_loss_and_gradients(
    method: str,
    policy: str,
    tiny_bert_config: Config,
    make_model: MakeModel,
    make_batch: MakeBatch,
) -> None:
    batch = make_batch(tiny_bert_config)
    found = []
    for remat in ("none", policy):
        model, params = make_model(method, remat=remat)

        def loss(params: Params, model: Model = model) -> jax.Array:
            return jnp.square(model.forward(params, batch, jax.random.key(3))).sum()

        program = str(jax.make_jaxpr(loss)(params))
        layers = tiny_bert_config["num_hidden_layers"]
        assert program.count("remat2[") == (0 if remat == "none" else layers)
        derive = jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)
        found.append(derive(params))
    (loss_none, grads_none), (loss_remat, grads_remat) = found
    np.testing.assert_allclose(loss_remat, loss_none, rtol=1e-6)
    for path, grad in grads_none.items():
        np.testing.assert_allclose(grads_remat[path], grad, atol=1e-6, rtol=1e-4, err_msg=path)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_logits(
    family: str, configs: dict[str, Config], make_model: MakeModel, make_batch: MakeBatch
) -> None:
    config = configs[family]
    model, params = make_model("full", config=config)
    batch = make_batch(config)
    logits_BxC = model.forward(params, batch, None)
    alone = {name: x[1:2, :7] for name, x in batch.items()}
    np.testing.assert_allclose(
        logits_BxC[1:2], model.forward(params, alone, None), atol=1e-6, rtol=0
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
