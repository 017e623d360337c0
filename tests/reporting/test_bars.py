"""The bars of plans: what is drawn adds up, and texts stand clear of each other."""

from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from test_footprint import GIB, LABELS, MIB, SIZES, make_fit, make_row, plans

from jaxft.reporting.bars import KINDS, UNITS, draw, panels_of, saved_text, segments, stacked_bars
from jaxft.reporting.plans import saved_share
from jaxft.reporting.plots import DPI

REMATS = ("none", "dots", "layer")


def times(factor: float) -> tuple[int, ...]:
    return tuple(int(factor * size) for size in SIZES)


def seven(**changes: Any) -> list[dict[str, Any]]:
    return [make_row(name, sizes=times(9 - i), **changes) for i, name in enumerate(LABELS)]


CASES = {
    "one": [make_row()],
    "seven": seven(memory_bytes=16 * GIB),
    "twenty-one": [row for remat in REMATS for row in seven(remat=remat, memory_bytes=12 * GIB)],
    "two panels": [*seven(), *seven(length=512, memory_bytes=9 * GIB)],
    "several seeds": [*seven(), *(make_row(x, sizes=times(9), seeds=5) for x in LABELS[3:])],
    "TPU": seven(target="v5e:2x4", memory_bytes=4 * GIB),
    "TPU and GPU": [*seven(target="v5e:2x4"), *seven(memory_bytes=None)],
    "fit": [make_fit(name, 8 * i + 8, sizes=times(1.4)) for i, name in enumerate(LABELS)],
    "refused": [make_fit("full", 0, compiled=None, breakdown=None), make_fit("lora", 1024)],
    "small": [make_row("full", sizes=(0, 9, 0, 0, 0, 0, 0)), make_row(sizes=(1,) * 7)],
    "odd names": [make_row("$x^{$ " + "long" * 30), make_row("a\nb"), make_row("")],
}


def bars(figure: Figure) -> list[list[float]]:
    """The lengths of the bars, each the end of its last segment; panel by panel."""
    found = []
    for axes in figure.axes:
        totals = np.zeros(len(axes.get_yticks()))
        for container in axes.containers:
            starts = [patch.get_x() for patch in container]
            assert starts == pytest.approx(totals), "a gap or an overlap"
            totals += [patch.get_width() for patch in container]
        found.append(list(totals))
    return found


def unit(figure: Figure) -> int:
    return UNITS[figure.axes[-1].get_xlabel().split()[0]][0]


def texts(figure: Figure) -> list[Text]:
    """All texts that are not empty, after they have been placed."""
    FigureCanvasAgg(figure).draw()
    inside = [t for axes in figure.axes for t in axes.findobj(Text)]
    around = [*figure.texts, *figure.legends[0].get_texts()]
    # Panels share an axis: all but the lowest hide the names of its ticks.
    return [t for t in {*inside, *around} if t.get_text().strip() and t.get_visible()]


@settings(max_examples=15, deadline=None)
@given(plans())
def test_segments_add_up_to_the_peak(rows: list[dict[str, Any]]):
    figure = draw(rows)
    drawn = [length for panel in bars(figure) for length in panel]
    ordered = [row for panel in panels_of(rows) for row in panel]
    peaks = [row["compiled"]["peak"] / unit(figure) for row in ordered]
    assert drawn == pytest.approx(peaks)
    assert len(ordered) == len(rows)
    for axes, panel in zip(figure.axes, panels_of(rows), strict=True):
        names = [container.get_label() for container in axes.containers]
        assert names == [name for name, _ in KINDS.values() if name in names]
        for container in axes.containers:
            kind = next(kind for kind, (name, _) in KINDS.items() if name == container.get_label())
            lengths = [segments(row).get(kind, 0) / unit(figure) for row in panel]
            assert [patch.get_width() for patch in container] == pytest.approx(lengths)


def test_weights_that_xla_drops_shorten_a_bar():
    row = make_row(sizes=(*SIZES[:5], 10 * MIB, -50 * MIB))
    assert min(segments(row).values()) == 0
    assert sum(segments(row).values()) == row["compiled"]["peak"]


@pytest.mark.parametrize("rows", CASES.values(), ids=CASES)
def test_texts_stand_clear_of_each_other(rows: list[dict[str, Any]]):
    figure = draw(rows, title="roberta-base: memory of a training step")
    boxes = {text: Text.get_window_extent(text) for text in texts(figure)}
    for (a, box_a), (b, box_b) in combinations(boxes.items(), 2):
        # Boxes have some air above and below the letters.
        overlap = box_a.padded(0, -1).overlaps(box_b.padded(0, -1))
        assert not overlap, f"{a.get_text()!r} lies on {b.get_text()!r}"
    edge = figure.axes[0].get_window_extent().x1
    notes = [box for axes in figure.axes for text, box in boxes.items() if text in axes.texts]
    assert all(box.x1 <= edge + 1 for box in notes)


@pytest.mark.parametrize("rows", CASES.values(), ids=CASES)
def test_each_bar_says_what_it_is(rows: list[dict[str, Any]]):
    figure = draw(rows)
    for axes, panel in zip(figure.axes, panels_of(rows), strict=True):
        assert len(axes.get_yticks()) == len(panel)
        written = [text.get_text() for text in axes.texts]
        # Full itself saves nothing of itself.
        others = [row for row in panel if (row["label"], row["remat"]) != ("full", "none")]
        saved = [saved_share(row, panel) for row in others]
        expected = [saved_text(share) for share in saved if share is not None]
        assert [text for text in written if text.endswith(("saved", "more"))] == expected


def test_labels_name_what_varies():
    def names(rows: list[dict[str, Any]]) -> list[str]:
        return [tick.get_text() for tick in draw(rows).axes[0].get_yticklabels()]

    assert names([make_row("full"), make_row()]) == ["full", "lora"]
    # However the rows come, those of a method stand together.
    mixed = [make_row(name, remat) for remat in ("none", "dots") for name in ("full", "lora")]
    assert names(mixed) == ["full, remat none", "remat dots", "lora, remat none", "remat dots"]
    seeds = [make_row("full"), *(make_row(name, seeds=5) for name in ("lora", "head")), make_row()]
    assert names(seeds) == ["full, 1 seed", "lora, 5 seeds", "1 seed", "head, 5 seeds"]
    assert names([make_fit("full", 8), make_fit("lora", 16)]) == ["full, batch 8", "lora, batch 16"]


def test_line_at_the_memory_unless_it_is_far_away():
    def lines(memory: int | None) -> list[float]:
        row = make_row(sizes=times(2), memory_bytes=memory)  # 2.5 GiB
        return [line.get_xdata()[0] for line in draw([row]).axes[0].lines]

    assert lines(None) == lines(80 * GIB) == []
    assert lines(7 * GIB) == [7.0]
    assert lines(GIB) == [1.0]


@pytest.mark.parametrize(("saved", "text"), [(0.62, "62% saved"), (-0.03, "3% more")])
def test_saved_text(saved: float, text: str):
    assert saved_text(saved) == text
    assert saved_text(-0.001) == "0% saved"


@pytest.mark.parametrize("name", ["one", "twenty-one", "TPU and GPU", "refused", "odd names"])
def test_picture(tmp_path: Path, name: str):
    path = tmp_path / "new" / "bars.png"
    stacked_bars(CASES[name], path, title="a title, $ and _")
    pixels = matplotlib.image.imread(path)[..., :3]
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert np.all(edge == 1), "something is cut off"
    stated = draw(CASES[name]).get_size_inches()[::-1] * DPI
    assert pixels.shape[:2] == pytest.approx(stated, rel=0.1)
    for kind in {kind for row in CASES[name] for kind, size in segments(row).items() if size}:
        color = [int(KINDS[kind][1][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert np.any(np.all(np.abs(pixels - color) < 0.01, axis=-1)), kind


def test_same_input_same_bytes(tmp_path: Path):
    for name in ("a.png", "b.png"):
        stacked_bars(CASES["one"], tmp_path / name, title="t")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
