"""The public table of memory: its cells, the formulas beside them, and the page in a browser."""

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from jaxft.course_reports import estimates
from jaxft.models.architectures import ARCHITECTURES
from jaxft.planning.targets import parse

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts" / "memory_table"
FOLDER = ROOT / "docs" / "results" / "memory_table"
PAGE = ROOT / "docs" / "memory_table.html"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The modules of scripts/memory_table, which import each other by their names."""
    names = ("cells", "by_hand", "plan", "page")
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: __import__(name) for name in names}
    finally:
        sys.path.remove(str(SCRIPTS))
        for name in names:
            del sys.modules[name]


@pytest.fixture(scope="module")
def planned() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / "cells.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- cells


def test_the_table_has_twenty_models_and_ten_devices_that_are_known(scripts) -> None:
    cells = scripts["cells"]
    assert len(set(cells.MODELS)) == 20
    assert set(cells.MODELS) <= set(ARCHITECTURES)
    assert len(set(cells.DEVICES)) == 10
    kinds = [parse(device).platform for device in cells.DEVICES]
    assert [kind == "tpu" for kind in kinds] == [d in cells.TPUS for d in cells.DEVICES]
    assert len(cells.METHODS) == 6


def test_the_models_and_devices_that_most_people_ask_for_come_first_and_none_twice(
    scripts,
) -> None:
    cells = scripts["cells"]
    all_cells = cells.cells()
    assert len(set(all_cells)) == len(all_cells)
    wanted = [
        c.model in cells.WANTED_MODELS and c.device in cells.WANTED_DEVICES for c in all_cells
    ]
    assert wanted == sorted(wanted, reverse=True)
    assert (all_cells[0].model, all_cells[0].device) == ("bert-base-uncased", "t4")
    pairs = [pair for pair, _ in groupby((c.model, c.device) for c in all_cells)]
    assert len(set(pairs)) == len(pairs)


def test_only_cells_that_are_not_finished_are_left(scripts) -> None:
    cells = scripts["cells"]
    first, *others = cells.cells()
    assert cells.left(set(others)) == [first]
    assert cells.left({first}) == others


def test_a_line_that_was_cut_short_is_planned_again(scripts, tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    file.write_text('{"model": "a"}\n{"mod')
    assert scripts["plan"].read(file) == [{"model": "a"}]
    assert file.read_text() == '{"model": "a"}\n'
    assert scripts["plan"].read(tmp_path / "none.jsonl") == []


def test_a_cell_is_what_the_command_plans(scripts) -> None:
    cells = scripts["cells"]
    cell = cells.Cell("bert-base-uncased", "h100", "lora, nf4", 8, 512)
    job = scripts["plan"].job_of(cell, parse("h100"))
    assert (job.method, job.batch_size, job.length, job.remat) == ("lora", 8, 512, "none")
    assert job.model["frozen_dtype"] == "nf4"
    assert job.target == parse("h100")
    top = scripts["plan"].job_of(
        cells.Cell("roberta-base", "t4", "lora, top 2 layers", 8, 128), parse("t4")
    )
    assert top.options["layers"] == (-2, -1)


# ---------------------------------------------------------------- formulas


@pytest.mark.parametrize(("batch", "length"), [(8, 128), (32, 128), (8, 512)])
def test_activations_by_hand_are_korthikanti_s_with_numbers_twice_as_wide(
    batch: int, length: int, scripts
) -> None:
    row = {"model": "roberta-large", "batch_size": batch, "length": length}
    layers, hidden, heads = scripts["by_hand"].sizes(ARCHITECTURES["roberta-large"])
    half = estimates.activation_bytes(batch, length, hidden, heads, layers)
    masks = layers * length * batch * (2 * hidden + heads * length)
    assert scripts["by_hand"].activation_bytes(row, remat=False) == 2 * (half - masks) + masks
    inputs = estimates.full_recompute_bytes(batch, length, hidden, layers)
    assert scripts["by_hand"].activation_bytes(row, remat=True) == 2 * inputs


def test_the_state_by_hand_is_16_bytes_of_what_is_trained(scripts) -> None:
    row = {"model": "roberta-base", "method": "full", "batch_size": 1, "length": 1}
    row |= {"parameters": 1000, "trained": 1000}
    activations = scripts["by_hand"].activation_bytes(row, remat=False)
    full = estimates.full_bytes(1000, itemsize=4)
    assert scripts["by_hand"].formula(row) - activations == full
    assert scripts["by_hand"].four_times(row) == full
    half = row | {"method": "lora, nf4", "trained": 0}
    assert scripts["by_hand"].formula(half) - activations == 500
    assert scripts["by_hand"].error(150.0, 100) == 0.5


def test_every_model_has_sizes(scripts) -> None:
    for model in scripts["cells"].MODELS:
        assert all(n > 0 for n in scripts["by_hand"].sizes(ARCHITECTURES[model]))


# ---------------------------------------------------------------- the files


def test_lines_add_up_and_are_cells_of_the_table(planned, scripts) -> None:
    found = [scripts["plan"].cell_of(row) for row in planned]
    assert len(set(found)) == len(found)
    assert set(found) <= set(scripts["cells"].cells())
    for row in planned:
        assert row["trained"] <= row["parameters"]
        if row["peak"] is not None:
            assert sum(row["breakdown"].values()) == row["peak"]
            assert row["breakdown"]["frozen"] <= 4 * row["parameters"]


def test_json_csv_and_page_are_made_of_the_lines(
    planned, scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(FOLDER / "cells.jsonl", tmp_path)
    arguments = ["page.py", f"--folder={tmp_path}", f"--page={tmp_path / 'page.html'}"]
    monkeypatch.setattr(sys, "argv", arguments)
    scripts["page"].main()
    for name in ("table.json", "table.csv"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text()
    assert (tmp_path / "page.html").read_text() == PAGE.read_text()
    rows = json.loads((FOLDER / "table.json").read_text())
    with (FOLDER / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(rows) == len(table) == len(planned)
    assert [row["model"] for row in rows] == [line["model"] for line in table]
    for row in rows:
        assert row["fits"] == (row["peak"] is not None and row["peak"] <= row["memory"])


# ---------------------------------------------------------------- the page in a browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """The page; the test fails if it asks for anything else, or complains."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page.set_default_timeout(20_000)
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"file://{PAGE}")
    yield page
    assert {url.partition("#")[0] for url in requests} - {"about:blank"} == {f"file://{PAGE}"}
    assert complaints == []
    page.close()


def column(page: Page, title: str) -> list[str]:
    """The texts of a column of the table."""
    heads = page.locator("#heads th").all_inner_texts()
    place = [head.strip().rstrip("\xa0↕↑↓") for head in heads].index(title) + 1
    return page.locator(f"#rows td:nth-child({place})").all_inner_texts()


def test_filters_keep_the_rows_that_were_asked_for(page: Page, planned) -> None:
    for name in ("model", "device", "method", "shape"):
        page.select_option(f"#{name}", "")
    page.click("#more") if page.locator("#more").is_visible() else None
    assert page.locator("#rows tr").count() == len(planned)
    page.select_option("#method", "lora")
    lora = [row for row in planned if row["method"] == "lora"]
    assert page.locator("#rows tr").count() == min(len(lora), 60)
    page.select_option("#fits", "no")
    too_large = [row for row in lora if row["peak"] is None or row["peak"] > row["memory_bytes"]]
    assert page.locator("#rows tr").count() == min(len(too_large), 60)


def test_a_click_sorts_and_another_one_reverses(page: Page, planned) -> None:
    first = planned[0]
    page.select_option("#model", first["model"])
    page.select_option("#device", first["device"])
    button = page.locator("#heads button", has_text="peak")
    for direction, reverse in (("ascending", False), ("descending", True)):
        button.click()
        assert page.locator(f"th[aria-sort={direction}]").inner_text().startswith("peak")
        peaks = [float(text) for text in column(page, "peak") if text != "refused"]
        assert len(peaks) > 1
        assert peaks == sorted(peaks, reverse=reverse)


def test_another_model_has_another_chart_and_its_own_address(page: Page, planned) -> None:
    models = [*dict.fromkeys(row["model"] for row in planned)]
    device = planned[0]["device"]
    titles = set()
    for model in models[:2]:
        page.select_option("#model", model)
        page.select_option("#device", device)
        titles.add(page.locator("#charted").inner_text())
        assert model in page.locator("#charted").inner_text()
        texts = page.locator("#chart svg text").all_text_contents()
        shown = [r for r in planned if (r["model"], r["device"]) == (model, device)]
        assert {r["method"] for r in shown if r["batch_size"] == 32} <= set(texts)
    assert len(titles) == len(models[:2])
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    assert page.locator("#model").input_value() == models[:2][-1]
    assert page.locator("#device").input_value() == device


def test_bars_are_as_long_as_their_parts(page: Page, planned) -> None:
    first = planned[0]
    page.select_option("#model", first["model"])
    page.select_option("#device", first["device"])
    page.select_option("#shape", f"{first['batch_size']} \N{MULTIPLICATION SIGN} {first['length']}")
    widths = page.eval_on_selector_all(
        "#chart rect", "all => all.map(r => [r.textContent, r.width.baseVal.value])"
    )
    sizes = dict(widths)
    largest = max(first["breakdown"], key=first["breakdown"].get)
    others = [part for part, size in first["breakdown"].items() if size > 0 and part != largest]
    width_of = {
        part: next(
            w for title, w in sizes.items() if title.startswith(f"{first['method']}, {part}")
        )
        for part in [largest, *others]
    }
    for part in others:
        share = first["breakdown"][part] / first["breakdown"][largest]
        assert width_of[part] == pytest.approx(share * width_of[largest], abs=1.5)


@pytest.mark.parametrize("width", [375, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_in_light_and_dark(browser: Browser, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(f"file://{PAGE}")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("#chart svg").bounding_box()["width"] <= width
    dark = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(dark)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") != scheme
    assert page.evaluate(dark) != before
    page.close()
