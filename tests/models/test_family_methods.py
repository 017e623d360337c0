"""Every method trains every family: it starts as the backbone, and trains its own leaves alone."""

import json
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mesh_gradients
import numpy as np
import optax
import pytest
from families import FAMILIES, labelled_batch, tiny, torch_model
from mesh_gradients import first_gradients

import jaxft
from jaxft.data.tasks import load as load_task
from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models.backbone import Backbone, Params
from jaxft.peft.methods import COMMON
from jaxft.planning import targets
from jaxft.planning.planner import Job, plan
from jaxft.training.mesh import make_mesh
from jaxft.training.partition import split
from jaxft.training.state import Model, build_model, init_fresh
from jaxft.training.step import State, train_step

pytestmark = pytest.mark.slow

OPTIONS = {"rank": 4, "size": 8}

# The beginnings of the head's paths.
HEADS = {
    "distilbert": ("pre_classifier/", "classifier/"),
    "electra": ("classifier/",),
    "modernbert": ("head/", "classifier/"),
    "albert": ("albert/pooler/", "classifier/"),
    "mpnet": ("classifier/",),
}
# A layer's path, how many have one of their own, and where in it adapters and LoRAs go.
SITES = {
    "distilbert": (
        "distilbert/transformer/layer/{}",
        2,
        ("attention_end", "ffn_end"),
        ("attention/q_lin", "attention/v_lin"),
    ),
    "electra": (
        "electra/encoder/layer/{}",
        2,
        ("attention/output", "output"),
        ("attention/self/query", "attention/self/value"),
    ),
    "modernbert": ("model/layers/{}", 2, ("attn/Wo", "mlp/Wo"), ("attn/Wqkv",)),
    "albert": (
        "albert/encoder/albert_layer_groups/0/albert_layers/{}",
        1,
        ("attention/end", "ffn_end"),
        ("attention/query", "attention/value"),
    ),
    "mpnet": (
        "mpnet/encoder/layer/{}",
        2,
        ("attention/end", "output"),
        ("attention/attn/q", "attention/attn/v"),
    ),
}
PAIRS = [(f, m) for f in FAMILIES for m in COMMON if (f, m) != ("modernbert", "bitfit")]


@cache
def backbone_of(family: str, remat: str = "none", scan: str = "off") -> Backbone:
    rates = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    return backbones.from_config(tiny(family, **rates), num_labels=3, remat=remat, scan=scan)


@cache
def weights_of(family: str) -> Params:
    rng = np.random.default_rng(0)
    return {
        path: rng.normal(float(path.endswith("/scale")), 0.1, x.shape).astype(np.float32)
        for path, x in sorted(backbones.parameter_shapes(backbone_of(family)).items())
    }


@cache
def bare_logits(family: str) -> np.ndarray:
    def forward(params: Params) -> jax.Array:
        backbone = backbone_of(family)
        return backbones.forward(backbone, backbone.module, params, labelled_batch(family), None)

    return np.asarray(jax.jit(forward)(weights_of(family)))


def params_of(model: Model, family: str) -> Params:
    """The backbone's weights, and the method's modules as they are initialised."""
    inserted = set(model.shapes) - set(weights_of(family))
    return {**weights_of(family), **init_fresh(model, inserted, jax.random.key(0), make_mesh(1))}


def expected_leaves(family: str, method: str, own: Params) -> set[str]:
    """The paths that a method trains, by the tables of this file."""
    layer, count, blocks, targets_of_lora = SITES[family]
    adapters = [f"adapter/{d}/{leaf}" for d in ("down", "up") for leaf in ("kernel", "bias")]
    inserted = {
        "lora": [f"{target}/lora/{leaf}" for target in targets_of_lora for leaf in "ab"],
        "houlsby": [f"{block}/{leaf}" for block in blocks for leaf in adapters],
        "pfeiffer": [f"{blocks[1]}/{leaf}" for leaf in adapters],
    }
    leaves = {path for path in own if path.startswith(HEADS[family])}
    leaves |= {
        f"{layer.format(n)}/{leaf}" for n in range(count) for leaf in inserted.get(method, ())
    }
    if method == "bitfit":
        leaves |= {path for path in own if path.endswith("/bias")}
    return set(own) if method == "full" else leaves


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_a_method_starts_as_the_backbone_and_trains_its_own_leaves(
    family: str, method: str
) -> None:
    model = build_model(backbone_of(family), [], method, OPTIONS)
    trained, frozen = split(params_of(model, family), model.labels)
    own = weights_of(family)
    assert set(trained) == expected_leaves(family, method, own)
    assert set(trained) | set(frozen) == set(model.shapes)
    optimizer = optax.with_extra_args_support(optax.sgd(1.0))

    def step(trained: Params, frozen: Params, batch: Any) -> Any:
        logits_BxC = model.forward({**frozen, **trained}, batch, None)
        state = State(jnp.int32(0), trained, optimizer.init(trained))
        key = jax.random.key(0)
        return logits_BxC, train_step(model.forward, optimizer, state, frozen, batch, key)

    logits_BxC, (state, metrics) = jax.jit(step)(trained, frozen, labelled_batch(family))
    np.testing.assert_allclose(logits_BxC, bare_logits(family), atol=1e-6, rtol=0)
    assert np.isfinite(metrics["loss"])
    for path, x in frozen.items():
        np.testing.assert_array_equal(x, own[path], err_msg=path)
    # What multiplies a zero, as A does B and down does up, has no gradient in the first step.
    waits = re.compile(r".*/(lora/a|adapter/down/(kernel|bias))").fullmatch
    # Softmax does not see a key's bias, and no token is of type 1 or at a far place.
    unseen = re.compile(r".*(/(key|k_lin|k)/bias|embeddings/embedding)").fullmatch
    for path, x in state.trained.items():
        if not waits(path) and not unseen(path):
            assert not np.array_equal(x, trained[path]), path


@pytest.mark.parametrize("family", FAMILIES)
def test_remat_gives_the_same_loss_and_gradients(family: str) -> None:
    found = []
    for remat in ("none", "dots", "layer"):
        options = {**OPTIONS, "targets": ("all-linear",)}
        model = build_model(backbone_of(family, remat), [], "lora", options)
        params = params_of(model, family)
        rng = np.random.default_rng(1)
        shifted = {p: x + rng.normal(0, 0.05, x.shape) for p, x in sorted(params.items())}
        trained, frozen = split(shifted, model.labels)

        def loss(trained: Params, frozen: Params, model: Model = model) -> jax.Array:
            logits_BxC = model.forward(
                {**frozen, **trained}, labelled_batch(family), jax.random.key(3)
            )
            return jnp.square(logits_BxC).sum()

        found.append(jax.jit(jax.value_and_grad(loss))(trained, frozen))
    (expected, grads), *others = found
    for again, its_grads in others:
        np.testing.assert_allclose(again, expected, rtol=1e-6)
        for path, grad in grads.items():
            size = float(jnp.abs(grad).max())
            np.testing.assert_allclose(its_grads[path], grad, atol=1e-4 * size, err_msg=path)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "albert"])
def test_layers_in_a_loop_give_the_same_logits(family: str) -> None:
    rng = np.random.default_rng(1)
    found, params = [], {}
    for scan in ("off", "on"):
        model = build_model(backbone_of(family, scan=scan), [], "houlsby", OPTIONS)
        params = params or {
            path: x + rng.normal(0, 0.05, x.shape).astype(np.float32)
            for path, x in sorted(params_of(model, family).items())
        }
        forward = partial(model.forward, batch=labelled_batch(family), dropout_key=None)
        found.append(jax.jit(forward)(params))
    np.testing.assert_allclose(*found, atol=1e-6, rtol=0)
    assert np.abs(found[0] - bare_logits(family)).max() > 1e-3


ON_EIGHT_DEVICES = """
import json, sys, jax
sys.path.insert(0, "tests")
jax.config.update("jax_disable_most_optimizations", True)
from tests.models import test_family_methods as t
assert len(jax.devices()) == 8
print(json.dumps({family: t.furthest(family) for family in t.FAMILIES}))
"""


def furthest(family: str) -> float:
    """How far a mesh's gradients in full are from one device's; the layers are of every kind."""
    layers = 2 if family == "modernbert" else 1
    config = tiny(family, num_hidden_layers=layers, attention_probs_dropout_prob=0.1)
    model = build_model(backbones.from_config(config, num_labels=3), [], "full", {})
    weights, batch = weights_of(family), labelled_batch(family)
    return mesh_gradients.furthest(partial(first_gradients, model, weights, batch))


def test_eight_devices_compute_what_one_does() -> None:
    from tests.training.test_mesh import run_on_eight_devices

    found = run_on_eight_devices(ON_EIGHT_DEVICES)
    assert set(found) == set(FAMILIES)
    assert all(off < 1e-5 for off in found.values()), found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_planner_plans_it(family: str) -> None:
    job = Job(
        architecture=tiny(family),
        num_labels=3,
        newly_initialised=(),
        dtype="bfloat16",
        remat="dots",
        method="houlsby",
        options=OPTIONS,
        clip=1.0,
        accumulate=1,
        batch_size=4,
        length=16,
        target=targets.parse("cpu"),
        mesh={"data": 1, "fsdp": 1, "tensor": 1},
    )
    row = plan(job)
    own = backbones.parameter_shapes(backbone_of(family))
    head = sum(x.size for path, x in own.items() if path.startswith(HEADS[family]))
    layers = SITES[family][1]
    assert row["parameters"]["trained"] == head + layers * 2 * (2 * 32 * 8 + 8 + 32)
    assert sum(row["breakdown"].values()) == row["compiled"]["peak"]


@pytest.mark.parametrize(
    ("family", "method", "options", "said"),
    [
        ("modernbert", "bitfit", {}, "the layers of this modernbert model have none"),
        (
            "modernbert",
            "houlsby",
            {"train_layer_norm": True},
            "method.train_layer_norm: modernbert",
        ),
        ("albert", "lora", {"layers": (-1,)}, "method.layers: the layers of albert share"),
        ("albert", "pfeiffer", {"layers": (0,)}, "method.layers: the layers of albert share"),
        ("mpnet", "lora", {"targets": ("q",)}, "expected some of query, key, value, dense"),
    ],
)
def test_what_a_method_cannot_do_is_refused_by_name(
    family: str, method: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        build_model(backbone_of(family), [], method, options)
    assert said in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_shorthands_of_targets_divide_the_dense_layers(family: str) -> None:
    def chosen(*names: str) -> set[str]:
        model = build_model(backbone_of(family), [], "lora", {"targets": names})
        return {path for path in model.shapes if path.endswith("/lora/a")}

    parts = [chosen(name) for name in ("query", "key", "value", "dense")]
    assert set.union(*parts) == chosen("all-linear")
    assert not (parts[0] | parts[1] | parts[2]) & parts[3]


@pytest.mark.parametrize("family", ["distilbert", "albert", "mpnet"])
def test_layer_norms_after_adapters_can_be_trained(family: str) -> None:
    model = build_model(backbone_of(family), [], "pfeiffer", {"train_layer_norm": True})
    norms = [p for p, label in model.labels.items() if label.startswith("adapter") and "orm/" in p]
    assert len(norms) == 2 * SITES[family][1]
    assert all(re.search(r"/(output/LayerNorm|\w*layer_norm)/(scale|bias)$", p) for p in norms)


def write_tokenizer(directory: Path, texts: list[str]) -> None:
    """Writes a byte-level BPE without token types, as ModernBERT has; padding is token 3."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = dict(zip(("unk", "cls", "sep", "pad"), special, strict=True))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in names.items()},
    ).save_pretrained(directory)


@pytest.mark.parametrize(("family", "method"), [("modernbert", "houlsby"), ("distilbert", "lora")])
def test_a_run_from_a_masked_language_model_to_predictions(
    family: str, method: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForMaskedLM

    data = load_task("restaurant", source="sample")
    base = tmp_path / "base"
    write_tokenizer(base, [f"{example.text} {example.pair}" for example in data.train])
    config = tiny(family, vocab_size=300, pad_token_id=3)
    torch_model(AutoModelForMaskedLM, config).save_pretrained(base)
    fields = {"data.source": "sample", "data.max_length": 24, "batch_size": 16, "epochs": 1}
    run = jaxft.finetune("restaurant", str(base), method, workdir=tmp_path / "run", **fields)
    classifier = jaxft.load(run.directory)
    rows = [((example.text, example.pair or ""), example.label) for example in data.test]
    scores = classifier.evaluate(rows)
    assert scores["macro_f1"] == run.results["test"]["macro_f1"]
    assert scores["loss"] == pytest.approx(run.results["test"]["loss"], rel=1e-5)
    saved = json.loads((run.directory / "adapter" / "settings.json").read_text())["parameters"]
    model = build_model(backbone_of(family), [], method, {})
    assert set(saved) == {p for p, label in model.labels.items() if label != "frozen"}


def test_a_loop_over_albert_is_refused() -> None:
    with pytest.raises(InputError, match="'on' stacks the parameters of layers"):
        backbone_of("albert", scan="on")
    assert not backbones.from_config(tiny("albert", num_hidden_layers=12), 3, scan="auto").scans
