"""Scaling on paper: the table says what the figures say, and the picture draws them, readable."""

import json
import re
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from jaxft.planning.scaling import scaling
from jaxft.reporting.formats import NONE
from jaxft.reporting.scaling import (
    COLORS,
    TERMS_INEXACT,
    draw,
    milliseconds,
    scaling_markdown,
    scaling_plot,
)

ROOT = Path(__file__).parents[2]


def table(size: int, flops: float = 2e14, target: str = "h100:8", **options: Any) -> list[Any]:
    """Of a step on eight devices that reduces so many bytes."""
    one = {"kind": "all-reduce", "bytes": size, "group": 8, "count": 1}
    row = {
        "target": target,
        "devices": 8,
        "mesh": {"data": 8, "fsdp": 1, "tensor": 1},
        "batch_size": 256,
        "flops": flops,
        "collectives": [{**one, "is_exact": options.pop("is_exact", True)}],
    }
    return scaling(row, **options)


FULL, LORA = 498_591_756, 3_551_244
CASES = {
    "grows": {"full": table(FULL), "lora": table(LORA)},
    "stays": {"full": table(FULL, batch="stays"), "lora": table(LORA, batch="stays")},
    "one device": {"full": table(FULL, counts=[1])},
    "slow": {"full": table(10**11, target="t4:8"), "head": table(100, 1e9, target="t4:8")},
    "many": {f"method {i}": table(FULL // 3**i, target="v5e:2x4") for i in range(9)},
    "odd": {"$x^{$": table(FULL), "a|b " + "long " * 20: table(LORA)},
}


def cells(markdown: str) -> list[list[str]]:
    """The cells of all tables, heads and rules left out."""
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[0][0].isdigit()]


def test_the_table_says_what_the_figures_say() -> None:
    rows = cells(scaling_markdown(CASES["grows"]))
    lines = [line for lines in CASES["grows"].values() for line in lines]
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        devices, examples, compute, sending, step, share = (c.replace(",", "") for c in row)
        assert (int(devices), int(examples)) == (line["devices"], line["examples"])
        assert float(compute) == pytest.approx(1000 * line["compute_s"], rel=0.005)
        assert float(step) == pytest.approx(1000 * line["bound_s"], rel=0.005)
        if line["devices"] == 1:
            assert (sending, share) == (NONE, "100%")
        else:
            assert float(sending) == pytest.approx(1000 * line["interconnect_s"], rel=0.005)
            apart, overlapped = (float(end.rstrip("%")) / 100 for end in share.split(" to "))
            assert apart == pytest.approx(line["apart"], abs=0.0051)
            assert overlapped == pytest.approx(line["overlapped"], abs=0.0051)


@pytest.mark.parametrize("label", ["full", "lora", "odd"])
def test_the_sentence_below_a_table_says_what_bounds_each_step(label: str) -> None:
    tables = {"full": table(FULL), "lora": table(LORA), "odd": table(10**9, 1e15, "v5e:2x4")}
    lines = tables[label]
    sending = [line["devices"] for line in lines if line["bound_s"] > line["compute_s"]]
    (sentence,) = re.findall(r"Sending takes longer .*", scaling_markdown({label: lines}))
    if not sending:
        assert sentence.endswith("on none of these.")
        return
    said = [
        tuple(map(int, ends.split(" to "))) for ends in re.findall(r"\d+(?: to \d+)?", sentence)
    ]
    in_words = [
        line["devices"]
        for line in lines
        if any(ends[0] <= line["devices"] <= ends[-1] for ends in said)
    ]
    assert in_words == sending


def test_the_page_on_scaling_says_of_each_table_what_bounds_its_steps() -> None:
    results = ROOT / "docs" / "results" / "scaling"
    page = (ROOT / "docs" / "scaling.md").read_text("utf-8")
    for label, plan, method, axis in (
        ("H100, data, full", "h100x8", "full", "data"),
        ("H100, data, LoRA", "h100x8", "lora", "data"),
        ("H100, fsdp, full", "h100x8", "full", "fsdp"),
        ("H100, fsdp, LoRA", "h100x8", "lora", "fsdp"),
        ("v5e, data, full", "v5e_4x4", "full", "data"),
        ("v5e, data, LoRA", "v5e_4x4", "lora", "data"),
    ):
        rows = json.loads((results / f"{plan}.json").read_text())
        (row,) = (r for r in rows if r["method"] == method and r["mesh"][axis] == r["devices"])
        block = scaling_markdown({label: scaling(row)}).rpartition("\n\n")[0]
        assert block in (results / "scaling.md").read_text("utf-8")
        assert block in page or axis == "fsdp"


def test_the_table_names_each_method_and_what_is_not_exact() -> None:
    text = scaling_markdown(CASES["grows"])
    assert text.index("**full**") < text.index("**lora**")
    assert TERMS_INEXACT not in text
    assert TERMS_INEXACT in scaling_markdown({"full": table(FULL, is_exact=False)})
    assert r"**a\|b" in scaling_markdown(CASES["odd"])


@given(st.floats(1e-9, 1e4))
def test_milliseconds_keep_three_digits(seconds: float) -> None:
    text = milliseconds(seconds)
    assert float(text.replace(",", "")) == pytest.approx(1000 * seconds, rel=0.0051)
    assert "e" not in text


def test_what_is_drawn_are_the_figures() -> None:
    left, right = draw(CASES["grows"]).axes
    for place, lines in enumerate(CASES["grows"].values()):
        counts = [line["devices"] for line in lines]
        computing, sending = left.lines[2 * place : 2 * place + 2]
        overlapped, apart = right.lines[2 * place : 2 * place + 2]
        for curve in (computing, sending, overlapped, apart):
            assert list(curve.get_xdata()) == counts
            assert curve.get_color() == COLORS[place]
        assert list(computing.get_ydata()) == [1000 * line["compute_s"] for line in lines]
        # One device sends nothing, for which a logarithm has no place.
        assert np.isnan(sending.get_ydata()[0])
        sent = [1000 * line["interconnect_s"] for line in lines[1:]]
        assert list(sending.get_ydata()[1:]) == sent
        assert list(overlapped.get_ydata()) == [line["overlapped"] for line in lines]
        assert list(apart.get_ydata()) == [line["apart"] for line in lines]
    assert (left.get_xscale(), left.get_yscale(), right.get_yscale()) == ("log", "log", "linear")


@cache
def drawn(name: str) -> Figure:
    """The figure of a case, everything in its place."""
    figure = draw(CASES[name], title="roberta-base on H100, 32 examples a device")
    FigureCanvasAgg(figure).draw()
    return figure


def drawn_texts(figure: Figure) -> list[Text]:
    """All texts that are not empty; matplotlib keeps, but does not draw, ticks beyond an axis."""
    beyond = set()
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            beyond |= {tick.label1 for tick in ticks if not low <= tick.get_loc() <= high}
    texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
    return [text for text in texts if text.get_visible() and text not in beyond]


@pytest.mark.parametrize("name", CASES)
def test_texts_stand_clear_of_each_other(name: str) -> None:
    texts = drawn_texts(drawn(name))
    boxes = {text: Text.get_window_extent(text) for text in texts}
    assert len(boxes) > 15
    for (a, box_a), (b, box_b) in combinations(boxes.items(), 2):
        overlap = box_a.padded(0, -1).overlaps(box_b.padded(0, -1))
        assert not overlap, f"{a.get_text()!r} lies on {b.get_text()!r}"


def test_each_method_is_told_apart() -> None:
    left, right = draw(CASES["many"]).axes
    for axes in (left, right):
        lines = [(line.get_color(), line.get_marker()) for line in axes.lines]
        assert len({look for look in lines if look[1] != "None"}) == len(CASES["many"])


@pytest.mark.parametrize("name", CASES)
def test_times_can_be_read_off(name: str) -> None:
    figure = drawn(name)
    axis = figure.axes[0].yaxis
    names = [text.get_text() for text in drawn_texts(figure) if text in axis.get_ticklabels()]
    assert max(map(len, names)) <= 8
    numbers = [float(name) for name in names]
    assert 2 <= len(numbers) <= 20
    low, high = figure.axes[0].get_ylim()
    ticks = [tick for tick in axis.get_ticklocs() if low <= tick <= high]
    assert numbers == pytest.approx(ticks)


@pytest.mark.parametrize("name", ["grows", "many", "odd"])
def test_picture(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / "scaling.png"
    scaling_plot(CASES[name], path, title="a title, $ and _")
    pixels = matplotlib.image.imread(path)[..., :3]
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert np.all(edge == 1), "something is cut off"
    for color in COLORS[: len(CASES[name])]:
        rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert np.any(np.all(np.abs(pixels - rgb) < 0.01, axis=-1)), color


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        scaling_plot(CASES["grows"], tmp_path / name, title="t")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
