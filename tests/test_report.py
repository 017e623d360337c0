"""`python -m jaxft.report` on real runs, and its page in a real browser."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from jaxft import cli
from jaxft import report as report_command

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
METHODS, SEEDS = ("full", "head"), (0, 1)
# One process for all runs: JAX starts once. XLA optimizes little, for nothing is trained for long.
TRAIN = """
import json, sys
from jaxft import train
for sys.argv in json.loads(sys.argv[1]):
    assert train.main(sys.argv) == 0
"""
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@pytest.fixture(scope="module")
def runs(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods by two seeds on the bundled sample, and a run that was not finished."""
    folder = tmp_path_factory.mktemp("runs")
    commands = [
        [
            *("train", f"--config=configs/restaurant.py:{method}", f"--config.seed={seed}"),
            *(f"--config.model.name={tiny_checkpoint}", "--config.data.source=sample"),
            *("--config.data.max_length=16", "--config.batch_size=16", "--config.epochs=2"),
            # As older runs, which the last test makes of them: packed batches have another plan.
            *("--config.data.batches=by_length", f"--workdir={folder / method / str(seed)}"),
        ]
        for seed in SEEDS
        for method in METHODS
    ]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("xla"))}
    cache["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    subprocess.run(
        [sys.executable, "-c", TRAIN, json.dumps(commands)],
        cwd=ROOT,
        env=os.environ | cache | {"XLA_FLAGS": QUICK, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
        timeout=600,
    )
    begun = folder / "head" / "begun"
    shutil.copytree(folder / "head" / "1", begun)
    (begun / "DONE").unlink()
    return folder


@pytest.fixture(scope="module")
def report(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the runs, made by the command; `printed.txt` is what it printed."""
    folder = tmp_path_factory.mktemp("report") / "new"
    command = [sys.executable, "-m", "jaxft.report", str(runs), f"--output={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def results(runs: Path, method: str) -> list[dict[str, Any]]:
    return [json.loads((runs / method / str(s) / "results.json").read_text()) for s in SEEDS]


# ---------------------------------------------------------------- the command


def test_the_report_holds_what_the_runs_wrote(runs: Path, report: Path) -> None:
    rows = list(csv.DictReader((report / "report.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == list(METHODS)
    printed = (report / "printed.txt").read_text()
    markdown = (report / "report.md").read_text()
    for row in rows:
        found = results(runs, row["method"])
        for split in ("test", "unseen"):
            for key in ("accuracy", "macro_f1"):
                values = [r["test" if split == "test" else "test_unseen"][key] for r in found]
                mean, std = np.mean(values), np.std(values, ddof=1)
                assert float(row[f"{split}_{key}_mean"]) == mean
                assert float(row[f"{split}_{key}_std"]) == std
                assert f"{100 * mean:.1f} ± {100 * std:.1f}" in printed
                assert f"{100 * mean:.1f} ± {100 * std:.1f}" in markdown
        assert float(row["peak_bytes_mean"]) == found[0]["memory"]["compiled"]["peak"]
        assert float(row["train_s_mean"]) == pytest.approx(
            np.mean([r["timing"]["train_s"] for r in found])
        )
        assert f"{found[0]['parameters']['trained']:,}" in printed
    assert printed.splitlines()[-1].startswith(f"report: {report / 'report.html'}")


def test_the_report_says_what_is_missing_and_what_to_doubt(runs: Path, report: Path) -> None:
    for text in ((report / "printed.txt").read_text(), (report / "report.md").read_text()):
        assert str(runs / "head" / "begun") in text
        assert "bundled sample: not a result about" in text
        assert "majority (positive)" in text
        assert "With 2 seeds the interval reaches 8.98" in text


def test_markdown_names_files_that_are_there(report: Path) -> None:
    named = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (report / "report.md").read_text())
    assert len(named) == 4 + 2 + 1
    assert all((report / name).is_file() for name in named)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a command with bad input prints."""
    assert cli.guarded(report_command.main, ["report", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("report: ")
    assert captured.err.count("\n") == 1
    return captured.err


def copy(runs: Path, tmp_path: Path, name: str = "copy") -> Path:
    return shutil.copytree(runs / "head" / "0", tmp_path / name)


def test_bad_input(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such directory" in fails(capsys, tmp_path / "nowhere")
    assert "contains no run of jaxft.train" in fails(capsys, tmp_path)
    assert "required: DIR" in fails(capsys)
    (tmp_path / "file").write_text("")
    assert "is a file" in fails(capsys, runs, f"--output={tmp_path / 'file'}")
    assert "begun" in fails(capsys, runs / "head" / "begun")


@pytest.mark.parametrize(
    ("name", "content"), [("results.json", "{"), ("results.json", "[]"), ("env.json", "null")]
)
def test_a_broken_file_is_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    broken = copy(runs, tmp_path)
    (broken / name).write_text(content)
    assert str(broken / name) in fails(capsys, runs, tmp_path)


def test_other_scores_of_a_seed_are_an_error(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy(runs, tmp_path)
    content = json.loads((other / "results.json").read_text())
    content["test"]["accuracy"] += 0.1
    (other / "results.json").write_text(json.dumps(content))
    message = fails(capsys, runs, tmp_path)
    assert str(other) in message
    assert str(runs / "head" / "0") in message


def test_a_copy_is_no_further_seed(
    runs: Path, report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy(runs, tmp_path)
    output = tmp_path / "report"
    assert (
        cli.guarded(report_command.main, ["report", str(runs), str(other), f"--output={output}"])
        == 0
    )
    assert (output / "report.csv").read_text() == (report / "report.csv").read_text()
    assert f"{other} repeats" in capsys.readouterr().out.replace(
        f"{runs / 'lora' / '0'} repeats {other}", f"{other} repeats"
    )


# ---------------------------------------------------------------- the page in a browser


def open_page(browser: Browser, report: Path, width: int = 1280, scheme: str = "light") -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(20_000)
    page.goto(f"file://{report}/report.html")
    return page


def test_the_page_asks_for_nothing_and_complains_of_nothing(browser: Browser, report: Path) -> None:
    page = browser.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"file://{report}/report.html")
    for button in page.locator(".sortable th button").all():
        button.click()
    assert [url for url in requests if not url.startswith("data:")] == [
        f"file://{report}/report.html"
    ]
    assert complaints == []
    page.close()


def test_ids_are_single_and_links_lead_somewhere(browser: Browser, report: Path) -> None:
    page = open_page(browser, report)
    ids = page.eval_on_selector_all("[id]", "all => all.map(e => e.id)")
    assert len(ids) == len(set(ids)) > 50
    links = page.eval_on_selector_all("a", "all => all.map(e => e.getAttribute('href'))")
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)
    page.close()


def groups(page: Page, column: int) -> list[str]:
    return page.eval_on_selector_all(
        f"section:first-of-type .scores tbody tr td:nth-child({column})",
        "all => all.map(e => e.innerText)",
    )


def test_tables_are_sorted_by_a_click_or_a_key(browser: Browser, report: Path) -> None:
    page = open_page(browser, report)
    before = groups(page, 1)
    assert before == ["full", "head", "majority (positive)"]
    head = page.locator(".scores th").filter(has_text="trained")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    # By size, not by letters, and what has no value last.
    assert groups(page, 1) == ["head", "full", "majority (positive)"]
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert groups(page, 1) == ["full", "head", "majority (positive)"]
    accuracy = page.locator(".scores th").nth(2)
    accuracy.locator("button").click()
    assert head.get_attribute("aria-sort") == "none"
    shares = [float(text.split()[0]) for text in groups(page, 3)]
    assert shares == sorted(shares)
    page.locator(".scores th").first.locator("button").click()
    assert groups(page, 1) == sorted(before)
    page.close()


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_page(browser: Browser, report: Path, width: int) -> None:
    page = open_page(browser, report, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """width => [...document.querySelectorAll("body *")].filter(e =>
            !e.closest(".scroll, svg") && e.getBoundingClientRect().right > width + 1
        ).map(e => e.outerHTML.slice(0, 80))""",
        width,
    )
    assert outside == []
    # A table that is too wide can be scrolled in its box.
    scrolls = page.evaluate(
        """() => {
            const box = document.querySelector(".scroll");
            box.scrollLeft = 1e4;
            return [box.scrollWidth > box.clientWidth, box.scrollLeft > 0];
        }"""
    )
    assert scrolls[0] == scrolls[1]
    assert scrolls[0] or width > 390
    page.close()


# Contrast by the Web Content Accessibility Guidelines 2.1, of each text against what is behind it.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const x = c[i] / 255;
    return sum + weight * (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  }, 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const color = rgba(getComputedStyle(e).backgroundColor);
      if (color[3] === 255) return color;
    }
    return rgba("Canvas");
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || e.closest("svg, script, details pre")) continue;
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(ground(e))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 90)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_either_scheme(browser: Browser, report: Path, scheme: str) -> None:
    page = open_page(browser, report, scheme=scheme)
    found = page.evaluate(CONTRAST)
    assert len(found) > 150
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []
    ink = page.evaluate("getComputedStyle(document.body).color")
    axis = page.locator(".curves svg text").first
    assert axis.evaluate("e => getComputedStyle(e).fill") == ink
    page.close()


def test_the_page_is_a_picture_in_either_scheme(
    browser: Browser, report: Path, tmp_path: Path
) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        page = open_page(browser, report, scheme=scheme)
        page.locator(".curves").first.scroll_into_view_if_needed()
        file = tmp_path / f"{scheme}.png"
        page.screenshot(path=file)
        pixels = np.asarray(Image.open(file).convert("RGB"), float)
        brightness[scheme] = pixels.mean()
        # Lines of the curves in the methods' colours, a dot for each seed.
        for colour in ((0, 114, 178), (213, 94, 0)):
            assert (np.abs(pixels - colour).max(-1) < 6).sum() > 200
        assert page.locator(".scores circle").count() == len(METHODS) * len(SEEDS)
        assert page.locator(".curves svg").count() == 4
        assert page.locator(".matrix").count() == len(METHODS)
        page.close()
    assert brightness["light"] > 225
    assert brightness["dark"] < 45


HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>&amp;'


def test_names_are_text_and_never_markup(
    runs: Path, browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(runs, tmp_path)
    content = (run / "results.json").read_text()
    name = json.dumps(HOSTILE)[1:-1]
    content = content.replace('"positive"', f'"{name}"').replace('"head"', f'"{name}"')
    (run / "results.json").write_text(content.replace('"restaurant_sup"', f'"{name}"'))
    output = tmp_path / "report"
    assert cli.guarded(report_command.main, ["report", str(run), f"--output={output}"]) == 0
    assert HOSTILE in capsys.readouterr().out
    page = browser.new_page()
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(f"file://{output}/report.html")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    assert page.locator("h2").first.inner_text() == HOSTILE
    assert page.locator(".scores td").first.inner_text() == HOSTILE
    assert dialogs == []
    page.close()


def test_runs_of_an_older_jaxft_are_planned_alone_when_asked(runs: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(runs / "full", old / "full")
    expected = set()
    for path in old.glob("full/*/results.json"):
        results = json.loads(path.read_text())
        expected.add(results["memory"].pop("plan")["compiled"]["peak"])
        # As if three had trained together, and taken a terabyte.
        results["timing"]["seeds_together"] = 3
        results["memory"]["compiled"]["peak"] = 2**40
        path.write_text(json.dumps(results))
    (peak,) = expected
    for flags in [], ["--plan"]:
        command = [sys.executable, "-m", "jaxft.report", str(old), f"--output={tmp_path / 'new'}"]
        env = os.environ | {"XLA_FLAGS": QUICK}  # as the runs had
        done = subprocess.run(
            [*command, *flags], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert ("--plan adds it" in done.stdout) == (not flags)
        (line,) = csv.DictReader((tmp_path / "new" / "report.csv").read_text().splitlines())
        if flags:  # the planner's schedule is another one, a few bytes of constants
            assert float(line["peak_bytes_mean"]) == pytest.approx(peak, rel=0, abs=1024)
            assert float(line["plan_optimizer_bytes"]) > 0
        else:
            assert line["peak_bytes_mean"] == ""
        assert float(line["together_peak_bytes_mean"]) == 2**40
