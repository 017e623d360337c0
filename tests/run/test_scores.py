"""What a run reports: scores by task equal scikit-learn's on the subset; rows as in the data."""

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.examples import Dataset, Example
from jaxft.run import scores as results
from jaxft.training.objectives.single_label import SINGLE_LABEL, probabilities

LABELS = ("negative", "positive", "Background", "Uses", "Future")
USES = [0, 0, 0, 1, 0]  # the baseline: train's majority class
TASKS = {"laptop": LABELS[:2], "acl": LABELS[2:]}


def example(i: int, label: str, task: str) -> Example:
    return Example(str(i), f"text {i}", "pair" if task == "laptop" else None, label, task, "f:1")


def merged(gold: list[int]) -> Dataset:
    """Two tasks in one label space; `gold` are the classes of test, of either task."""

    def task_of(c: int) -> str:
        return "laptop" if c < 2 else "acl"

    train = [0, 0, 1, 2, 3, 3, 3, 4]
    return Dataset(
        task="laptop,acl",
        labels=LABELS,
        train=tuple(example(i, LABELS[c], task_of(c)) for i, c in enumerate(train)),
        dev=(),
        test=tuple(example(i, LABELS[c], task_of(c)) for i, c in enumerate(gold)),
        origin="made by hand",
        source="local",
        notes=(),
        task_labels=TASKS,
    )


def logits_of(predicted: list[int], seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(len(predicted), len(LABELS)))
    return (noise + 20 * np.eye(len(LABELS))[predicted]).astype(np.float32)


classes = st.lists(st.integers(0, 4), min_size=28, max_size=28)


@settings(deadline=None, max_examples=50)
@given(classes, classes)
def test_scores_of_a_task_equal_scikit_learns_on_its_examples_and_labels(
    gold: list[int], predicted: list[int]
) -> None:
    gold, predicted = [*gold, 0, 2], [*predicted, 1, 2]  # both tasks have an example
    dataset, labels = merged(gold), np.asarray(gold, np.int32)
    found = results.scores_by_task(logits_of(predicted), labels, dataset)
    assert list(found) == ["laptop", "acl"]
    for task, names in TASKS.items():
        own = [LABELS.index(name) for name in names]
        rows = np.isin(gold, own)
        y, y_hat = labels[rows], np.asarray(predicted)[rows]

        def f1(average: str, own: list = own, y: np.ndarray = y, p: np.ndarray = y_hat) -> float:
            return sklearn.metrics.f1_score(y, p, labels=own, average=average, zero_division=0)

        scores = found[task]
        assert scores["examples"] == rows.sum()
        assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(y, y_hat))
        assert scores["macro_f1"] == pytest.approx(f1("macro"))
        assert scores["micro_f1"] == pytest.approx(f1("micro"))
        assert list(scores["per_class"]) == list(names)
        by_class = sklearn.metrics.precision_recall_fscore_support(
            y, y_hat, labels=own, zero_division=0
        )
        for name, *figures in zip(names, *by_class, strict=True):
            assert list(scores["per_class"][name].values()) == pytest.approx(figures)
        assert scores["collapsed"] is (len(set(y_hat.tolist())) == 1)
    # The majorities of train: negative and Uses.
    assert found["laptop"]["majority_accuracy"] == pytest.approx(np.mean(labels[labels < 2] == 0))
    assert found["acl"]["majority_accuracy"] == pytest.approx(np.mean(labels[labels >= 2] == 3))


def test_results_of_a_merged_task_hold_the_whole_the_unseen_and_each_task() -> None:
    gold = [0, 1, 2, 3, 4, 0]
    unseen = [True, False, True, True, False, True]
    logits, labels = logits_of([0, 1, 2, 2, 4, 1]), np.asarray(gold, np.int32)
    found = results.test_results(logits, labels, merged(gold), unseen, SINGLE_LABEL, USES)
    assert found.keys() == {"test", "test_unseen", "tasks"}
    assert found["test"]["examples"] == 6
    assert found["test"]["accuracy"] == pytest.approx(4 / 6)
    assert found["test_unseen"]["examples"] == 4
    assert found["test_unseen"]["accuracy"] == pytest.approx(2 / 4)
    assert found["test"]["majority_accuracy"] == pytest.approx(1 / 6)  # Uses, of all train
    assert sum(scores["examples"] for scores in found["tasks"].values()) == 6


def test_one_task_has_no_scores_by_task_and_nothing_unseen_no_figures() -> None:
    dataset = replace(merged([0, 1]), task_labels={"laptop": LABELS[:2]})
    labels = np.asarray([0, 1], np.int32)
    none = [False, False]
    found = results.test_results(logits_of([0, 1]), labels, dataset, none, SINGLE_LABEL, USES)
    assert found.keys() == {"test", "test_unseen"}
    assert found["test_unseen"]["examples"] == 0
    assert found["test_unseen"]["macro_f1"] is None


def test_the_majority_class_is_trains_and_of_equals_the_first() -> None:
    train = np.asarray([LABELS.index(e.label) for e in merged([0]).train], np.int32)
    assert SINGLE_LABEL.baseline(train, LABELS) == USES
    equal = np.asarray([4, 3, 2, 1, 0], np.int32)
    assert SINGLE_LABEL.baseline(equal, LABELS) == [1, 0, 0, 0, 0]


@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=8
    )
)
def test_probabilities_sum_to_1_and_keep_the_order(rows: list[list[float]]) -> None:
    logits = np.asarray(rows, np.float32)
    found = probabilities(logits)
    np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-12)
    assert (found >= 0).all()
    top = np.take_along_axis(found, logits.argmax(-1)[:, None], -1)[:, 0]
    assert (top == found.max(-1)).all()


def test_a_prediction_holds_the_text_the_label_and_all_probabilities() -> None:
    examples = [
        example(0, "positive", "laptop"),
        replace(example(1, "Uses", "acl"), label=""),
    ]
    logits = np.log(np.asarray([[0.1, 0.6, 0.1, 0.1, 0.1], [0.2, 0.1, 0.1, 0.5, 0.1]]))
    first, second = results.predictions(logits.astype(np.float32), examples, LABELS)
    assert {name: first[name] for name in ("id", "text", "pair", "label", "prediction")} == {
        "id": "0",
        "text": "text 0",
        "pair": "pair",
        "label": "positive",
        "prediction": "positive",
    }
    assert list(first["probabilities"]) == list(LABELS)
    assert list(first["probabilities"].values()) == pytest.approx([0.1, 0.6, 0.1, 0.1, 0.1])
    assert second.keys() == {"id", "text", "prediction", "probabilities"}
    assert second["prediction"] == "Uses"


def test_a_task_with_a_logit_that_is_not_finite_has_no_scores_and_the_others_have() -> None:
    gold = [0, 1, 2, 3]
    logits, labels = logits_of(gold), np.asarray(gold, np.int32)
    logits[3, 4] = np.nan
    unseen = [True, True, True, False]
    found = results.test_results(logits, labels, merged(gold), unseen, SINGLE_LABEL, USES)
    assert found["test"]["finite"] is False
    assert found["test"]["macro_f1"] is None
    assert found["test_unseen"]["accuracy"] == 1.0
    assert found["tasks"]["laptop"]["accuracy"] == 1.0
    assert found["tasks"]["laptop"]["finite"] is True
    acl = found["tasks"]["acl"]
    assert (acl["examples"], acl["finite"], acl["collapsed"]) == (2, False, False)
    assert acl["majority_accuracy"] == pytest.approx(0.5)
    for name in ("accuracy", "micro_f1", "macro_f1", "confusion"):
        assert acl[name] is None
    assert acl["per_class"] == {}


@pytest.mark.parametrize("bad", [[np.nan] * 5, [0, 0, np.inf, 0, 0], [-np.inf, 0, 0, 0, 0]])
def test_a_row_that_is_not_finite_has_no_prediction(bad: list[float]) -> None:
    logits = np.vstack([logits_of([1]), np.asarray([bad], np.float32)])
    examples = [example(0, "positive", "laptop"), example(1, "Uses", "acl")]
    rows = list(results.predictions(logits, examples, LABELS))
    assert rows[0]["prediction"] == "positive"
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1.0)
    assert rows[1]["prediction"] is None
    assert rows[1]["probabilities"] == dict.fromkeys(LABELS)
    assert rows[1]["label"] == "Uses"


def test_logits_of_another_number_of_examples_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        list(results.predictions(logits_of([0, 1]), [example(0, "Uses", "acl")], LABELS))
