"""Scores equal scikit-learn's on any logits, absent classes included."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.training.metrics import ROWS, Gathered, score
from jaxft.training.step import losses

NAMES = ("negative", "neutral", "positive", "conflict")


@st.composite
def splits(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels, of a few examples or of more than are scored at a time."""
    n, c = draw(st.sampled_from([1, 6, 30, ROWS, 2 * ROWS + 1])), draw(st.sampled_from([2, 4]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    labels, predicted = (rng.choice(draw(st.integers(1, c)), size=n) for _ in range(2))
    noise = rng.normal(size=(n, c))
    return (noise + 20 * np.eye(c)[predicted]).astype(np.float32), labels.astype(np.int32)


@settings(deadline=None, max_examples=30)
@given(splits())
def test_scores_equal_scikit_learn(split: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = split
    names = NAMES[: logits.shape[1]]
    classes, predicted = list(range(len(names))), logits.argmax(-1)
    scores = score(logits, labels, names, majority=1)

    def sklearn_f1(average: str) -> float:
        return sklearn.metrics.f1_score(
            labels, predicted, labels=classes, average=average, zero_division=0
        )

    assert scores["examples"] == len(labels)
    assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    assert scores["micro_f1"] == pytest.approx(sklearn_f1("micro"))
    assert scores["macro_f1"] == pytest.approx(sklearn_f1("macro"))
    assert scores["micro_f1"] == pytest.approx(scores["accuracy"])
    assert scores["majority_accuracy"] == pytest.approx((labels == 1).mean())
    assert scores["collapsed"] is bool(len(set(predicted.tolist())) == 1)
    matrix = sklearn.metrics.confusion_matrix(labels, predicted, labels=classes)
    assert scores["confusion"] == matrix.tolist()
    by_class = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0
    )
    assert scores["weighted_f1"] == pytest.approx(sklearn_f1("weighted"))
    # Of one class alone scikit-learn's is 0 as well, with a warning.
    is_one = len(np.unique([labels, predicted])) == 1
    mcc = 0.0 if is_one else sklearn.metrics.matthews_corrcoef(labels, predicted)
    assert scores["mcc"] == pytest.approx(mcc)
    assert list(scores["per_class"]) == list(names)
    for name, *figures in zip(names, *by_class, strict=True):
        assert list(scores["per_class"][name].values()) == pytest.approx(figures)


def test_a_class_that_occurs_nowhere_counts_as_0_in_macro_f1() -> None:
    labels = np.asarray([0, 0, 1, 1], np.int32)
    predicted = np.asarray([0, 0, 1, 0])
    ours = score(10 * np.eye(3, dtype=np.float32)[predicted], labels, NAMES[:3], majority=0)

    def sklearns(**options: list[int]) -> float:
        return sklearn.metrics.f1_score(
            labels, predicted, average="macro", zero_division=0, **options
        )

    assert ours["macro_f1"] == pytest.approx(sklearns(labels=[0, 1, 2]))
    # Its default leaves the class out.
    assert sklearns() == pytest.approx(1.5 * ours["macro_f1"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_have_no_score(value: float) -> None:
    # Class 0 is the most frequent one, and the argmax of a row of NaN.
    labels = np.asarray([0, 0, 0, 1], np.int32)
    logits = np.eye(2, dtype=np.float32)[labels]
    logits[2, 1] = value
    scores = score(logits, labels, NAMES[:2], majority=0)
    assert scores["finite"] is False
    assert scores["examples"] == 4
    assert scores["majority_accuracy"] == 0.75
    for name in ("accuracy", "micro_f1", "macro_f1", "loss", "confusion"):
        assert scores[name] is None
    assert scores["per_class"] == {}
    assert scores["collapsed"] is False


@settings(deadline=None, max_examples=30)
@given(splits())
def test_loss_equals_scikit_learns_log_loss(split: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = split
    logits = logits / 4  # away from where log_loss clips
    exp = np.exp(logits.astype(np.float64))
    probabilities = exp / exp.sum(-1, keepdims=True)
    expected = sklearn.metrics.log_loss(labels, probabilities, labels=range(logits.shape[1]))
    found = score(logits, labels, NAMES[: logits.shape[1]], majority=0)["loss"]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


@settings(deadline=None, max_examples=10)
@given(splits())
def test_merging_batches_equals_all_at_once(split: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = split

    def gather(rows: slice) -> Gathered:
        part = logits[rows], labels[rows]
        ones = np.ones(len(part[0]), np.float32)
        return Gathered.single_from_model_output(
            logits=part[0], labels=part[1], losses=losses(*part), mask=ones
        )

    whole = gather(slice(None)).compute()
    merged = gather(slice(0, 1))
    for start in range(1, len(labels), 5):
        merged = merged.merge(gather(slice(start, start + 5)))
    assert (merged.compute()["confusion"] == whole["confusion"]).all()
    assert merged.compute()["loss"] == pytest.approx(float(whole["loss"]), rel=1e-5)


def test_rows_off_the_mask_count_in_nothing_that_is_gathered() -> None:
    logits = np.asarray([[2.0, 0.0], [0.0, 1.0], [0.0, 9.0]], np.float32)
    labels = np.asarray([0, 0, 0], np.int32)

    def gather(rows: int, mask: list[int]) -> dict[str, np.ndarray]:
        return Gathered.single_from_model_output(
            logits=logits[:rows],
            labels=labels[:rows],
            losses=losses(logits[:rows], labels[:rows]),
            mask=np.asarray(mask, bool),
        ).compute()

    padded, plain = gather(3, [1, 1, 0]), gather(2, [1, 1])
    assert padded["confusion"].tolist() == plain["confusion"].tolist() == [[1, 1], [0, 0]]
    assert padded["loss"] == pytest.approx(float(plain["loss"]))


def test_no_examples_give_no_figures() -> None:
    scores = score(np.zeros((0, 3), np.float32), np.zeros(0, np.int32), NAMES[:3], majority=0)
    assert scores.pop("examples") == 0
    assert scores.keys() >= {"accuracy", "micro_f1", "macro_f1", "loss", "collapsed"}
    assert set(scores.values()) == {None}


def test_the_majority_of_restaurant_is_told_from_an_adapters_result() -> None:
    labels = np.asarray([0] * 196 + [1] * 196 + [2] * 728, np.int32)
    logits = np.tile(np.asarray([0.1, 0.2, 0.3], np.float32), (1120, 1))
    scores = score(logits, labels, NAMES[:3], majority=2)
    assert scores["collapsed"] is True
    assert round(scores["accuracy"], 4) == 0.6500
    assert scores["majority_accuracy"] == scores["accuracy"]
    assert round(scores["macro_f1"], 4) == 0.2626
    assert scores["per_class"]["neutral"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 196,
    }
