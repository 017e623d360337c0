"""`jaxft memory --fit` and `--need`, and answers from the cache: each figure is that of a plan."""

import json
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

import jaxft
from jaxft import memory
from jaxft.errors import InputError
from jaxft.planning import compilers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def settings(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXFT_CACHE", str(cache))
    # LLVM's take half of the time. The plan is of what XLA has done before it.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture(scope="module")
def deep(tiny_bert_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A config alone; its activations are far larger than its parameters."""
    file = tmp_path_factory.mktemp("deep") / "deep.json"
    file.write_text(json.dumps({**tiny_bert_config, "num_hidden_layers": 4}))
    return str(file)


# ---------------------------------------------------------------- what fits


@pytest.mark.usefixtures("settings")
def test_settings_that_fit_are_plans_with_the_same_examples_an_update(deep: str) -> None:
    common = {"memory.lengths": (64,), "batch_size": 32, "target": "cpu"}
    (plain,) = jaxft.plan(deep, "lora", **common).rows
    limit = plain["compiled"]["peak"] - 1
    plan = jaxft.plan(deep, "lora", fit=f"{limit / 2**20}MiB", **common)
    (row,) = plan.rows
    assert 0 < row["fit"]["largest_batch"] < 32
    found = row["fit"]["settings"]
    assert {one["remat"] for one in found} > {"none"}
    assert {one["accumulate"] for one in found} > {1}
    costs = [one["flops_per_example"] for one in found]
    assert costs == sorted(costs)
    for one in found:
        assert one["fits"]
        assert one["peak"] <= limit
        assert one["batch_size"] * one["accumulate"] == 32
    cheapest = found[0]
    (same,) = jaxft.plan(
        deep,
        "lora",
        **common | {"batch_size": cheapest["batch_size"]},
        **{"model.remat": cheapest["remat"], "model.frozen_dtype": cheapest["frozen_dtype"]},
        **{"optim.accumulate": cheapest["accumulate"]},
    ).rows
    assert same["cached"]
    assert same["compiled"]["peak"] == cheapest["peak"]
    assert "32 examples an update" in plan.table()


@pytest.mark.usefixtures("settings")
def test_what_fits_as_it_is_needs_no_other_setting(deep: str) -> None:
    common = {"memory.lengths": (64,), "batch_size": 2, "target": "cpu"}
    (row,) = jaxft.plan(deep, "lora", fit="100MiB", **common).rows
    (setting,) = row["fit"]["settings"]
    assert (setting["remat"], setting["accumulate"], setting["batch_size"]) == ("none", 1, 2)


# ---------------------------------------------------------------- absent devices


@pytest.fixture(scope="module")
def with_compiler(cache: Path) -> None:
    """The packages of another Python's plan-gpu, linked as `--install` would put them."""
    python = os.environ.get("JAXFT_PLAN_PYTHON", "")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    if not python or compilers.is_here("cuda"):
        pytest.skip("needs $JAXFT_PLAN_PYTHON, and no compiler in this Python")
    site = Path(subprocess.check_output([python, "-c", code], text=True).strip())
    if not (site / "jax_cuda12_plugin").is_dir():
        pytest.skip("$JAXFT_PLAN_PYTHON has no plan-gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXFT_CACHE", str(cache))
        folder = compilers.folder("cuda")
    folder.mkdir(parents=True)
    for path in site.glob("*"):
        if path.name.startswith(("jax_cuda12", "jax_plugins", "nvidia")):
            (folder / path.name).symlink_to(path)


def command(arguments: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
    """Runs `jaxft memory`, which prints afterwards whether it has imported JAX."""
    code = (
        "import resource, sys; from jaxft.__main__ import main; code = main(sys.argv); "
        "used = resource.getrusage(resource.RUSAGE_SELF); "
        "print('jax' in sys.modules, used.ru_utime + used.ru_stime, file=sys.stderr); "
        "sys.exit(code)"
    )
    environment = os.environ | {"JAXFT_CACHE": str(cache), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, "memory", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_smallest_device_is_found_and_the_answer_is_kept_without_jax(
    with_compiler: None, cache: Path, deep: str, tmp_path: Path
) -> None:
    arguments = [deep, "--method=lora", "--need", "--target=l4,t4", "--batch_size=4", "--length=32"]
    arguments.append(f"--json={tmp_path / 'rows.json'}")
    first = command(arguments, cache)
    assert first.returncode == 0, first.stderr
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["target"] == "t4"
    assert row["compiled"]["peak"] <= row["memory_bytes"]
    assert (row["batch_size"], row["length"]) == (4, 32)
    assert row["need"] == {"compiled": 1, "too_small": []}
    assert " t4 " in first.stdout

    again = command(arguments, cache)
    assert again.stdout == first.stdout
    assert json.loads((tmp_path / "rows.json").read_text()) == [row | {"cached": True}]
    imported, seconds = again.stderr.splitlines()[-1].split()
    assert imported == "False"
    assert float(seconds) < 1


def test_the_packages_of_the_folder_are_in_the_keys_of_plans(
    with_compiler: None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXFT_CACHE", str(cache))
    assert "jax-cuda12-pjrt" not in compilers.versions()
    with compilers.findable("cuda"):
        assert compilers.versions()["jax-cuda12-pjrt"] == distribution("jaxlib").version


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["roberta-base", "--need", "--target=h100:8"], "--need: target 'h100:8'; expected kinds"),
        (["roberta-base", "--need", "--target=cpu"], "--need: target 'cpu'; expected kinds"),
        (["roberta-base", "--batch_size=8,x"], "--batch_size: '8,x'; expected whole numbers"),
        (["roberta-base", "--length=0"], "--length: '0'; expected whole numbers"),
        (["--install"], "--install: for which devices? for example --target=h100"),
        (["--install", "--target=h10"], "did you mean 'h100'"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["memory", *arguments]
    monkeypatch.setattr(sys, "argv", argv)  # config_flags reads it
    with pytest.raises(InputError) as caught:
        memory.main(argv)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
