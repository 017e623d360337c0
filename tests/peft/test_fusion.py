"""A fusion is made of trained adapters: it starts as one that it is made of alone, and needs them
to be adapters of the same base model, in the same places.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models.backbone import Backbone, Params
from jaxft.run import build
from jaxft.training.mesh import make_mesh
from jaxft.training.partition import split
from jaxft.training.state import Model, build_model, init_params
from tests.peft.trained_adapters import write_adapter

pytestmark = pytest.mark.slow

Config = dict[str, Any]
MakeModel = Callable[..., tuple[Model, Params]]
MakeBatch = Callable[[Config], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def backbone(tiny_bert_config: Config) -> Backbone:
    return backbones.from_config(tiny_bert_config, num_labels=3)


def started(model: Model, own: Params) -> Params:
    """The backbone's parameters and the fusion as it starts."""
    paths = set(model.shapes) - set(own)
    return {**own, **init_params(model, {}, 0, make_mesh(1), paths)}


@pytest.mark.parametrize("method", ["pfeiffer", "houlsby"])
def test_the_fusion_of_one_adapter_is_that_adapter(
    method: str, backbone: Backbone, make_model: MakeModel, make_batch: MakeBatch, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "one", backbone, method, seed=1)
    alone, own = make_model(method, size=8, activation="relu")
    own = {path: own[path] for path in backbones.parameter_shapes(backbone)}
    model = build_model(backbone, [], "fusion", {"adapters": (str(tmp_path / "one"),)})
    batch = make_batch({**vars(backbone.config), "type_vocab_size": 2})
    expected = alone.forward({**own, **adapter}, batch, None)
    found = model.forward(started(model, own), batch, None)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    plain = backbones.forward(backbone, backbone.module, own, batch, None)
    assert np.abs(expected - plain).max() > 0.01


def test_its_adapters_are_frozen_copies_and_the_rest_is_trained(
    backbone: Backbone, tmp_path: Path
) -> None:
    adapters = [
        write_adapter(tmp_path / str(n), backbone, "pfeiffer", n, size=4 + 4 * n) for n in (0, 1)
    ]
    # The folder of the adapter is as good as its run's.
    names = (str(tmp_path / "0"), str(tmp_path / "1" / "adapter"))
    model = build_model(backbone, [], "fusion", {"adapters": names})
    trained, frozen = split(model.shapes, model.labels)
    blocks = {f"bert/encoder/layer/{n}/output" for n in (0, 1)}
    parts = ("query/kernel", "query/bias", "key/kernel", "key/bias", "value/kernel")
    head = {path for path in trained if path.startswith(("classifier/", "bert/pooler/"))}
    assert set(trained) - head == {f"{b}/fusion/{part}" for b in blocks for part in parts}
    added = {path for path in frozen if "/adapter_" in path}
    values = init_params(model, {}, 0, make_mesh(1), added)
    for path, x in values.items():
        block, _, rest = path.partition("/adapter_")
        number, _, leaf = rest.partition("/")
        np.testing.assert_array_equal(x, adapters[int(number)][f"{block}/adapter/{leaf}"])
    assert len(added) == 2 * 4 * len(blocks)


def test_a_finished_fusion_needs_the_directories_no_more(
    backbone: Backbone, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "one", backbone, "houlsby", seed=1, layers=(1,))
    model = build_model(backbone, [], "fusion", {"adapters": (str(tmp_path / "one"),)})
    settled = json.loads(json.dumps(model.applied.settled))
    again = build_model(backbone, [], "fusion", settled)
    assert again.shapes == model.shapes
    assert again.labels == model.labels
    with pytest.raises(InputError, match=r"method\.adapters: .* not a directory"):
        init_params(again, {}, 0, make_mesh(1), [p for p in again.shapes if "/adapter_0/" in p])


def test_adapters_of_another_base_model_are_refused(
    backbone: Backbone, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    write_adapter(tmp_path / "one", backbone, "pfeiffer", seed=1)
    model = build_model(backbone, [], "fusion", {"adapters": (str(tmp_path / "one"),)})
    with pytest.raises(InputError, match=r"one/adapter: trained on another base model than .*: "):
        build.check_sources(model.applied.sources, tiny_checkpoint)


def test_what_cannot_be_fused_is_refused_by_name(backbone: Backbone, tmp_path: Path) -> None:
    for name, method, options in (
        ("pfeiffer", "pfeiffer", {}),
        ("houlsby", "houlsby", {}),
        ("top", "pfeiffer", {"layers": (1,)}),
        ("lora", "lora", {}),
        ("norms", "pfeiffer", {"train_layer_norm": True}),
    ):
        write_adapter(tmp_path / name, backbone, method, seed=0, **options)
    cases = [
        ((), (), "method.adapters: empty"),
        (("none",), (), "settings.json: not there"),
        (("pfeiffer", "houlsby"), (), "have their adapters in different places"),
        (("pfeiffer", "top"), (), "have their adapters in different places"),
        (("lora",), (), "unknown value 'lora'; expected one of houlsby, pfeiffer"),
        (("norms",), (), "layer/0/output/LayerNorm/bias as well, which a fusion cannot have"),
        (("pfeiffer",), (0,), "method.layers: a fusion is where its adapters are"),
    ]
    for names, layers, said in cases:
        options = {"adapters": tuple(str(tmp_path / name) for name in names), "layers": layers}
        with pytest.raises(InputError) as caught:
            build_model(backbone, [], "fusion", options)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_each_layer_of_a_loop_has_its_own_adapters(
    backbone: Backbone, make_model: MakeModel, make_batch: MakeBatch, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "one", backbone, "pfeiffer", seed=1)
    options = {"adapters": (str(tmp_path / "one"),) * 2}
    batch = make_batch({**vars(backbone.config), "type_vocab_size": 2})
    found = []
    for scan in ("off", "on"):
        model, params = make_model("fusion", scan=scan, **options)
        rng = np.random.default_rng(0)
        moved = {p: x + rng.normal(0, 0.1, x.shape).astype("f4") for p, x in sorted(params.items())}
        found.append(jax.jit(lambda p, m=model: m.forward(p, batch, None))(moved))
    np.testing.assert_allclose(*found, atol=1e-6, rtol=0)
