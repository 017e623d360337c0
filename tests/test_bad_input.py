"""Bad input: one clear line naming the field or the file and line, exit code 2, no traceback."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from jaxft import cli, predict, train

ROOT = Path(__file__).parents[1]
SMALL = [
    *("--config", str(ROOT / "configs/acl_lora.py"), "--config.data.source=sample"),
    *("--config.data.max_length=48", "--dry_run"),
]


def refused(capsys: pytest.CaptureFixture[str], command: object, *arguments: str) -> str:
    """Runs a command that must refuse, and returns its one line."""
    with pytest.MonkeyPatch.context() as patch:
        # config_flags looks into sys.argv, too, and keeps the module of the last config file.
        patch.setattr("sys.argv", ["command", *arguments])
        sys.modules.pop("config_config", None)
        code = cli.guarded(command.main, ["command", *arguments])
    out, err = capsys.readouterr()
    assert code == 2, out
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    return err


FIELDS = [
    ("--config.task=acl_sub", ["task", "'acl_sub'", "acl_sup"]),
    ("--config.task=restaurants", ["task", "did you mean 'restaurant"]),
    ("--config.task=acl_sup,acl_fs", ["task", "'acl' occurs twice"]),
    ("--config.modle.name=minilm", ["modle", "did you mean 'model.name'"]),
    ("--config.model.nme=minilm", ["nme", "did you mean 'model.name'"]),
    ("--config.optim.learning_rat=1", ["learning_rat", "did you mean 'optim.learning_rate'"]),
    ("--config.method.name=lroa", ["method.name", "did you mean 'lora'"]),
    ("--config.method.rank=0", ["method.rank", "0", "above 0"]),
    ("--config.method.dropout=1.0", ["method.dropout", "[0, 1)"]),
    ("--config.method.targets=quary", ["method.targets", "'quary'", "matches no Dense layer"]),
    ("--config.method.targets=(", ["method.targets"]),
    ("--config.method.layers=(7,)", ["method.layers", "no layer 7", "the encoder has 2"]),
    ("--config.epochs=ten", ["epochs", "ten"]),
    ("--config.epochs=0", ["epochs", "above 0"]),
    ("--config.seed=-1", ["seed", "0 to"]),
    ("--config.batch_size=0", ["batch_size", "above 0"]),
    ("--config.optim.learning_rate=-1.0", ["optim.learning_rate", "above 0"]),
    ("--config.optim.learning_rates=1e-3,0", ["optim.learning_rates", "numbers above 0"]),
    ("--config.optim.learning_rates=1e-3,.001", ["optim.learning_rates", "different numbers"]),
    ("--config.optim.learning_rates=high,low", ["optim.learning_rates", "e.g. 1e-3,3e-4"]),
    ("--config.optim.warmup=1.5", ["optim.warmup", "[0, 1)"]),
    ("--config.optim.schedule=linaer", ["optim.schedule", "did you mean 'linear'"]),
    ("--config.optim.accumulate=0", ["optim.accumulate", "above 0"]),
    ("--config.optim.accumulate=9", ["optim.accumulate: 9", "an epoch has 4 batches"]),
    ("--config.select=bset", ["select", "did you mean 'best'"]),
    ("--config.data.max_length=600", ["data.max_length", "600", "4 to 64"]),
    ("--config.data.source=lokal", ["data.source", "did you mean 'local'"]),
    ("--config.data.dir=/no/such/place", ["data.dir", "/no/such/place"]),
    ("--config.data.labels=('a','b')", ["data.labels", "custom"]),
    ("--config.model.dtype=float23", ["model.dtype", "did you mean 'float32'"]),
    ("--config.method.layers=top", ["method.layers", "whole numbers, e.g. -1,-2"]),
    ("--config.method.layers=1.5", ["method.layers", "whole numbers, e.g. -1,-2"]),
    ("--config.method.rank_pattern=16", ["method.rank_pattern", "patterns with a rank"]),
    ("--config.method.targets=1", ["method.targets", "names, e.g. query,value"]),
    ("--config.data.dir=~nobody-of-this-name/x", ["data.dir", "cannot be a path"]),
    ("--config.model.remat=layers", ["model.remat", "did you mean 'layer'"]),
    ("--config.mesh.data=100", ["mesh.data", "100"]),
    ("--wrkdir=x", ["wrkdir", "did you mean", "workdir"]),
    ("stray", ["unexpected argument 'stray'"]),
]


@pytest.mark.parametrize(("flag", "said"), FIELDS, ids=[flag for flag, _ in FIELDS])
def test_a_wrong_flag_is_told_in_one_line(
    flag: str, said: list[str], tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, f"--config.model.name={tiny_checkpoint}", flag]
    if flag.startswith("--config.data.dir"):
        arguments.remove("--config.data.source=sample")
    line = refused(capsys, train, *arguments)
    assert all(part in line for part in said), line


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{seed}", "is the same for 2 runs; expected {learning_rate} in it"),
        ("{learning_rate}", "is the same for 3 runs; expected {seed} in it"),
    ],
)
def test_a_workdir_that_is_the_same_for_several_runs_is_told_in_one_line(
    pattern: str,
    said: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [*SMALL[:-1], f"--config.model.name={tiny_checkpoint}"]
    several = ("--config.seeds=1,2,3", "--config.optim.learning_rates=1e-3,3e-4")
    line = refused(capsys, train, *arguments, *several, f"--workdir={tmp_path / pattern}")
    assert said in line
    assert list(tmp_path.iterdir()) == []


MODELS = [
    ("./models/mine", ["no such directory", "./models/mine"]),
    ("models/of/mine", ["no such directory"]),
    ("", ["model.name", "empty"]),
    ("a b", ["neither a local directory nor a valid hub id"]),
]


@pytest.mark.parametrize(("name", "said"), MODELS)
def test_a_missing_model_is_never_a_hub_that_did_not_answer(
    name: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, train, *SMALL, f"--config.model.name={name}")
    assert all(part in line for part in said), line
    assert "connect" not in line


def spoil_config(model: Path) -> None:
    (model / "config.json").write_text("{")


def make_gpt(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "gpt2"}')


def drop_weights(model: Path) -> None:
    (model / "flax_model.msgpack").unlink()


def leave_bin_only(model: Path) -> None:
    (model / "flax_model.msgpack").rename(model / "pytorch_model.bin")


def spoil_weights(model: Path) -> None:
    (model / "flax_model.msgpack").write_bytes(b"\x81\xa1")


def drop_tokenizer(model: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (model / name).unlink(missing_ok=True)


def shrink_vocabulary(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))


def test_a_config_without_a_vocabulary_size_has_transformers_default(
    tiny_bert_config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    tiny.write_checkpoint(model, {**tiny_bert_config, "vocab_size": 30522})  # BertConfig's default
    config = json.loads((model / "config.json").read_text())
    del config["vocab_size"]
    (model / "config.json").write_text(json.dumps(config))
    # The model is read and checked before the optimizer is made, which refuses this.
    line = refused(
        capsys, train, *SMALL, f"--config.model.name={model}", "--config.optim.warmup=1.5"
    )
    assert "optim.warmup" in line


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_config, ["config.json", "not valid JSON"]),
        (make_gpt, ["config.json", "'gpt2'", "'bert'"]),
        (drop_weights, ["no weights", "model.safetensors"]),
        (leave_bin_only, [".bin", "save_file"]),
        (spoil_weights, ["flax_model.msgpack", "not a readable"]),
        (drop_tokenizer, ["no tokenizer", "tokenizer.json"]),
        (shrink_vocabulary, ["vocab_size 100"]),
    ],
)
def test_a_broken_checkpoint_is_told_in_one_line(
    spoil: object,
    said: list[str],
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    spoil(model)
    line = refused(capsys, train, *SMALL, f"--config.model.name={model}")
    assert all(part in line for part in [str(model), *said]), line


CONFIGS = [
    ("import nothing_there", ["mine.py", "nothing_there"]),
    ("def get_config(): return 1/0", ["mine.py", "division by zero"]),
    ("x = 1", ["mine.py", "get_config"]),
    (
        "from configs.base import get_config as base\n"
        "def get_config():\n    c = base()\n    c.epoch = 3\n    return c",
        ["epoch", "did you mean 'epochs'"],
    ),
    (
        "from configs.base import get_config as base\n"
        "def get_config():\n    c = base()\n    c.epochs = 'many'\n    return c",
        ["epochs"],
    ),
    (
        "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'task': 'a'})",
        ["is missing", "configs/base.py"],
    ),
]


@pytest.mark.parametrize(("source", "said"), CONFIGS, ids=[said[0] for _, said in CONFIGS])
def test_a_broken_config_file_is_told_in_one_line(
    source: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(source)
    line = refused(capsys, train, "--config", str(tmp_path / "mine.py"))
    assert all(part in line for part in said), line


def test_a_missing_config_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "configs/acl_lora.py" in refused(capsys, train)
    assert "configs/nope.py" in refused(capsys, train, "--config", "configs/nope.py")


FILES = [
    ("train.jsonl", "", ["train.jsonl", "empty"]),
    ("train.jsonl", '{"text": "a", "label": "x"}\n{"text": ', ["train.jsonl:2"]),
    ("train.jsonl", '{"text": "a", "lable": "x"}\n', ["train.jsonl:1", "'label'", "'lable'"]),
    ("train.jsonl", '{"text": " ", "label": "x"}\n', ["train.jsonl:1", "text", "blanks"]),
    ("test.jsonl", '{"text": "a", "label": "z"}\n', ["test.jsonl:1", "'z'"]),
]


@pytest.mark.parametrize(("name", "content", "said"), FILES)
def test_a_broken_data_file_is_told_by_file_and_line(
    name: str,
    content: str,
    said: list[str],
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = "".join(f'{{"text": "text {i}", "label": "{"xy"[i % 2]}"}}\n' for i in range(20))
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text(good)
    (tmp_path / name).write_text(content)
    line = refused(
        capsys,
        train,
        "--config",
        str(ROOT / "configs/base.py"),
        "--config.task=custom",
        f"--config.data.dir={tmp_path}",
        f"--config.model.name={tiny_checkpoint}",
        "--config.data.max_length=48",
        "--dry_run",
    )
    assert all(part in line for part in said), line


def test_predict_refuses_what_is_no_finished_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one\n")
    output = f"--output={tmp_path / 'out.jsonl'}"
    line = refused(capsys, predict, f"--run={tmp_path / 'no'}", f"--input={texts}", output)
    assert f"no directory {tmp_path / 'no'}" in line
    line = refused(capsys, predict, f"--run={tmp_path}", f"--input={texts}", output)
    assert "not finished" in line
    assert "--input" in refused(capsys, predict, f"--run={tmp_path}", output)


def test_the_config_file_may_come_after_its_fields(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *file, model = (
        f"--config={ROOT / 'configs/acl_lora.py'}",
        f"--config.model.name={tiny_checkpoint}",
    )
    line = refused(capsys, train, "--config.epochs=0", model, *file)
    assert "epochs: 0; expected a whole number above 0" in line
    line = refused(
        capsys, train, "--config.epochs=0", "--config", str(ROOT / "configs/acl_lora.py")
    )
    assert "epochs: 0; expected a whole number above 0" in line
