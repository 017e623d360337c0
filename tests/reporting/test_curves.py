"""Learning curves over seeds, and the SVG that a page takes in."""

import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from test_aggregate import group_of, history, run_of

from jaxft.reporting.aggregate import RunGroup, make_groups
from jaxft.reporting.curves import INK, PANELS, inline_svg, panel, series, styles, to_svg

SVG = "{http://www.w3.org/2000/svg}"


def drawn(group: RunGroup, name: str = "dev loss") -> Any:
    return panel([group], name, styles([group])).axes[0]


@pytest.mark.parametrize("name", PANELS)
def test_the_line_is_the_mean_and_the_band_one_std(name: str):
    group = group_of(0, 1, 2)
    axes = drawn(group, name)
    values = np.array([[PANELS[name](e) for e in run.results["history"]] for run in group.runs])
    mean, std = values.mean(0), values.std(0, ddof=1)
    (line,) = axes.lines
    assert line.get_ydata() == pytest.approx(mean)
    assert list(line.get_xdata()) == [1, 2, 3]
    (band,) = axes.collections
    edge = band.get_paths()[0].vertices[:, 1]
    assert {round(y, 9) for y in edge} == {round(y, 9) for y in [*(mean - std), *(mean + std)]}


def test_one_seed_has_no_band():
    assert len(drawn(group_of(0)).lines) == 1
    assert len(drawn(group_of(0)).collections) == 0


def test_curves_end_where_the_first_seed_stopped():
    runs = [run_of(0, history=history(0, 7)), run_of(1, history=history(1, 4))]
    (group,) = make_groups(runs)[0]
    epochs, values = series(group, "train loss")
    assert list(epochs) == [1, 2, 3, 4]
    assert values.shape == (2, 4)


@pytest.mark.parametrize("loss", [None, float("inf"), float("nan")])
def test_a_loss_that_ran_away_leaves_a_gap(loss: float | None):
    broken = history(1)
    broken[1]["dev"]["loss"] = loss
    (group,) = make_groups([run_of(0), run_of(1, history=broken)])[0]
    (line,) = drawn(group).lines
    assert list(np.isnan(line.get_ydata())) == [False, True, False]
    to_svg(panel([group], "dev loss", styles([group])))


def test_cells_look_different_as_long_as_they_can():
    groups = [group_of(0, method=f"method {i}") for i in range(49)]
    looks = styles(groups)
    assert len(set(looks.values())) == 49
    # Neighbours differ in both.
    neighbours = pairwise(list(looks.values())[:7])
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in neighbours)


def test_equal_runs_give_equal_files():
    first, second = (
        to_svg(panel([group_of(0, 1)], "dev loss", styles([group_of(0)]))) for _ in "ab"
    )
    assert first == second


def test_a_page_takes_in_several():
    group = group_of(0, 1, method="a<b>&c")
    figure = panel([group], "dev loss", styles([group]))
    texts = [inline_svg(figure, prefix=p, label="loss of a&lt;b&gt;") for p in ("one", "two")]
    trees = [ET.fromstring(text) for text in texts]
    ids = [{e.get("id") for e in tree.iter() if e.get("id")} for tree in trees]
    assert ids[0]
    assert not ids[0] & ids[1]
    for tree, text in zip(trees, texts, strict=True):
        assert INK not in text
        assert "currentColor" in text
        assert tree.get("width") is None
        assert tree.get("viewBox")
        assert not list(tree.iter(f"{SVG}style")), "it would hold for the whole page"
        written = "".join(t for e in tree.iter(f"{SVG}text") for t in e.itertext())
        assert "a<b>&c" in written
        used = [e.get("{http://www.w3.org/1999/xlink}href") for e in tree.iter(f"{SVG}use")]
        clips = [e.get("clip-path") for e in tree.iter() if e.get("clip-path")]
        known = {e.get("id") for e in tree.iter()}
        assert {u[1:] for u in used if u} | {c[5:-1] for c in clips} <= known


@pytest.mark.parametrize("target", [r".*/\w+/query$", "$a$ and $b_", "$"])
def test_a_label_with_dollar_signs_is_text(target: str):
    runs = [run_of(0, fields={"method.targets": [target]}), run_of(0)]
    groups = make_groups(runs)[0]
    assert any("$" in group.label for group in groups)
    svg = to_svg(panel(groups, "dev loss", styles(groups)))
    texts = " ".join("".join(e.itertext()) for e in ET.fromstring(svg).iter(f"{SVG}text"))
    assert target[:14] in texts
