"""Predicting from a run directory: which column is the text, what is scored, what is refused."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from commands import SAMPLE_TEST, predict_command, read, rows_of, run, run_here, train_command
from safetensors.numpy import load_file, save_file

from jaxft import cli, predict

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

TEXTS = ["We use their parser .", "In future work we will see .", "NA"]


@pytest.fixture(scope="module")
def single(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished LoRA run on single texts."""
    workdir = tmp_path_factory.mktemp("single") / "run"
    run_here(train_command(tiny_checkpoint, workdir, "--config.epochs=1"))
    return workdir


def predicted(run_dir: Path, texts: Path, *flags: str) -> list[dict[str, Any]]:
    """The rows of a file, predicted in this process."""
    output = texts.with_name("out.jsonl")
    argv = ["predict", f"--run={run_dir}", f"--input={texts}", f"--output={output}", *flags]
    assert predict.main(argv) == 0
    return rows_of(output)


def refused(capsys: pytest.CaptureFixture[str], run_dir: Path, texts: Path, *flags: str) -> str:
    """The one line that refuses to predict."""
    output = texts.with_name("out.jsonl")
    argv = ["predict", f"--run={run_dir}", f"--input={texts}", f"--output={output}", *flags]
    capsys.readouterr()
    assert cli.guarded(predict.main, argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert not output.exists()
    return err


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ---------------------------------------------------------------- columns


def test_a_column_term_is_no_text_of_a_run_on_single_texts(single: Path, tmp_path: Path) -> None:
    rows = [{"text": text, "term": "XX"} for text in TEXTS]
    found = predicted(single, write_rows(tmp_path / "in.jsonl", rows))
    assert [row["text"] for row in found] == TEXTS


def test_columns_that_hold_no_text_are_refused_by_name(
    single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = write_rows(tmp_path / "in.jsonl", [{"term": "XX", "sentence": "a sentence"}])
    line = refused(capsys, single, texts)
    assert f"{texts}:1: no column text; it has term, sentence" in line


def test_a_line_of_a_txt_file_has_its_line_of_the_output_blank_or_not(
    single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "in.txt"
    texts.write_text(f"{TEXTS[0]}\r\n\n{TEXTS[1]}\n\n\n")
    found = predicted(single, texts)
    assert [row["text"] for row in found] == [TEXTS[0], "", TEXTS[1], "", ""]
    assert all(row["prediction"] for row in found)
    assert "3 of 5 lines are blank" in capsys.readouterr().out


def test_a_text_that_is_cut_says_so(
    single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "in.txt"
    texts.write_text(f"{TEXTS[0]}\n" + "very long text " * 60 + "\n")
    short, long = predicted(single, texts)
    assert "truncated" not in short
    assert long["truncated"] is True
    assert "1 of 2 texts were cut at 32 tokens" in capsys.readouterr().out


def test_files_may_be_parquet_or_gzipped(single: Path, tmp_path: Path) -> None:
    rows = [{"text": text, "label": number} for number, text in enumerate(TEXTS[:2])]
    plain = predicted(single, write_rows(tmp_path / "in.jsonl", rows))
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "in.jsonl").read_bytes()))
    parquet = tmp_path / "in.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    lines = tmp_path / "in.txt.gz"
    lines.write_bytes(gzip.compress("\n".join(TEXTS[:2]).encode()))
    probabilities = [row["probabilities"] for row in plain]
    for path in (packed, parquet, lines):
        found = predicted(single, path)
        assert [row["probabilities"] for row in found] == probabilities
    # A class index is scored as the name at its place.
    assert read(tmp_path / "out.scores.json")["per_class"]["Background"]["support"] == 1


# ---------------------------------------------------------------- scores


def test_the_runs_own_test_file_is_scored_as_the_run_was(
    single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "test.jsonl"
    shutil.copy(SAMPLE_TEST, texts)
    found = predicted(single, texts)
    printed = capsys.readouterr().out
    test = read(single / "results.json")["test"]
    scores = read(tmp_path / "out.scores.json")
    assert {name: scores[name] for name in test} == test
    before = rows_of(single / "predictions_test.jsonl")
    assert [row["probabilities"] for row in found] == [row["probabilities"] for row in before]
    for name in ("accuracy", "macro_f1", "loss", "majority_accuracy"):
        assert f"{test[name]:.4f}" in printed
    # Under another name of the column, and without scores.
    rows = [{"text": row["text"], "gold": row["label"]} for row in rows_of(texts)]
    other = write_rows(tmp_path / "gold.jsonl", rows)
    (tmp_path / "out.scores.json").unlink()
    predicted(single, other)
    assert not (tmp_path / "out.scores.json").exists()
    predicted(single, other, "--label=gold", f"--scores={tmp_path / 'mine.json'}")
    assert {name: read(tmp_path / "mine.json")[name] for name in test} == test
    predicted(single, texts, "--label=none")
    assert not (tmp_path / "out.scores.json").exists()


def test_labels_that_cannot_be_scored_are_refused_by_line(
    single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": TEXTS[0], "label": "Uses"}, {"text": TEXTS[1], "label": "Futur"}]
    texts = write_rows(tmp_path / "in.jsonl", rows)
    line = refused(capsys, single, texts)
    assert f"{texts}:2: label: unknown value 'Futur'" in line
    assert "did you mean 'Future'?" in line
    texts = write_rows(tmp_path / "in.jsonl", [rows[0], {"text": TEXTS[1]}])
    assert f"{texts}:2: no field 'label'" in refused(capsys, single, texts)
    assert "no column 'lable'" in refused(capsys, single, texts, "--label=lable")


# ---------------------------------------------------------------- damaged files


@pytest.fixture
def copy(single: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    shutil.copytree(single, tmp_path / "run")
    return tmp_path / "run"


def flip_a_bit(folder: Path) -> str:
    path = folder / "trained.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x40
    path.write_bytes(data)
    return "sha256 differs"


def cut_short(folder: Path) -> str:
    path = folder / "trained.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return "sha256 differs"


def rewritten(folder: Path, leaves: dict[str, np.ndarray]) -> None:
    """Other leaves, as an older jaxft wrote them: without a checksum."""
    save_file(leaves, folder / "trained.safetensors")
    settings = read(folder / "settings.json")
    for name in ("sha256", "parameters", "settings_sha256"):
        del settings[name]
    (folder / "settings.json").write_text(json.dumps(settings))


def lose_a_leaf(folder: Path) -> str:
    leaves = load_file(folder / "trained.safetensors")
    lost = next(path for path in leaves if path.endswith("lora/b"))
    del leaves[lost]
    rewritten(folder, leaves)
    return f"parameter {lost} is missing"


def add_a_leaf(folder: Path) -> str:
    leaves = load_file(folder / "trained.safetensors")
    rewritten(folder, {**leaves, "bert/lora/c": np.zeros(3, np.float32)})
    return "parameter bert/lora/c is not one of the model's"


def change_a_shape(folder: Path) -> str:
    leaves = load_file(folder / "trained.safetensors")
    rewritten(folder, {**leaves, "classifier/bias": np.zeros(7, np.float32)})
    return "parameter classifier/bias is ['float32', 7], not ['float32', 6]"


def empty_settings(folder: Path) -> str:
    (folder / "settings.json").write_text("")
    return "settings.json: not valid JSON"


def lose_settings(folder: Path) -> str:
    (folder / "settings.json").unlink()
    return "settings.json: not there"


def scale_otherwise(folder: Path) -> str:
    text = (folder / "settings.json").read_text()
    (folder / "settings.json").write_text(text.replace('"alpha": 16.0', '"alpha": 66.0'))
    return "settings.json: not what was saved"


def swap_settings(folder: Path) -> str:
    settings = read(folder / "settings.json")
    settings["method"]["rank"] = 4
    del settings["settings_sha256"]
    (folder / "settings.json").write_text(json.dumps(settings))
    return "is ['float32', "


@pytest.mark.parametrize(
    "damage",
    [
        *(flip_a_bit, cut_short, lose_a_leaf, add_a_leaf, change_a_shape),
        *(empty_settings, lose_settings, scale_otherwise, swap_settings),
    ],
)
def test_a_damaged_adapter_is_refused_in_a_line(
    damage: Callable[[Path], str], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = write_rows(copy.parent / "in.jsonl", [{"text": text} for text in TEXTS])
    said = damage(copy / "adapter")
    assert said in refused(capsys, copy, texts)


def test_what_a_run_trained_says_all_that_using_it_takes(single: Path, copy: Path) -> None:
    settings = read(copy / "adapter" / "settings.json")
    results = read(single / "results.json")
    assert settings["method"] == results["method_options"]
    assert settings["labels"] == results["labels"]
    assert settings["base_model"]["name"] == results["model"]
    assert settings["base_model"]["sha256"] == read(single / "env.json")["model_sha256"]
    leaves = load_file(copy / "adapter" / "trained.safetensors")
    assert settings["parameters"] == {p: ["float32", *x.shape] for p, x in sorted(leaves.items())}
    # The adapter's folder is enough; the rest of the run is not read.
    texts = write_rows(copy.parent / "in.jsonl", [{"text": text} for text in TEXTS])
    before = predicted(copy, texts)
    for path in copy.iterdir():
        if path.name not in ("adapter", "DONE"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert predicted(copy, texts) == before


def test_a_run_of_an_older_jaxft_predicts_still(copy: Path) -> None:
    texts = write_rows(copy.parent / "in.jsonl", [{"text": text} for text in TEXTS])
    path = copy / "adapter" / "settings.json"
    known = ("labels", "pair", "buckets", "max_length", "eval_batch_size", "weights_sha256")
    newer = ("sha256", "settings_sha256", "eval_layout")  # the batches of an older run were others
    settings = read(path)
    path.write_text(json.dumps({name: x for name, x in settings.items() if name not in newer}))
    before = predicted(copy, texts)
    path.write_text(json.dumps({name: settings[name] for name in known}))
    assert predicted(copy, texts) == before


# ---------------------------------------------------------------- the base model


def test_another_config_or_tokenizer_is_another_base_model(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_checkpoint, base)
    arguments = train_command(base, tmp_path / "run", "--config.epochs=1")
    run_here(arguments)
    texts = write_rows(tmp_path / "in.jsonl", [{"text": text} for text in TEXTS])
    config = base / "config.json"
    original = config.read_text()
    config.write_text(re.sub(r'"num_attention_heads": 2', '"num_attention_heads": 4', original))
    assert "not the model that the run was trained on: config changed" in refused(
        capsys, tmp_path / "run", texts
    )
    assert "the model (config) changed" in run_here(arguments, expect=2)
    config.write_text(original)
    tokenizer = base / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"lowercase":true', '"lowercase":false'))
    tokenizer.write_text(tokenizer.read_text().replace('"lowercase": true', '"lowercase": false'))
    assert "tokenizer changed since" in refused(capsys, tmp_path / "run", texts)
    assert "the model (tokenizer) changed" in run_here(arguments, expect=2)


def test_a_base_model_may_move(copy: Path, tiny_checkpoint: Path) -> None:
    texts = write_rows(copy.parent / "in.jsonl", [{"text": text} for text in TEXTS])
    before = predicted(copy, texts)
    moved = Path(shutil.copytree(tiny_checkpoint, copy.parent / "moved"))
    settings = read(copy / "adapter" / "settings.json")
    settings["base_model"]["name"] = str(moved)
    (copy / "adapter" / "settings.json").write_text(json.dumps(settings))
    assert predicted(copy, texts) == before


def test_a_fully_trained_model_needs_no_base_model(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_checkpoint, base)
    run_here(train_command(base, tmp_path / "run", "--config.epochs=1", method="full"))
    shutil.rmtree(base)
    texts = write_rows(tmp_path / "in.jsonl", rows_of(SAMPLE_TEST))
    run(predict_command(tmp_path / "run", texts, tmp_path / "again.jsonl"))
    before = rows_of(tmp_path / "run" / "predictions_test.jsonl")
    after = rows_of(tmp_path / "again.jsonl")
    assert [r["probabilities"] for r in after] == [r["probabilities"] for r in before]
    # Its own description is checked instead.
    config = tmp_path / "run" / "model" / "config.json"
    original = config.read_text()
    config.write_text(original.replace('"num_attention_heads": 2', '"num_attention_heads": 4'))
    assert "config changed since" in refused(capsys, tmp_path / "run", texts)
    config.write_text(original)
    (config.parent / "vocab.txt").write_text("[PAD]\n")
    assert "tokenizer changed since" in refused(capsys, tmp_path / "run", texts)


def test_an_output_that_is_a_directory_is_refused_before_anything_is_read(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("output", "scores"):
        places = {"output": tmp_path / "out.jsonl", "scores": tmp_path / "out.json", flag: tmp_path}
        argv = ["predict", f"--run={copy}", "--input=nothing.txt"]
        argv += [f"--{name}={path}" for name, path in places.items()]
        assert cli.guarded(predict.main, argv) == 2
        assert f"--{flag}: {tmp_path} is a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [{"max_length": None}, {"method": 3}, {"base_model": {"sha256": {}, "quantum": True}}],
    ids=["max_length", "method", "base_model"],
)
def test_settings_of_somebody_else_are_refused_by_field(
    wrong: dict[str, Any], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = copy / "adapter" / "settings.json"
    settings = {name: x for name, x in read(file).items() if name != "settings_sha256"}
    file.write_text(json.dumps(settings | wrong))
    texts = write_rows(copy.parent / "in.jsonl", [{"text": text} for text in TEXTS])
    line = refused(capsys, copy, texts)
    assert f"settings.json: {next(iter(wrong))}" in line
