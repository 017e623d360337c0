"""The files of docs/extending.md, outside the package: each trains, shards, resumes, predicts."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny

import jaxft
from jaxft import cli, plugins, predict, sweep, train
from jaxft.data.tasks import registry
from jaxft.models import backbone as backbones
from jaxft.models import family
from jaxft.peft import method
from jaxft.training.mesh import make_mesh
from jaxft.training.objectives import objective
from jaxft.training.state import build_model, init_params

pytestmark = pytest.mark.usefixtures("shared_compilations")

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
WORDS = {"good": "great", "bad": "awful"}
AVERAGING = {
    "model_type": "averaging",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}

# One process with eight devices: a run that is stopped by a signal after its first checkpoint, the
# same command again, and a plan.
ON_EIGHT_DEVICES = """
import json, os, signal, sys, threading, time
from pathlib import Path
from jaxft.__main__ import main

def command(arguments):
    sys.modules.pop("config_config", None)  # ml_collections keeps the last config file
    return main(["jaxft", *arguments])

def stop():
    while not any((workdir / "checkpoints").glob("[0-9]*")):
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)

train, plan, workdir = json.loads(sys.argv[1])
workdir = Path(workdir)
threading.Thread(target=stop, daemon=True).start()
codes = [command(train), command(train), command(plan)]
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the modules of the page, and data for the task among them."""
    directory = tmp_path_factory.mktemp("outside")
    blocks = re.findall(r'^```python title="(\w+\.py)"\n(.*?)^```', PAGE.read_text(), re.M | re.S)
    for name, code in blocks:
        (directory / name).write_text(code)
    (directory / "reviews").mkdir()
    for split, count in (("train", 24), ("dev", 8), ("test", 8)):
        rows = [
            f"the {noun} {number} was {word} and {word},{label}"
            for number in range(count)
            for noun, (label, word) in zip(("phone", "lamp"), WORDS.items(), strict=True)
        ]
        (directory / "reviews" / f"{split}.csv").write_text("\n".join(["review,verdict", *rows]))
    return directory


@pytest.fixture
def forgotten(outside: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's modules can be imported in this process, and are forgotten after the test."""
    known = (method.METHODS, family.FAMILIES, registry._TASKS, registry.CATALOGUE)
    before = [dict(names) for names in known]
    monkeypatch.chdir(outside)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_loaded", [])
    further = {name: dict(scores) for name, scores in objective._FURTHER.items()}
    monkeypatch.setattr(objective, "_FURTHER", further)
    yield
    for names, old in zip(known, before, strict=True):
        names.clear()
        names.update(old)
    for file in outside.glob("*.py"):
        sys.modules.pop(file.stem, None)


@pytest.fixture(scope="module")
def averaging_checkpoint(outside: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint of the page's family."""
    directory = tmp_path_factory.mktemp("averaging")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(outside)
        patch.setattr(family, "FAMILIES", dict(family.FAMILIES))
        patch.setattr(backbones, "FAMILIES", family.FAMILIES)
        __import__("averaging")
        tiny.write_checkpoint(directory, AVERAGING)
    del sys.modules["averaging"]
    return directory


def eight_devices(outside: Path, fields: list[str], workdir: Path) -> dict[str, Any]:
    """Trains, resumes and plans on eight devices; returns results.json and the plan's first row."""
    mesh = [f"--config.mesh.{axis}=2" for axis in ("data", "fsdp", "tensor")]
    plan = workdir.with_suffix(".json")
    commands = (
        ["train", *fields, *mesh, f"--workdir={workdir}"],
        ["memory", *fields, *mesh, "--target=cpu:8", f"--json={plan}"],
        str(workdir),
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAXFT_CACHE": str(workdir.parent / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", ON_EIGHT_DEVICES, json.dumps(commands)],
        cwd=outside,
        env=environment,
        timeout=600,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [143, 0, 0], done.stdout + done.stderr
    assert "continuing" in done.stdout
    results = json.loads((workdir / "results.json").read_text())
    assert results["memory"]["device"]
    assert len(json.loads((workdir / "env.json").read_text())["devices"]) == 8
    return {"results": results, "plan": json.loads(plan.read_text())}


def predicted(run: Path, texts: Path, *flags: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of the predict command in this process, and its rows."""
    output = run.with_name("out.jsonl")
    argv = ["predict", f"--run={run}", f"--input={texts}", f"--output={output}", *flags]
    code = cli.guarded(predict.main, argv)
    lines = output.read_text().splitlines() if output.exists() else []
    return code, [json.loads(line) for line in lines]


def same_scores(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Asserts that two runs' histories are equal but for rounding."""
    for a, b in zip(one["history"], other["history"], strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-4)
        assert b["dev"]["loss"] == pytest.approx(a["dev"]["loss"], rel=1e-4)


@pytest.mark.slow
def test_a_method_a_metric_and_a_task_from_outside(
    outside: Path,
    tiny_checkpoint: Path,
    forgotten: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names, workdir = ("magnitude", "balanced_accuracy", "reviews"), tmp_path / "run"
    fields = [
        *("--config=acl:magnitude", f"--config.plugins={','.join(names)}"),
        *("--config.task=reviews_sup", f"--config.data.dir={outside}"),
        *(f"--config.model.name={tiny_checkpoint}", "--config.metric=balanced_accuracy"),
        *("--config.method.magnitude_scale=1.5", "--config.batch_size=8", "--config.epochs=4"),
        *("--config.memory.methods=magnitude", "--config.data.max_length=16"),
    ]
    found = eight_devices(outside, fields, workdir)
    results = found["results"]
    assert (results["method"], results["labels"]) == ("magnitude", ["bad", "good"])
    assert results["config"]["method"]["magnitude_scale"] == 1.5
    assert 0 <= results["test"]["balanced_accuracy"] <= 1
    assert [entry["epoch"] for entry in results["history"]] == [1, 2, 3, 4]
    best = max(entry["dev"]["balanced_accuracy"] for entry in results["history"])
    assert results["dev"]["balanced_accuracy"] == best
    assert found["plan"][0]["label"] == "magnitude"
    assert found["plan"][0]["parameters"] == results["parameters"]
    # A norm for each output of query and value in two layers.
    assert results["parameters"]["adapter"] == 2 * 2 * 32

    # What the run directory names is not imported, unless the user names it, too.
    assert "--plugins=magnitude,balanced_accuracy,reviews" in (workdir / "README.md").read_text()
    test = outside / "reviews" / "test.csv"
    assert predicted(workdir, test) == (2, [])
    assert "plugins that are not loaded: --plugins=magnitude,balanced" in capsys.readouterr().err
    assert "magnitude" not in sys.modules
    code, rows = predicted(workdir, test, "--plugins=magnitude")
    assert code == 0
    assert "balanced_accuracy" not in sys.modules
    own = (workdir / "predictions_test.jsonl").read_text().splitlines()
    for row, line in zip(rows, own, strict=True):
        expected = pytest.approx(json.loads(line)["probabilities"], rel=1e-4)
        assert row["probabilities"] == expected

    # On one device, from Python.
    alone = jaxft.finetune(
        *("reviews_sup", str(tiny_checkpoint), "magnitude"),
        plugins=names,
        workdir=tmp_path / "alone",
        **{"data.dir": str(outside), "metric": "balanced_accuracy", "magnitude_scale": 1.5},
        batch_size=8,
        epochs=4,
        max_length=16,
    )
    same_scores(results, alone.results)
    clf = jaxft.load(workdir, plugins=("magnitude",))
    assert clf.predict(["the lamp 3 was awful and awful"])[0].label in WORDS


@pytest.mark.slow
def test_a_family_from_outside(
    outside: Path, averaging_checkpoint: Path, forgotten: None, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    fields = [
        *("--config=acl:lora", "--config.plugins=averaging", "--config.data.source=sample"),
        *(f"--config.model.name={averaging_checkpoint}", "--config.data.max_length=32"),
        *("--config.batch_size=16", "--config.epochs=4"),
        "--config.memory.methods=full,houlsby,lora",
    ]
    found = eight_devices(outside, fields, workdir)
    results = found["results"]
    rows = {row["label"]: row["parameters"] for row in found["plan"]}
    assert rows["lora"] == results["parameters"]
    assert rows["houlsby"]["adapter"] == 2 * 2 * (2 * 32 * 64 + 64 + 32)
    assert rows["full"]["frozen"] == 0
    sample = ROOT / "jaxft" / "data" / "samples" / "acl" / "test.jsonl"
    assert predicted(workdir, sample)[0] == 2
    code, labelled = predicted(workdir, sample, "--plugins=averaging")
    assert code == 0
    assert len(labelled) == results["test"]["examples"]
    alone = jaxft.finetune(
        *("acl_sup", str(averaging_checkpoint), "lora"),
        plugins="averaging",
        workdir=tmp_path / "alone",
        source="sample",
        max_length=32,
        batch_size=16,
        epochs=4,
    )
    same_scores(results, alone.results)


def test_the_method_starts_as_the_backbone(
    forgotten: None, tiny_bert_config: dict[str, Any], make_batch: Any
) -> None:
    plugins.load(["magnitude"])
    backbone, mesh = backbones.from_config(tiny_bert_config, num_labels=3), make_mesh(1)
    weights = tiny.random_params(backbones.parameter_shapes(backbone), seed=0)
    batch = make_batch(tiny_bert_config)
    logits = {}
    for name in ("head", "magnitude"):
        model = build_model(backbone, [], name, {})
        params = init_params(model, weights, 0, mesh, model.shapes)
        logits[name] = np.asarray(jax.jit(lambda p, m=model: m.forward(p, batch, None))(params))
    np.testing.assert_allclose(logits["magnitude"], logits["head"], rtol=1e-5, atol=1e-6)


def test_a_sweep_hands_its_plugins_to_its_cells(
    outside: Path, tiny_checkpoint: Path, forgotten: None, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.modules.pop("config_config", None)
    argv = [
        *("sweep", "--config=tables/grid", "--config.plugins=magnitude,reviews", "--dry_run"),
        *(f"--config.model.names={tiny_checkpoint}", "--config.methods=magnitude,lora"),
        *("--config.tasks=reviews", f"--config.overrides.data.dir={outside}"),
    ]
    assert cli.guarded(sweep.main, argv) == 0
    printed = capsys.readouterr().out
    assert printed.count("reviews_sup-magnitude") >= 1
    assert printed.count("--config.plugins=(") == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing_there", "plugins: no module 'nothing_there'"),
        ("magnitude.py", "plugins: no module 'magnitude.py'; expected a module's name"),
        ("../magnitude", "plugins: '../magnitude'; expected a module's name"),
        ("broken", "plugins: broken failed: ZeroDivisionError: division by zero"),
        ("incomplete", "plugins: incomplete failed: ModuleNotFoundError: No module named 'gone'"),
    ],
)
def test_a_wrong_plugin_is_one_line(
    name: str, said: str, outside: Path, forgotten: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (outside / "broken.py").write_text("1 / 0\n")
    (outside / "incomplete.py").write_text("import gone\n")
    sys.modules.pop("config_config", None)
    argv = ["train", "--config=acl_lora", f"--config.plugins={name}", "--dry_run"]
    assert cli.guarded(train.main, argv) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_environment_names_plugins_too(
    forgotten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXFT_PLUGINS", "reviews, balanced_accuracy")
    plugins.load()
    assert plugins.loaded() == ("reviews", "balanced_accuracy")
    assert "balanced_accuracy" in objective._FURTHER["single_label"]
    assert len(plugins.source_digest()) == 64
