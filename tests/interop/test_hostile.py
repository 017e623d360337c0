"""Damaged, foreign and hostile files: one line says what is wrong, and nothing is run or written.

100,000 examples of each fuzz test instead of a few hundred (docs/export.md):

    JAXFT_FUZZ=100000 python -m pytest tests/interop/test_hostile.py -k fuzz
"""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import write_base, write_own
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save, save_file

import jaxft
from jaxft import cli, predict
from jaxft.errors import InputError
from jaxft.peft.interop import files, peft_files
from jaxft.peft.method import Site
from jaxft.run import foreign

EXAMPLES = int(os.environ.get("JAXFT_FUZZ", "300"))
TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny", "bert")


@pytest.fixture(scope="module")
def site(base: Path) -> Site:
    return foreign.site_of(base)


@pytest.fixture(scope="module")
def written(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports of every format, of small models."""
    folder = tmp_path_factory.mktemp("exports")
    for kind, method in (("peft", "lora"), ("adapterhub", "houlsby"), ("transformers", "lora")):
        own = write_own(folder / f"own-{kind}", base, method, rank=2, size=4)
        jaxft.load(own).export(folder / kind, format=kind)
    return {kind: folder / kind for kind in ("peft", "adapterhub", "transformers")}


def refused(directory: Path) -> str:
    """The one line that refuses to load a directory, in which nothing changes."""
    before = sorted(path.name for path in directory.iterdir())
    with pytest.raises(InputError) as found:
        jaxft.load(directory)
    assert sorted(path.name for path in directory.iterdir()) == before
    line = str(found.value)
    assert "\n" not in line
    return line


def changed(directory: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Rewrites a JSON file or a safetensors file of a directory."""
    path = directory / name
    content = load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())
    change(content)
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        path.write_text(json.dumps(content))
    return directory


CLASSIFIER = "base_model.model.classifier.weight"
QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"
# What is changed in peft's files -> what the message says.
CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "no head": (TENSORS, lambda t: t.pop(CLASSIFIER), f"tensor {CLASSIFIER} is missing"),
    "no B": (TENSORS, lambda t: t.pop(f"{QUERY}.lora_B.weight"), "lora_B.weight is missing"),
    "no LoRA at a module": (
        TENSORS,
        lambda t: [t.pop(f"{QUERY}.lora_{x}.weight") for x in "AB"],
        "the file has no tensor of bert.encoder.layer.0.attention.self.query",
    ),
    "a tensor more": (
        TENSORS,
        lambda t: t.update({"base_model.model.lm_head.weight": np.ones(3, np.float32)}),
        "tensor base_model.model.lm_head.weight has no place in a bert model",
    ),
    "a LoRA at the pooler": (
        TENSORS,
        lambda t: t.update(
            {
                f"base_model.model.bert.pooler.dense.lora_{x}.weight": np.ones((2, 2), np.float32)
                for x in "AB"
            }
        ),
        "bert.pooler.dense.lora_A.weight is not at a Dense layer of the encoder",
    ),
    "another shape": (
        TENSORS,
        lambda t: t.update({f"{QUERY}.lora_B.weight": np.ones((5, 2), np.float32)}),
        "parameter bert/encoder/layer/0/attention/self/query/lora/b is ['float32', 2, 5]",
    ),
    "another rank": (
        TENSORS,
        lambda t: t.update({f"{QUERY}.lora_A.weight": np.ones((7, 32), np.float32)}),
        "r is 2; expected the rank of the tensors of bert.encoder.layer.0",
    ),
    "a classifier of one dimension": (
        TENSORS,
        lambda t: t.update({CLASSIFIER: np.ones(3, np.float32)}),
        "parameter classifier/kernel is",
    ),
    "another dtype": (
        TENSORS,
        lambda t: t.update({CLASSIFIER: np.ones((3, 32), np.int32)}),
        "not a safetensors file (dtype I32; expected F32, F16, BF16)",
    ),
    "another task": (CONFIG, lambda c: c.update(task_type="CAUSAL_LM"), "expected 'SEQ_CLS'"),
    "no task": (CONFIG, lambda c: c.update(task_type=None), "task_type is None"),
    "another method": (CONFIG, lambda c: c.update(peft_type="OFT"), "peft_type is 'OFT'; expected"),
    "a revision of the base model": (
        CONFIG,
        lambda c: c.update(revision="v2"),
        "revision is 'v2'; expected None or 'main'",
    ),
    "biases": (CONFIG, lambda c: c.update(bias="all"), "bias is 'all'; expected 'none'"),
    "fan_in_fan_out": (CONFIG, lambda c: c.update(fan_in_fan_out=True), "fan_in_fan_out is True"),
    "DoRA of a string": (CONFIG, lambda c: c.update(use_dora="yes"), "use_dora is 'yes'"),
    "a field of tomorrow": (CONFIG, lambda c: c.update(use_zora=True), "use_zora is True"),
    "a base model's start": (
        CONFIG,
        lambda c: c.update(init_lora_weights="pissa"),
        "init_lora_weights is 'pissa'",
    ),
    "a rank of text": (CONFIG, lambda c: c.update(r="8"), "r is '8'; expected a whole number"),
    "an alpha that is no number": (
        CONFIG,
        lambda c: c.update(lora_alpha=float("nan")),
        "lora_alpha is nan; expected a number",
    ),
    "a regex as a pattern": (
        CONFIG,
        lambda c: c.update(rank_pattern={"(a+)+$": 3}),
        "expected names of modules",
    ),
    "targets of numbers": (CONFIG, lambda c: c.update(target_modules=[1]), "a list of strings"),
    "no base model": (
        CONFIG,
        lambda c: c.update(base_model_name_or_path=None),
        "names no base model; give it as base",
    ),
    "a base model that is not there": (
        CONFIG,
        lambda c: c.update(base_model_name_or_path="../../nothing"),
        "model.name: no such directory: ../../nothing",
    ),
    "labels of another number": (
        "config.json",
        lambda c: c.update(id2label={"0": "a"}),
        "1 labels, and a classifier of 3",
    ),
    "labels that are no strings": (
        "config.json",
        lambda c: c.update(id2label={"0": "a", "1": 3, "2": "b"}),
        "id2label is",
    ),
    "another problem": (
        "config.json",
        lambda c: c.update(problem_type="regression"),
        "objective regression with 3 outputs",
    ),
    "notes of another type": (
        "jaxft_run.json",
        lambda c: c.update(max_length="all"),
        "max_length is 'all'",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CHANGES)
def test_what_peft_files_lack_or_have_too_much_is_named(
    case: str, written: dict[str, Path], tmp_path: Path
) -> None:
    name, change, message = CHANGES[case]
    directory = shutil.copytree(written["peft"], tmp_path / "peft")
    assert message in refused(changed(directory, name, change))


@pytest.mark.slow
def test_files_of_another_kind_are_refused(written: dict[str, Path], tmp_path: Path) -> None:
    directory = shutil.copytree(written["peft"], tmp_path / "peft")
    tensors = directory / TENSORS
    data = tensors.read_bytes()
    for content in (b"", b"\x00" * 8, data[:-1], data + b"\0", data[:40]):
        tensors.write_bytes(content)
        assert "not a safetensors file" in refused(directory)
    tensors.write_bytes(struct.pack("<Q", 100 * 2**20) + b"{" + b" " * 100)
    assert "header of 104857600 bytes" in refused(directory)

    # A pickle is not opened: this one would leave a file.
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    tensors.unlink()
    (directory / "adapter_model.bin").write_bytes(pickle.dumps(Hostile()))
    assert "only .bin weights, which can run code when read" in refused(directory)
    assert not (tmp_path / "executed").exists()

    (directory / CONFIG).write_text("[" * 100_000)
    assert "not valid JSON" in refused(directory)
    (directory / CONFIG).write_text("{}")
    assert "neither peft's" in refused(directory)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["peft", "adapterhub", "transformers"])
def test_a_link_out_of_the_directory_is_refused(
    kind: str, written: dict[str, Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(written[kind], tmp_path / kind)
    path = next(directory.glob("*.safetensors"))
    path.rename(tmp_path / "elsewhere.safetensors")
    path.symlink_to(tmp_path / "elsewhere.safetensors")
    assert f"outside of {directory}" in refused(directory)


@pytest.mark.slow
def test_an_index_that_names_files_elsewhere_is_refused(
    written: dict[str, Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(written["transformers"], tmp_path / "whole")
    (directory / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"weight_map": {"classifier.weight": "../model.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"a shard outside of {directory}" in refused(directory)


@pytest.mark.slow
def test_a_model_without_a_head_is_refused(base: Path) -> None:
    assert "no classifier of one size among the tensors" in refused(base)


@pytest.mark.slow
def test_adapterhub_files_that_compute_something_else_are_named(
    written: dict[str, Path], tmp_path: Path
) -> None:
    def message(name: str, change: Callable[[dict[str, Any]], Any]) -> str:
        shutil.rmtree(tmp_path / "hub", ignore_errors=True)
        directory = shutil.copytree(written["adapterhub"], tmp_path / "hub")
        return refused(changed(directory, name, change))

    def own(**fields: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda content: content["config"].update(fields)

    assert "ln_before is True" in message(CONFIG, own(ln_before=True))
    assert "no adapter that jaxft has" in message(CONFIG, own(is_parallel=True))
    assert "non_linearity is 'leakyrelu'" in message(CONFIG, own(non_linearity="leakyrelu"))
    assert "leave_out is [1]" in message(CONFIG, own(leave_out=[1]))
    assert "layers is 3" in message("head_config.json", own(layers=3))
    assert "head_type is 'tagging'" in message("head_config.json", own(head_type="tagging"))
    line = message("model_head.safetensors", lambda t: t.pop("heads.jaxft.4.bias"))
    assert "tensor heads.jaxft.4.bias is missing" in line
    line = message("adapter.safetensors", lambda t: t.update(extra=np.ones(2, np.float32)))
    assert "extra has no place in a bert model" in line


@pytest.mark.slow
def test_a_hostile_file_ends_a_command_in_one_line(
    written: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = shutil.copytree(written["peft"], tmp_path / "peft")
    (directory / TENSORS).write_bytes(b"\xff" * 64)
    (tmp_path / "in.txt").write_text("one\n")
    argv = ["predict", f"--run={directory}", f"--input={tmp_path / 'in.txt'}"]
    assert cli.guarded(predict.main, [*argv, f"--output={tmp_path / 'out.jsonl'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


# ---------------------------------------------------------------- fuzz

SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
INNER = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(st.text(max_size=8), SCALAR)
JSON = INNER | st.lists(INNER, max_size=4) | st.dictionaries(st.text(max_size=8), INNER, max_size=4)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "F99"]) | JSON,
        "shape": st.lists(st.integers(-2, 2**40), max_size=4) | JSON,
        "data_offsets": st.lists(st.integers(-2, 64), min_size=1, max_size=3) | JSON,
    },
)
FEW = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def read_or_refused(read: Callable[[], Any]) -> Any:
    """What was read; None after a refusal of one line."""
    try:
        return read()
    except InputError as err:
        message = str(err)
    assert message
    assert "\n" not in message
    return None


@FEW
@given(
    header=st.dictionaries(st.text(max_size=6), ENTRY, max_size=3) | JSON | st.binary(max_size=64),
    length=st.none() | st.integers(0, 2**64 - 1),
    data=st.binary(max_size=64),
)
def test_fuzz_a_safetensors_file_is_read_or_refused(
    header: Any, length: int | None, data: bytes, tmp_path: Path
) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", size) + text + data)
    tensors = read_or_refused(lambda: files.read_tensors(tmp_path, "x.safetensors"))
    assert all(x.dtype == np.float32 for x in (tensors or {}).values())


@FEW
@given(noise=st.binary(max_size=200), place=st.integers(0, 300))
def test_fuzz_a_damaged_file_is_read_or_refused(noise: bytes, place: int, tmp_path: Path) -> None:
    whole = save({"a": np.ones((2, 3), np.float32), "b": np.ones(2, np.float16)})
    damaged = whole[:place] + noise + whole[place + len(noise) :]
    (tmp_path / "x.safetensors").write_bytes(damaged)
    read_or_refused(lambda: files.read_tensors(tmp_path, "x.safetensors"))


PEFT_FIELDS = {
    "peft_type": "LORA",
    "task_type": "SEQ_CLS",
    "base_model_name_or_path": "x",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["query"],
    "use_dora": False,
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_to_transform": None,
    "modules_to_save": ["classifier"],
    "exclude_modules": None,
    "use_rslora": False,
}


@FEW
@given(
    fields=st.dictionaries(
        st.sampled_from(sorted(PEFT_FIELDS)) | st.text(max_size=6), JSON, max_size=4
    )
)
def test_fuzz_a_peft_config_is_read_or_refused(
    fields: dict[str, Any], written: dict[str, Path], site: Site, tmp_path: Path
) -> None:
    directory = tmp_path / "peft"
    if not directory.exists():
        shutil.copytree(written["peft"], directory)
    (directory / CONFIG).write_text(json.dumps(PEFT_FIELDS | fields))

    def read() -> None:
        if foreign.kind_of(directory) == "peft":
            peft_files.read(directory, peft_files.read_config(directory), site)

    read_or_refused(read)
