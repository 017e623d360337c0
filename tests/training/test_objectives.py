"""Objectives: scores equal scikit-learn's and scipy's, and what is undefined is None."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import jax
import numpy as np
import optax
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.errors import InputError
from jaxft.training import objectives
from jaxft.training.objectives import MULTI_LABEL, OBJECTIVES, REGRESSION, SINGLE_LABEL, Metric
from jaxft.training.objectives import objective as registry
from jaxft.training.selection import best_entry, stops_early

NAMES = ("food", "music", "sport", "travel")


@st.composite
def label_sets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Logits and targets, NxC; few sizes, because JAX compiles for each."""
    n, c = draw(st.sampled_from([1, 5, 20])), draw(st.sampled_from([2, 4]))
    bits = st.lists(st.integers(0, 1), min_size=n * c, max_size=n * c)
    true = np.reshape(draw(bits), (n, c)).astype(np.float32)
    predicted = np.reshape(draw(bits), (n, c))
    noise = np.random.default_rng(draw(st.integers(0, 9))).uniform(0.1, 3, (n, c))
    return ((2 * predicted - 1) * noise).astype(np.float32), true


@settings(deadline=None, max_examples=40)
@given(label_sets())
def test_multi_label_scores_equal_scikit_learn(split: tuple[np.ndarray, np.ndarray]) -> None:
    logits, true = split
    names = NAMES[: true.shape[1]]
    predicted = (logits > 0).astype(int)
    found = MULTI_LABEL.scores(logits, true, names, [-1.0] * len(names))
    for average in ("micro", "macro", "samples", "weighted"):
        expected = sklearn.metrics.f1_score(true, predicted, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    assert found["subset_accuracy"] == pytest.approx(
        sklearn.metrics.accuracy_score(true, predicted)
    )
    assert found["hamming_loss"] == pytest.approx(sklearn.metrics.hamming_loss(true, predicted))
    assert found["ranking_precision"] == pytest.approx(
        sklearn.metrics.label_ranking_average_precision_score(true, logits)
    )
    by_class = sklearn.metrics.precision_recall_fscore_support(true, predicted, zero_division=0)
    for name, *figures in zip(names, *by_class, strict=True):
        assert list(found["per_class"][name].values()) == pytest.approx(figures)
    assert found["collapsed"] is (len(np.unique(predicted, axis=0)) == 1)
    none = sklearn.metrics.accuracy_score(true, np.zeros_like(predicted))
    assert found["baseline"]["subset_accuracy"] == pytest.approx(none)
    json.dumps(found, allow_nan=False)


def test_one_label_alone_is_scored() -> None:
    logits, true = np.asarray([[1.0], [-1.0], [2.0]], np.float32), np.asarray([[1], [1], [0]])
    found = MULTI_LABEL.scores(logits, true.astype(np.float32), ("spam",), [1.0])
    assert found["micro_f1"] == found["macro_f1"] == pytest.approx(0.5)


@settings(deadline=None, max_examples=20)
@given(label_sets())
def test_the_multi_label_loss_is_optaxs_and_weights_count_positives(
    split: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, true = split
    expected = np.asarray(optax.sigmoid_binary_cross_entropy(logits, true))
    np.testing.assert_allclose(MULTI_LABEL.losses(logits, true), expected.mean(-1), rtol=1e-5)
    names = NAMES[: true.shape[1]]
    weights = ",".join(["3"] + ["1"] * (len(names) - 1))
    weighted = MULTI_LABEL.training_losses(true, names, weights, 0.0)(logits, true)
    factors = np.where((true == 1) & (np.arange(len(names)) == 0), 3, 1)
    np.testing.assert_allclose(weighted, (factors * expected).mean(-1), rtol=1e-5)
    smoothed = MULTI_LABEL.training_losses(true, names, "", 0.2)(logits, true)
    soft = np.asarray(optax.sigmoid_binary_cross_entropy(logits, 0.8 * true + 0.1))
    np.testing.assert_allclose(smoothed, soft.mean(-1), rtol=1e-4, atol=1e-6)


def test_balanced_weights_are_negatives_by_positives() -> None:
    true = np.asarray([[1, 0], [0, 0], [0, 0], [0, 0]], np.float32)
    losses = MULTI_LABEL.training_losses(true, ("a", "b"), "balanced", 0.0)
    zeros = np.zeros((1, 2), np.float32)
    present = losses(zeros, np.ones((1, 2), np.float32))
    # ln 2 for each label at p = 0.5; the first label is there once and absent three times.
    assert float(present[0]) == pytest.approx((3 + 1) * np.log(2) / 2)


def test_a_label_that_every_text_has_keeps_its_weight() -> None:
    true = np.asarray([[1, 0, 0], [1, 1, 0]], np.float32)
    losses = MULTI_LABEL.training_losses(true, ("all", "some", "none"), "balanced", 0.0)
    zeros = np.zeros((1, 3), np.float32)
    for label in range(3):
        only = np.eye(3, dtype=np.float32)[[label]]
        assert float(losses(zeros, only)[0]) == pytest.approx(np.log(2))


def test_an_objective_that_shows_the_loss_is_refused() -> None:
    class ShowsLoss(type(MULTI_LABEL)):  # type: ignore[misc]  # a class that is known at run time
        name = "shows_loss"
        shown = ("micro_f1", "loss")

    with pytest.raises(InputError, match="metric: unknown value 'loss'"):
        objectives.register(ShowsLoss())
    assert "shows_loss" not in OBJECTIVES


numbers = st.lists(st.integers(-50, 50), min_size=2, max_size=20)


@settings(deadline=None, max_examples=60)
@given(numbers, st.integers(0, 9))
def test_regression_scores_equal_scipy(values: list[int], seed: int) -> None:
    true = np.asarray(values, np.float32) / 10
    logits = true[:, None] + np.random.default_rng(seed).normal(size=(len(true), 1))
    logits = logits.astype(np.float32)
    found = REGRESSION.scores(logits, true, (), [1.5])
    predicted = logits[:, 0].astype(np.float64)
    exact = true.astype(np.float64)
    assert found["mse"] == pytest.approx(sklearn.metrics.mean_squared_error(exact, predicted))
    assert found["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(exact, predicted))
    assert found["loss"] == pytest.approx(found["mse"], rel=1e-5)
    assert found["baseline"]["mse"] == pytest.approx(np.mean((exact - 1.5) ** 2))
    if np.ptp(true) == 0:
        assert found["pearson"] is None
        assert found["spearman"] is None
    else:
        assert found["pearson"] == pytest.approx(
            scipy.stats.pearsonr(exact, predicted).statistic, abs=1e-9
        )
        assert found["spearman"] == pytest.approx(
            scipy.stats.spearmanr(exact, predicted).statistic, abs=1e-9
        )
    json.dumps(found, allow_nan=False)


def test_constant_predictions_have_no_correlation_and_are_collapsed() -> None:
    true = np.asarray([1.0, 2.0, 4.0], np.float32)
    found = REGRESSION.scores(np.full((3, 1), 2.5, np.float32), true, (), [2.0])
    assert found["pearson"] is None
    assert found["spearman"] is None
    assert found["collapsed"] is True
    assert found["constant"] == 2.5
    assert found["mae"] == pytest.approx(3.5 / 3)
    same = MULTI_LABEL.scores(np.ones((3, 2), np.float32), np.eye(3, 2), NAMES[:2], [1, 1])
    assert same["collapsed"] is True
    assert same["constant"] == ["food", "music"]


def split_of(name: str, count: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], list[float]]:
    """Random logits, their targets, the class names and the baseline of an objective."""
    rng = np.random.default_rng(0)
    objective = OBJECTIVES[name]
    names = () if name == "regression" else NAMES
    targets = {
        "single_label": rng.integers(0, 4, count).astype(np.int32),
        "multi_label": rng.integers(0, 2, (count, 4)).astype(np.float32),
        "regression": rng.normal(size=count).astype(np.float32),
    }[name]
    logits = rng.normal(size=(count, objective.outputs(names))).astype(np.float32)
    return logits, targets, names, [0.5] * objective.outputs(names)


@pytest.mark.parametrize("name", ["single_label", "multi_label", "regression"])
def test_no_examples_and_logits_that_are_not_finite_give_no_figures(name: str) -> None:
    objective = OBJECTIVES[name]
    logits, targets, names, baseline = split_of(name, 5)
    empty = objective.scores(logits[:0], targets[:0], names, baseline)
    assert empty["examples"] == 0
    assert {empty[metric] for metric in [*objective.all_metrics(), "loss", "collapsed"]} == {None}
    for bad in (np.nan, np.inf, -np.inf):
        broken = logits.copy()
        broken[2, 0] = bad
        found = objective.scores(broken, targets, names, baseline)
        assert found["finite"] is False
        assert found["examples"] == 5
        assert found["collapsed"] is False
        assert {found[metric] for metric in [*objective.all_metrics(), "loss"]} == {None}
        json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("name", ["single_label", "multi_label", "regression"])
def test_a_split_has_every_score_that_select_may_name(name: str) -> None:
    objective = OBJECTIVES[name]
    found = objective.scores(*split_of(name, 20))
    for metric in [*objective.all_metrics(), "loss"]:
        assert isinstance(found[metric], float)
        assert objective.check_metric(metric) == metric
    assert objective.check_metric("auto") == objective.default
    with pytest.raises(InputError, match="metric: unknown value"):
        objective.check_metric("bleu")


@pytest.mark.parametrize("name", ["single_label", "multi_label", "regression"])
def test_the_gradient_of_a_loss_is_finite_and_the_loss_has_a_value_an_example(name: str) -> None:
    objective = OBJECTIVES[name]
    logits, targets, names, _ = split_of(name, 6)
    losses = objective.training_losses(targets, names, "", 0.0)
    assert losses(logits, targets).shape == (6,)
    gradient = jax.grad(lambda x: losses(x, targets).mean())(1e3 * logits)
    assert np.isfinite(gradient).all()
    target = objective.target(logits.shape[1])
    assert targets.shape == (6, *target.shape)
    assert targets.dtype == target.dtype


def test_a_setting_that_an_objective_does_not_have_is_refused_by_name() -> None:
    true = np.asarray([1.0, 2.0], np.float32)
    with pytest.raises(InputError, match="class_weights: 'balanced'; objective 'regression' has"):
        REGRESSION.training_losses(true, (), "balanced", 0.0)
    with pytest.raises(InputError, match=r"label_smoothing: 0\.1; objective 'regression' has"):
        REGRESSION.training_losses(true, (), "", 0.1)
    with pytest.raises(InputError, match="class_weights: '1'; expected 'balanced' or 2 numbers"):
        MULTI_LABEL.training_losses(np.eye(2), ("a", "b"), "1", 0.0)


def test_baselines_are_the_mode_and_the_mean_of_train() -> None:
    sets = np.asarray([[1, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    assert MULTI_LABEL.baseline(sets, ("a", "b")) == [1.0, -1.0]
    assert MULTI_LABEL.baseline_name([1.0, -1.0], ("a", "b")) == "most frequent labels (a)"
    assert MULTI_LABEL.baseline_name([-1.0, -1.0], ("a", "b")) == "most frequent labels (none)"
    assert REGRESSION.baseline(np.asarray([1, 2, 6], np.float32), ()) == [3.0]
    assert SINGLE_LABEL.baseline(np.asarray([1, 2, 2]), ("a", "b", "c")) == [0.0, 0.0, 1.0]


# ---------------------------------------------------------------- selection and the registry


def entry(epoch: int, **dev: Any) -> dict[str, Any]:
    return {"epoch": epoch, "step": epoch, "train_loss": 1.0, "dev": {"finite": True, **dev}}


def test_the_best_epoch_has_the_least_error_or_the_highest_correlation() -> None:
    rows = [(0.5, 0.9), (0.2, None), (0.3, 0.7)]
    history = [entry(i, mse=mse, pearson=r) for i, (mse, r) in enumerate(rows, 1)]
    assert best_entry(history, "mse")["epoch"] == 2
    assert best_entry(history, "pearson")["epoch"] == 1
    # An epoch without a correlation is sound, but no better than any other.
    assert best_entry(history[1:2], "pearson")["epoch"] == 2
    assert stops_early(history, 1, "mse")
    assert not stops_early(history[:2], 1, "mse")


def test_an_epoch_that_is_not_finite_is_never_the_best() -> None:
    history = [entry(1, mse=2.0), entry(2, mse=None) | {"dev": {"mse": None, "finite": False}}]
    assert best_entry(history, "mse")["epoch"] == 1


@pytest.fixture
def further() -> Iterator[None]:
    before = {name: dict(own) for name, own in registry._FURTHER.items()}
    yield
    registry._FURTHER.clear()
    registry._FURTHER.update(before)


@pytest.mark.usefixtures("further")
def test_a_registered_metric_is_scored_and_may_be_selected_by() -> None:
    def largest_error(targets: np.ndarray, predicted: np.ndarray, logits: np.ndarray) -> float:
        assert logits.shape == (len(targets), 1)
        return float(np.abs(targets - predicted).max())

    metric = Metric("largest error", lower_is_better=True, is_share=False)
    objectives.register_metric("max_error", largest_error, metric=metric, objective="regression")
    true = np.asarray([0.0, 1.0], np.float32)
    found = REGRESSION.scores(np.asarray([[0.5], [3.0]], np.float32), true, (), [0.5])
    assert found["max_error"] == 2.0
    assert found["baseline"]["max_error"] == 0.5
    assert REGRESSION.check_metric("max_error") == "max_error"
    assert best_entry([entry(1, max_error=2.0), entry(2, max_error=3.0)], "max_error")["epoch"] == 1

    objectives.register_metric(
        "first", lambda _, predicted, logits: float(predicted[0] * len(logits) / 2)
    )
    labels = np.asarray([1, 0], np.int32)
    logits = np.asarray([[0, 1], [0, 1]], np.float32)
    assert SINGLE_LABEL.scores(logits, labels, ("a", "b"), [1, 0])["first"] == 1.0
    assert SINGLE_LABEL.check_metric("first") == "first"


def test_an_unknown_objective_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"objective: unknown value 'multilabel'.*'multi_label'"):
        objectives.find("multilabel")


def test_metrics_are_plain_data() -> None:
    for objective in OBJECTIVES.values():
        assert set(objective.shown) <= set(objective.metrics)
        json.dumps({name: asdict(metric) for name, metric in objective.metrics.items()})
