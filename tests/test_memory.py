"""`python -m jaxft.memory`: tables that add up, the cache, the largest batch, and bad input."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from jaxft import memory
from jaxft.config import check_values, config_module
from jaxft.errors import InputError
from jaxft.planning.targets import parse
from jaxft.run import plans

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With a cache of its own, and two devices."""
    cache = tmp_path_factory.mktemp("cache")
    flags = "--xla_force_host_platform_device_count=2"
    return os.environ | {
        "JAXFT_CACHE": str(cache),
        "XLA_FLAGS": flags,
        # LLVM's take half of the time. The plan is of what XLA has done before it.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }


@pytest.fixture(scope="module")
def mostly_embeddings(
    tiny_bert_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny BERT with BERT's whole vocabulary, which is nearly all of it."""
    directory = tmp_path_factory.mktemp("mostly-embeddings")
    tiny.write_checkpoint(directory, {**tiny_bert_config, "vocab_size": 30522})
    return directory


def run(
    arguments: list[str], environment: dict[str, str], python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "jaxft.memory", "--config=configs/acl_lora.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def small(checkpoint: Path) -> list[str]:
    return [
        f"--config.model.name={checkpoint}",
        "--config.data.max_length=32",
        "--config.batch_size=8",
        "--config.method.rank=2",
    ]


@pytest.fixture(scope="module")
def table(
    environment: dict[str, str], tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path, subprocess.CompletedProcess[str]]:
    """The arguments, folder and output of a table, measured: full, and LoRA of two seeds."""
    folder = tmp_path_factory.mktemp("plan")
    arguments = [
        *small(tiny_checkpoint),
        "--target=cpu",
        "--config.memory.methods=full,lora-top",
        "--config.memory.top_layers=1",
        "--config.memory.seeds=2",
        "--config.memory.steps=3",
        *(f"--{kind}={folder / name}" for kind, name in OUTPUTS.items()),
    ]
    return arguments, folder, run(arguments, environment)


OUTPUTS = {"json": "rows.json", "markdown": "table.md", "plot": "bars.png"}


def test_the_table_is_printed_and_everything_asked_for_is_written(table) -> None:
    _, folder, done = table
    assert done.returncode == 0, done.stderr
    assert "lora, top 1 layers" in done.stdout
    assert "[1/2] cpu: full, 8 x 32, float32\n" in done.stderr
    assert "[2/2] cpu: lora, top 1 layers, 8 x 32, float32, 2 seeds\n" in done.stderr
    assert "seeds: how many train together in one step" in " ".join(done.stdout.split())
    for name in OUTPUTS.values():
        assert (folder / name).stat().st_size > 100
    assert (folder / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert "| lora, top 1 layers" in (folder / "table.md").read_text()


def test_a_row_adds_up(table) -> None:
    rows: Rows = json.loads((table[1] / "rows.json").read_text())
    for row in rows:
        assert sum(row["breakdown"].values()) == row["compiled"]["peak"]
        assert row["breakdown"]["other"] >= 0
        assert row["flops"] > 1e6
        assert row["step_s"] > 0
        assert row["measured"]["steps"] == 3
    full, lora = rows
    # In full they would train one after the other.
    assert [row["seeds"] for row in rows] == [1, 2]
    assert full["breakdown"]["frozen"] == 0
    # One layer's query and value, two matrices of rank 2 each; no other layer has any.
    assert lora["parameters"]["adapter"] == 2 * 2 * 2 * 32
    assert lora["breakdown"]["optimizer"] < full["breakdown"]["optimizer"]
    assert lora["breakdown"]["trained"] == 2 * 4 * lora["parameters"]["trained"]
    assert lora["breakdown"]["frozen"] == 4 * lora["parameters"]["frozen"]
    assert lora["flops"] < 2 * full["flops"]


def test_the_same_command_again_compiles_nothing(table, environment) -> None:
    arguments, folder, _ = table
    before = json.loads((folder / "rows.json").read_text())
    assert [row["cached"] for row in before] == [False, False]
    assert all(row["measured"] for row in before)
    unmeasured = [x for x in arguments if not x.startswith("--config.memory.steps")]
    run(unmeasured, environment)
    # What XLA says is from the cache, what was measured is not.
    assert json.loads((folder / "rows.json").read_text()) == [
        {**row, "cached": True, "measured": None, "step_s": None} for row in before
    ]
    # Under other flags of the compiler nothing is.
    other = environment | {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}
    run(unmeasured, other)
    assert not any(row["cached"] for row in json.loads((folder / "rows.json").read_text()))


def test_fit_finds_the_largest_batch_of_each_method_that_fits_at_all(
    environment, mostly_embeddings: Path, tmp_path: Path
) -> None:
    # It has 4 MB of weights, and in full twice that of moments.
    arguments = [*small(mostly_embeddings), "--target=cpu:2", "--config.memory.methods=full,head"]
    arguments += ["--config.memory.seeds=2"]
    done = run([*arguments, "--fit=8MiB", f"--json={tmp_path / 'fit.json'}"], environment)
    assert done.returncode == 0, done.stderr
    full, head = json.loads((tmp_path / "fit.json").read_text())
    assert [row["seeds"] for row in (full, head)] == [1, 2]
    largest = head["fit"]["largest_batch"]
    assert head["batch_size"] == largest > 0
    assert largest % 2 == 0
    assert head["compiled"]["peak"] <= 8 * 2**20
    assert f"batch {largest + 2}: " in done.stderr  # the neighbour was tried, too
    assert full["fit"]["largest_batch"] == 0
    assert "--fit: full of this model needs 1" in done.stderr
    assert "try --config.model.remat=layer" in done.stderr

    done = run([*arguments, "--fit=1MiB"], environment)
    assert done.returncode == 2
    assert "head of this model with 2 seeds needs" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("memory: --fit: no method fits")
    assert "Traceback" not in done.stderr


def test_meshes_stand_side_by_side_with_what_a_device_sends(
    environment, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = [*small(tiny_checkpoint), "--target=cpu:2", "--config.memory.methods=lora"]
    arguments += ["--config.memory.meshes=data,fsdp2,tensor2", f"--json={tmp_path / 'rows.json'}"]
    # Seven rows do not divide: the batch is padded.
    done = run([*arguments, "--config.batch_size=7"], environment)
    assert done.returncode == 0, done.stderr
    data, fsdp, tensor = json.loads((tmp_path / "rows.json").read_text())
    assert [max(row["mesh"], key=row["mesh"].get) for row in (data, fsdp, tensor)] == [
        "data",
        "fsdp",
        "tensor",
    ]
    for title in ("data 2), batch 7", "fsdp 2), batch 7", "tensor 2), batch 7"):
        assert title in done.stdout
    for head in ("reduced", "gathered", "moved"):
        assert head in done.stdout
    frozen = [row["partitions"]["frozen"]["params_bytes"] for row in (data, fsdp, tensor)]
    assert frozen[0] / 2 < frozen[1] < 0.51 * frozen[0]
    assert frozen[0] / 2 < frozen[2] < 0.53 * frozen[0]
    trained = sum(x["params_bytes"] for name, x in data["partitions"].items() if name != "frozen")
    # Two devices send half of a sum each, twice: the gradients, once.
    assert trained <= data["moved"]["all-reduce"] < 1.05 * trained
    assert data["moved"]["all-gather"] == 0
    assert fsdp["moved"]["all-gather"] > 0.49 * frozen[0]
    assert tensor["moved"]["all-reduce"] > data["moved"]["all-reduce"]


# ---------------------------------------------------------------- devices that are not here


def has_compilers(python: str) -> bool:
    code = (
        "import importlib.util as u, sys; "
        "sys.exit(not all(map(u.find_spec, ('jax_cuda12_plugin', 'libtpu'))))"
    )
    return subprocess.run([python, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def plan_python() -> str:
    """A Python with the extras plan-gpu and plan-tpu; scripts/test.sh makes and names one."""
    python = os.environ.get("JAXFT_PLAN_PYTHON", sys.executable)
    if not has_compilers(python):
        pytest.skip("neither this Python nor $JAXFT_PLAN_PYTHON has plan-gpu and plan-tpu")
    return python


def test_a_step_is_compiled_for_gpus_and_tpus_that_are_not_here(
    plan_python: str, environment, mostly_embeddings: Path, tmp_path: Path
) -> None:
    arguments = [*small(mostly_embeddings), "--config.memory.methods=lora", "--target=l4:2,v5e:2x2"]
    arguments += ["--config.mesh.fsdp=2", "--config.model.dtype=bfloat16"]
    done = run([*arguments, f"--json={tmp_path / 'rows.json'}"], environment, plan_python)
    assert done.returncode == 0, done.stderr
    gpu, tpu = json.loads((tmp_path / "rows.json").read_text())
    for row in (gpu, tpu):
        assert sum(row["breakdown"].values()) == row["compiled"]["peak"] > 0
        assert row["parameters"] == gpu["parameters"]
        assert row["flops"] == gpu["flops"]
        assert row["memory_bytes"] > 10 * 2**30
        # Frozen matrices are cast before they are gathered, and gathered again for the backward
        # pass, which needs no embeddings: nearly all of this tiny model.
        gathered = sum(c["bytes"] * c["count"] for c in row["collectives"] if "gather" in c["kind"])
        whole = row["parameters"]["total"]
        assert 2 * whole < gathered < 2.2 * whole
    assert (gpu["devices"], tpu["devices"]) == (2, 4)
    assert (gpu["mesh"]["data"], tpu["mesh"]["data"]) == (1, 2)
    assert gpu["breakdown"]["activations"] > 0
    # The TPU's compiler keeps its buffer assignment to itself.
    assert "activations" not in tpu["breakdown"]


# ---------------------------------------------------------------- seeds


@pytest.mark.parametrize(
    ("changes", "full", "lora"),
    [
        ({}, [1], [1]),
        ({"seeds": (4, 5, 6)}, [1], [3]),
        ({"seeds": (4, 5), "optim.learning_rates": (1e-3, 1e-4)}, [1], [4]),
        ({"seeds": (4, 5, 6), "memory.seeds": (1, 5)}, [1], [1, 5]),
        ({"memory.seeds": (1, 5), "together": "on"}, [1, 5], [1, 5]),
        ({"memory.seeds": (1, 5), "together": "off"}, [1], [1]),
        ({"memory.seeds": (5,), "patience": 2}, [1], [1]),
        # Seeds that the mesh's axis does not divide go one after the other.
        ({"memory.seeds": (5, 6), "memory.meshes": ("seeds2",)}, [1], [1, 6]),
    ],
)
def test_seeds_that_would_train_together_are_planned_together(
    changes: dict[str, Any], full: list[int], lora: list[int]
) -> None:
    config = config_module().get_config()
    config.update_from_flattened_dict({"memory.methods": ("full", "lora"), **changes})
    check_values(config)
    jobs = plans.make_jobs(config, ({}, [], 3), parse("h100:8"))
    assert [job.seeds for _, job in jobs if job.method == "full"] == full
    assert [job.seeds for _, job in jobs if job.method == "lora"] == lora


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target=h10"], "did you mean 'h100'"),
        (["--target=v5e:8"], "did you mean 'v5e:2x4'"),
        (["--config.memory.methods=full,lroa"], "memory.methods: unknown value 'lroa'"),
        (["--target=cpu", "--fit=24Gib"], "--fit: '24Gib'; expected a size such as 24GiB"),
        (["--json=no/where/x.json"], "--json: no directory no/where"),
        (["--plot=x.pdf"], "expected a file that ends in .png"),
        (["--config.memory.meshes=fdsp8", "--target=cpu"], "did you mean 'fsdp'"),
        (["--config.memory.meshes=fsdp", "--target=cpu"], "'fsdp' gives no size of fsdp, e.g."),
        (["--config.mesh.data=2", "--config.mesh.tensor=2", "--target=cpu:2"], "takes 4 devices"),
        (["--config.mesh.fsdp=3", "--target=h100:8"], "takes 6 devices, there are 8; expected"),
        (["--config.memory.remats=layers", "--target=cpu"], "did you mean 'layer'"),
        (["--config.memory.seeds=0"], "memory.seeds: (0,); expected whole numbers above 0"),
        (["--config.memory.seeds=one"], "memory.seeds: ('one',); expected whole numbers above 0"),
        (["--config.memory.seeds=3", "--config.together=on", "--config.patience=2"], "together:"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_compiled(
    arguments: list[str], said: str, tiny_checkpoint: Path, monkeypatch
) -> None:
    assert said in refused([*small(tiny_checkpoint), *arguments], monkeypatch)


def refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The one line that a command says."""
    argv = ["memory", "--config=configs/acl_lora.py", *arguments]
    monkeypatch.setattr(sys, "argv", argv)  # config_flags reads it
    with pytest.raises(InputError) as caught:
        memory.main(argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target=cpu:3"], "XLA_FLAGS=--xla_force_host_platform_device_count=3"),
        (["--target=cpu", "--config.data.max_length=65"], "holds 64 tokens"),
    ],
)
def test_what_only_the_compiler_can_tell_is_one_line_too(
    arguments: list[str], said: str, tiny_checkpoint: Path, environment, monkeypatch
) -> None:
    for name in ("JAXFT_CACHE", "XLA_FLAGS"):
        monkeypatch.setenv(name, environment[name])
    arguments = [*small(tiny_checkpoint), "--config.memory.methods=lora", *arguments]
    assert said in refused(arguments, monkeypatch)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed in this Python"
)
def test_a_missing_extra_is_named_with_its_command(environment, tiny_checkpoint: Path) -> None:
    done = run([*small(tiny_checkpoint), "--target=v5e"], environment)
    assert done.returncode == 2
    assert '".[plan-tpu]"' in done.stderr.splitlines()[-1]
