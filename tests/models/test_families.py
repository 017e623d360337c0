"""Every family computes what torch computes, from the checkpoints that torch saves."""

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import (
    FAMILIES,
    HAVE_FLAX,
    HAVE_TYPES,
    Batch,
    Config,
    batch_of,
    drawn,
    tiny,
    torch_inputs,
    torch_model,
)
from flax.traverse_util import flatten_dict
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
)

from jaxft.data.batches import fill, longest_by_rank
from jaxft.data.encode import Encoded
from jaxft.data.layout import packed
from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models import modernbert, weights
from jaxft.models.architectures import ARCHITECTURES
from jaxft.models.backbone import Backbone, Params
from jaxft.models.mpnet import relative_buckets
from jaxft.models.names import torch_name
from jaxft.training.state import build_model

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

# Compiled without LLVM's optimisation, which takes longer than these models do.
QUICK = {"xla_backend_optimization_level": 0}
LENGTHS = (17, 11, 2, 1)


def read(directory: Path, **options: Any) -> tuple[Backbone, Params, list[str]]:
    """A checkpoint's classifier, its parameters, and the paths that it lacks."""
    backbone = backbones.load(directory, num_labels=3, **options)
    shapes = backbones.parameter_shapes(backbone)
    params, fresh = weights.read(directory, shapes, backbone.family)
    assert sorted([*params, *fresh]) == sorted(shapes)
    return backbone, params, fresh


def logits_of(backbone: Backbone, params: Params, batch: Batch) -> np.ndarray:
    def forward(params: Params, batch: Batch) -> jax.Array:
        return backbones.forward(backbone, backbone.module, params, batch, None)

    return np.asarray(jax.jit(forward, compiler_options=QUICK)(params, batch))


def torch_logits(family: str, model: Any, batch: Batch) -> np.ndarray:
    with torch.no_grad():
        logits_BxC = model(**torch_inputs(family, batch)).logits.float().numpy()
    assert logits_BxC.std() > 0.01
    return logits_BxC


def random_params(backbone: Backbone) -> Params:
    return random_leaves(backbones.parameter_shapes(backbone))


def random_leaves(shapes: dict[str, Any]) -> Params:
    rng = np.random.default_rng(0)
    return {
        path: rng.normal(float(path.endswith("/scale")), 0.1, x.shape).astype(np.float32)
        for path, x in sorted(shapes.items())
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_has_torchs_logits(family: str, seed: int, tmp_path: Path) -> None:
    config = drawn(family, seed)
    model = torch_model(AutoModelForSequenceClassification, config)
    model.save_pretrained(tmp_path)
    backbone, params, fresh = read(tmp_path)
    assert not fresh
    batch = batch_of(family, config, backbone.pad_id, LENGTHS)
    logits_BxC = logits_of(backbone, params, batch)
    np.testing.assert_allclose(logits_BxC, torch_logits(family, model, batch), atol=1e-4, rtol=0)
    if family in HAVE_TYPES:
        others = {**batch, "types": np.zeros_like(batch["types"])}
        assert np.abs(logits_of(backbone, params, others) - logits_BxC).max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_as_near_to_float32_as_torchs(family: str, tmp_path: Path) -> None:
    config = tiny(family)
    model = torch_model(AutoModelForSequenceClassification, config)
    model.save_pretrained(tmp_path)
    backbone, params, _ = read(tmp_path, dtype="bfloat16")
    batch = batch_of(family, config, backbone.pad_id, (17,) * 4 + (11,) * 6 + (5,) * 6)
    exact = torch_logits(family, model, batch)
    error = logits_of(backbone, params, batch) - exact
    theirs = torch_logits(family, model.to(torch.bfloat16), batch) - exact
    # Both are rounding errors of the same size; their ratio was 0.77 to 1.22.
    assert np.sqrt(np.square(error).mean()) < 1.5 * np.sqrt(np.square(theirs).mean())


# What a checkpoint lacks: of a base model, a masked language model and ELECTRA's discriminator.
LACKS = [
    ("distilbert", AutoModel, ("pre_classifier/", "classifier/")),
    ("distilbert", AutoModelForMaskedLM, ("pre_classifier/", "classifier/")),
    ("electra", AutoModel, ("classifier/",)),
    ("electra", AutoModelForMaskedLM, ("classifier/",)),
    ("electra", AutoModelForPreTraining, ("classifier/",)),
    ("modernbert", AutoModel, ("head/", "classifier/")),
    ("modernbert", AutoModelForMaskedLM, ("classifier/",)),
    ("albert", AutoModel, ("classifier/",)),
    ("albert", AutoModelForMaskedLM, ("classifier/", "albert/pooler/")),
    ("mpnet", AutoModel, ("classifier/",)),
    ("mpnet", AutoModelForMaskedLM, ("classifier/",)),
]


@pytest.mark.parametrize(
    ("family", "auto_class", "lacks"), LACKS, ids=lambda x: getattr(x, "__name__", None)
)
def test_other_checkpoints_lack_the_head_alone(
    family: str, auto_class: Any, lacks: tuple[str, ...], tmp_path: Path
) -> None:
    model = torch_model(auto_class, tiny(family))
    model.save_pretrained(tmp_path)
    backbone, params, fresh = read(tmp_path)
    assert fresh
    shapes = backbones.parameter_shapes(backbone)
    assert fresh == sorted(path for path in shapes if path.startswith(lacks))
    tensors = model.state_dict()
    for path, x in params.items():
        name, is_transposed = torch_name(path)
        if auto_class is AutoModel:
            name = name.removeprefix(f"{backbone.family.prefix}.")
        tensor = tensors[name].numpy()
        np.testing.assert_array_equal(x, tensor.T if is_transposed else tensor, err_msg=path)


@pytest.mark.parametrize("family", HAVE_FLAX)
def test_paths_and_logits_are_those_of_transformers_flax_classes(
    family: str, flax_transformers: None
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import FlaxAutoModelForSequenceClassification as FlaxAuto

        config = tiny(family)
        fields = {name: x for name, x in config.items() if name != "model_type"}
        hf_config = AutoConfig.for_model(family, **fields, num_labels=3)
        theirs = FlaxAuto.from_config(hf_config, _do_init=False)
    backbone = backbones.from_config(config, num_labels=3)
    expected = backbones.flat(theirs.params_shape_tree)
    shapes = backbones.parameter_shapes(backbone)
    assert {p: (x.shape, x.dtype) for p, x in shapes.items()} == {
        p: (x.shape, x.dtype) for p, x in expected.items()
    }
    params = random_params(backbone)
    batch = batch_of(family, config, backbone.pad_id, LENGTHS)
    types = {"token_type_ids": batch["types"]} if family in HAVE_TYPES else {}
    found = theirs(batch["ids"], batch["mask"], **types, params=backbones.nested(params))
    logits_BxC = logits_of(backbone, params, batch)
    np.testing.assert_allclose(logits_BxC, found.logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("family", ["bert", "roberta", *FAMILIES])
def test_texts_in_one_row_are_as_they_are_alone(family: str, rows: int) -> None:
    """With the method that has most to do with attention: a prefix that all texts see."""
    config = tiny(family, num_hidden_layers=3)
    if family == "modernbert":
        config["classifier_pooling"] = "mean"
    backbone = backbones.from_config(config, num_labels=3)
    lengths = (2, 3, 6, 7, 9)
    alone = batch_of(family, config, backbone.pad_id, lengths)
    layout = packed(longest_by_rank(lengths, len(lengths)), rows)
    assert layout.parts == (
        ((2, 3), (2, 7), (1, 9))
        if rows == 1
        else ((1, 2), (1, 6), (1, 9))  # 2, 3 and 9 tokens in one row, 6 and 7 in the other
    )
    texts = Encoded(
        ids=[ids[:n] for ids, n in zip(alone["ids"], lengths, strict=True)],
        types=[types[:n] for types, n in zip(alone["types"], lengths, strict=True)],
        labels=np.arange(len(lengths), dtype=np.int32),
        lengths=np.asarray(lengths),
        pad_id=backbone.pad_id,
    )
    batch = fill(texts, np.arange(len(lengths)), layout)
    model = build_model(backbone, [], "prefix", {"prefix_length": 2, "train_pooler": True})
    params = random_leaves(model.shapes)

    @partial(jax.jit, compiler_options=QUICK)
    def logits(params: Params, batch: Batch) -> jax.Array:
        return model.forward(params, batch, None)

    places = layout.places(len(lengths))
    assert batch["labels"][places].tolist() == [0, 1, 2, 3, 4]
    found = logits(params, batch)[places]
    np.testing.assert_allclose(found, logits(params, alone), atol=1e-5, rtol=0)
    assert np.asarray(found).std() > 0.01


def test_albert_calls_one_layer_again_and_again() -> None:
    config = tiny("albert", num_hidden_layers=5, hidden_dropout_prob=0.5)
    backbone = backbones.from_config(config, num_labels=3)
    batch = batch_of("albert", config, backbone.pad_id, (6,))
    _, found = backbone.module.apply(
        {"params": backbones.nested(random_params(backbone))},
        *backbones.inputs(backbone, *(jnp.asarray(batch[k]) for k in ("ids", "mask", "types"))),
        deterministic=False,
        rngs={"dropout": jax.random.key(0)},
        capture_intermediates=lambda m, _: m.path[-2:] == ("ffn_end", "dropout"),
    )
    (calls,) = flatten_dict(found["intermediates"], sep="/").values()
    dropped = [np.asarray(x == 0) for x in calls]
    assert len(dropped) == 5
    # Each call drops others.
    assert all((dropped[0] != other).mean() > 0.3 for other in dropped[1:])


def test_mpnets_buckets_are_torchs() -> None:
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    places_L = torch.arange(700)
    relative_LxL = places_L[None, :] - places_L[:, None]
    expected_LxL = MPNetEncoder.relative_position_bucket(relative_LxL)
    np.testing.assert_array_equal(relative_buckets(700), expected_LxL.numpy())


def test_modernbert_reads_what_either_transformers_writes() -> None:
    old = {"num_hidden_layers": 4, "global_rope_theta": 5000.0, "local_rope_theta": 70.0}
    new = {
        "num_hidden_layers": 4,
        "layer_types": [*modernbert.MODERNBERT.read_config(old, 3).kinds],
        "rope_parameters": {
            "full_attention": {"rope_theta": 5000.0, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 70.0, "rope_type": "default"},
        },
    }
    found = [modernbert.MODERNBERT.read_config(given, 3) for given in (old, new)]
    for config in found:
        assert config.kinds == (modernbert.GLOBAL, *[modernbert.LOCAL] * 2, modernbert.GLOBAL)
        assert (config.global_rope_theta, config.local_rope_theta) == (5000.0, 70.0)


# Millions of parameters, rounded as the papers round them.
PUBLISHED = {
    "bert-base-cased": 110,  # Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3
    "bert-large-uncased": 340,
    "bert-base-multilingual-cased": 177,  # the model card of distilbert-base-multilingual-cased
    "distilroberta-base": 82,  # its model card
    "albert-large-v2": 18,  # Lan et al. 2019, https://arxiv.org/abs/1909.11942, table 1
    "xlm-roberta-base": 270,  # Conneau et al. 2020, https://arxiv.org/abs/1911.02116, table 1
    "xlm-roberta-large": 550,
    "camembert-base": 110,  # Martin et al. 2020, https://arxiv.org/abs/1911.03894, section 4.2
    "distilbert-base-uncased": 66,  # Sanh et al. 2019, https://arxiv.org/abs/1910.01108, table 3
    "google/electra-small-discriminator": 14,  # Clark et al. 2020, arxiv.org/abs/2003.10555
    "google/electra-base-discriminator": 110,
    "google/electra-large-discriminator": 335,
    "albert-base-v2": 12,
    "microsoft/mpnet-base": 110,  # Song et al. 2020, https://arxiv.org/abs/2004.09297
    "answerdotai/ModernBERT-base": 149,  # Warner et al. 2024, https://arxiv.org/abs/2412.13663
    "answerdotai/ModernBERT-large": 395,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_checkpoints_have_their_number_of_parameters(name: str) -> None:
    config = ARCHITECTURES[name]
    backbone = backbones.from_config(config, num_labels=3)
    shapes = backbones.parameter_shapes(backbone)
    encoder = {p: x for p, x in shapes.items() if p.startswith(f"{backbone.family.prefix}/")}
    found = sum(x.size for x in encoder.values())
    assert found == pytest.approx(PUBLISHED[name] * 1e6, rel=0.04)
    with torch.device("meta"):  # allocates nothing
        theirs = torch_model(AutoModel, config)
    has_pooler = bool(backbone.family.pooler)
    parameters = {n: x.numel() for n, x in theirs.named_parameters()}
    assert found == sum(n for p, n in parameters.items() if has_pooler or "pooler" not in p)


def test_a_local_theta_of_none_is_the_global_one() -> None:
    # As in transformers 4; transformers 5 cannot compute such a config.
    config = tiny("modernbert", num_hidden_layers=1, layer_types=["sliding_attention"])
    logits = []
    for theta in (None, 160000.0, 10.0):
        backbone = backbones.from_config({**config, "local_rope_theta": theta}, num_labels=3)
        batch = batch_of("modernbert", config, backbone.pad_id, LENGTHS)
        logits.append(logits_of(backbone, random_params(backbone), batch))
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 1e-4


REFUSED = [
    ("distilbert", {"sinusoidal_pos_embds": True}, "sinusoidal_pos_embds True"),
    ("distilbert", {"dim": 33}, "dim 33 does not divide by 2"),
    ("distilbert", {"n_layers": 0}, "n_layers 0; expected a number above 0"),
    ("distilbert", {"dropout": 1.5}, "dropout 1.5; expected a rate"),
    ("distilbert", {"activation": "gelux"}, "activation: unknown value 'gelux'"),
    ("electra", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ("electra", {"embedding_size": "128"}, "embedding_size '128'; expected int"),
    ("albert", {"num_hidden_groups": 2}, "num_hidden_groups 2"),
    ("albert", {"inner_group_num": 2}, "inner_group_num 2"),
    ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets 64"),
    ("mpnet", {"pad_token_id": 0}, "pad_token_id 0"),
    ("modernbert", {"norm_eps": 0}, "norm_eps 0; expected a number above 0"),
    ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling: unknown value 'max'"),
    ("modernbert", {"classifier_activation": "gelux"}, "classifier_activation"),
    ("modernbert", {"rope_scaling": {"type": "linear"}}, "rope_scaling"),
    ("modernbert", {"local_attention": 0}, "local_attention 0"),
    ("modernbert", {"layer_types": ["full_attention"]}, "layer_types has 1 entries"),
    ("modernbert", {"layer_types": ["full_attention", "other"]}, "layer_types: unknown"),
    (
        "modernbert",
        {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
        "rope_type 'yarn'",
    ),
    ("deberta-v2", {}, "model_type 'deberta-v2'"),
]


@pytest.mark.parametrize(("family", "changes", "said"), REFUSED)
def test_what_is_not_supported_is_refused_by_name(
    family: str, changes: Config, said: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**tiny(family), **changes}))
    with pytest.raises(InputError) as caught:
        backbones.load(tmp_path, num_labels=3)
    assert said in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["modernbert", "mpnet"])
def test_cudnn_is_refused_where_it_would_leave_something_out(family: str) -> None:
    with pytest.raises(InputError, match=f"attention of {family}; expected xla"):
        backbones.from_config(tiny(family), 3, dtype="bfloat16", attention="cudnn")
