"""The plots: PNGs that hold a picture, whatever the run was like."""

import math
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from jaxft.reporting.plots import confusion_matrix, learning_curves


def entry(epoch: int, **dev: Any) -> dict[str, Any]:
    figures = {"loss": 1 / epoch, "accuracy": 0.6, "macro_f1": 0.5, "majority_accuracy": 0.55}
    return {"epoch": epoch, "step": 9 * epoch, "train_loss": 2 / epoch, "dev": figures | dev}


def read_picture(path: Path) -> np.ndarray:
    """The pixels, after checking that the picture is not blank and nothing touches its edge."""
    pixels = matplotlib.image.imread(path)[..., :3]
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 300
    assert len(np.unique(pixels.sum(-1).round(2))) > 20
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert np.all(edge == 1), "something is cut off"
    return pixels


def has_color(pixels: np.ndarray, hexadecimal: str) -> bool:
    color = [int(hexadecimal[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return bool(np.any(np.all(np.abs(pixels - color) < 0.01, axis=-1)))


@pytest.mark.parametrize("epochs", [1, 2, 10, 1000])
def test_learning_curves(tmp_path: Path, epochs: int):
    path = tmp_path / "new" / "curves.png"
    learning_curves([entry(e + 1) for e in range(epochs)], path, title="acl_sup, lora", selected=1)
    pixels = read_picture(path)
    for color in ("#0072B2", "#D55E00", "#009E73"):
        assert has_color(pixels, color)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e30, 0.0])
def test_learning_curves_of_a_run_gone_wrong(tmp_path: Path, loss: float):
    history = [entry(1), entry(2, loss=loss) | {"train_loss": loss}]
    learning_curves(history, tmp_path / "c.png", title="")
    read_picture(tmp_path / "c.png")
    learning_curves(history[1:], tmp_path / "d.png", title="")
    read_picture(tmp_path / "d.png")


def test_selected_epoch_moves_the_mark(tmp_path: Path):
    history = [entry(e + 1, macro_f1=0.1 * e) for e in range(5)]
    pictures = {}
    for selected in (None, 2, 5):
        learning_curves(history, tmp_path / "c.png", title="t", selected=selected)
        pictures[selected] = (tmp_path / "c.png").read_bytes()
    # None marks the best on dev, epoch 5 here, but does not say that it is the one reported.
    assert len(set(pictures.values())) == 3


def test_same_input_same_bytes(tmp_path: Path):
    for name in ("a.png", "b.png"):
        learning_curves([entry(1), entry(2)], tmp_path / name, title="t")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


LABELS = {
    "two": ["no", "yes"],
    "citations": ["Background", "CompareOrContrast", "Extends", "Future", "Motivation", "Uses"],
    "twelve long": [f"restaurant_sup:a label that is far too long {c}" for c in range(12)],
    "odd": ["$x^{$", "a\nb", "", "100%", "_", "引用"],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_confusion_matrix(tmp_path: Path, labels: list[str]):
    size = len(labels)
    counts = np.random.default_rng(0).integers(0, 9, (size, size)) + 40 * np.eye(size, dtype=int)
    counts[0] = 0  # a class without examples
    path = tmp_path / "confusion.png"
    confusion_matrix({"confusion": counts.tolist()}, labels, path, title="a title, $ and _")
    read_picture(path)


def test_confusion_matrix_shades_by_row(tmp_path: Path):
    """A small class that is always right is as dark as a large one."""
    path = tmp_path / "c.png"
    confusion_matrix({"confusion": [[123_456, 0], [0, 1]]}, ["a", "b"], path, title="")
    pixels = read_picture(path)
    left = pixels[:, : int(pixels.shape[1] * 0.8)]  # without the colour bar
    darkest = np.all(np.abs(left - np.array([8, 48, 107]) / 255) < 0.01, axis=-1)
    rows = np.flatnonzero(darkest.sum(1) > 50)
    assert np.ptp(rows) > 0.6 * pixels.shape[0]


def test_confusion_matrix_without_examples(tmp_path: Path):
    confusion_matrix({"examples": 0, "accuracy": None}, ["a", "b"], tmp_path / "c.png", title="")
    read_picture(tmp_path / "c.png")
