"""Several trained models over one base model: each predicts as alone, and one batch mixes them."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxft
from jaxft.training import feed

# Trains four tiny models.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

ACL = ["We use the parser of Collins (1999).", "In future work we will see.", "It is " * 9]
PAIRS = [("food", "The food was great."), ("service", "Slow service, good food.")]
SHORT = {"source": "sample", "epochs": 1, "max_length": 32, "batch_size": 16}


@pytest.fixture(scope="module")
def runs(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """LoRA on two tasks with other labels, adapters on one of them, and a fully trained model."""
    wanted = {
        "acl": ("acl_sup", "lora", {"rank": 4}),
        "restaurant": ("restaurant_sup", "lora", {"rank": 4}),
        "houlsby": ("acl_sup", "houlsby", {"size": 8}),
        "full": ("acl_sup", "full", {}),
    }
    return {
        name: jaxft.finetune(
            *(task, str(tiny_checkpoint), method),
            workdir=tmp_path_factory.mktemp(name) / "run",
            **SHORT,
            **options,
        ).directory
        for name, (task, method, options) in wanted.items()
    }


@pytest.fixture
def classifier(runs: dict[str, Path]) -> jaxft.Classifier:
    """The three that share a base model; "default" is LoRA on ACL-ARC."""
    loaded = jaxft.load(runs["acl"])
    loaded.add("restaurant", runs["restaurant"])
    loaded.add("houlsby", runs["houlsby"])
    return loaded


def probabilities(predictions: list[Any]) -> list[list[float]]:
    return [list(one.probabilities.values()) for one in predictions]


def test_each_is_used_by_its_name_as_if_alone(
    classifier: jaxft.Classifier, runs: dict[str, Path]
) -> None:
    assert classifier.adapters == ("default", "restaurant", "houlsby")
    assert classifier.use("restaurant").labels == jaxft.load(runs["restaurant"]).labels
    assert classifier.predict(PAIRS) == jaxft.load(runs["restaurant"]).predict(PAIRS)
    assert classifier.use("houlsby").predict(ACL) == jaxft.load(runs["houlsby"]).predict(ACL)
    assert classifier.use("default").predict(ACL) == jaxft.load(runs["acl"]).predict(ACL)


def test_a_mixed_batch_predicts_as_each_alone(
    classifier: jaxft.Classifier, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[int]] = []
    fill = feed.fill

    def seen(data: Any, indices: Any, *others: Any) -> Any:
        batches.append(data.labels[indices].tolist())
        return fill(data, indices, *others)

    monkeypatch.setattr(feed, "fill", seen)
    texts = [ACL[0], PAIRS[0], ACL[1], PAIRS[1], ACL[2], ACL[0]]
    names = ["default", "restaurant", "default", "restaurant", "default", "houlsby"]
    found = classifier.predict(texts, adapters=names)
    # The two LoRAs are in one batch; the adapters are another program.
    assert any(len(set(batch)) == 2 for batch in batches)
    directories = {"default": "acl", "restaurant": "restaurant", "houlsby": "houlsby"}
    for text, name, prediction in zip(texts, names, found, strict=True):
        (alone,) = jaxft.load(runs[directories[name]]).predict([text])
        assert prediction.label == alone.label
        np.testing.assert_allclose(*map(probabilities, ([prediction], [alone])), atol=1e-5)


def test_the_base_model_is_on_the_devices_once(classifier: jaxft.Classifier) -> None:
    first, *others = (classifier._predictors[name] for name in classifier.adapters)
    for member in others:
        assert member.frozen.keys() == first.frozen.keys()
        assert all(member.frozen[path] is x for path, x in first.frozen.items())
        own = sum(x.nbytes for x in jax.tree.leaves(member.leaves))
        assert own < 0.5 * sum(x.nbytes for x in first.frozen.values())


def test_what_does_not_go_together_is_refused(
    classifier: jaxft.Classifier, runs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(jaxft.InputError, match="name: 'houlsby' is taken"):
        classifier.add("houlsby", runs["acl"])
    with pytest.raises(jaxft.InputError, match="load it by itself"):
        classifier.add("full", runs["full"])
    with pytest.raises(jaxft.InputError, match="did you mean 'houlsby'"):
        classifier.use("houlsbi")
    with pytest.raises(jaxft.InputError, match="adapters: 1 names; expected one for each of 3"):
        classifier.predict(ACL, adapters=["default"])
    with pytest.raises(jaxft.InputError, match="adapters: unknown value 'none'"):
        classifier.predict(ACL[:1], adapters=["none"])
    assert classifier.predict([], adapters=[]) == []
