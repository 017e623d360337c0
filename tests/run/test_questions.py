"""The question of `jaxft memory`: when it is known without JAX, and what makes it another one."""

from pathlib import Path

import pytest

from jaxft.errors import InputError
from jaxft.run import answers
from jaxft.run.questions import as_flags, devices, question, read


def key_of(*arguments: str) -> str | None:
    model, argv = as_flags(["memory", *arguments])
    return question(model, argv, read(argv))


BASE = ("roberta-base", "--target=t4", "--method=lora")


@pytest.mark.parametrize(
    "arguments",
    [
        ("roberta-large", "--target=t4", "--method=lora"),
        ("roberta-base", "--target=t4,l4", "--method=lora"),
        ("roberta-base", "--target=t4", "--method=full"),
        (*BASE, "--batch_size=8"),
        (*BASE, "--length=64"),
        (*BASE, "--fit=8GiB"),
        (*BASE, "--fit"),
        (*BASE, "--need"),
        (*BASE, "--config.method.rank=4"),
        (*BASE, "--config.memory.remats=none,layer"),
        (*BASE, "--config.model.dtype=bfloat16"),
    ],
)
def test_another_setting_is_another_question(arguments: tuple[str, ...]) -> None:
    assert key_of(*BASE) is not None
    assert key_of(*arguments) not in (None, key_of(*BASE))
    assert key_of(*arguments) == key_of(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("roberta-base",),  # the present device
        ("roberta-base", "--target=cpu,t4"),
        ("some/model", "--target=t4"),  # the hub's, which may change
        ("--config=configs/acl_lora.py", "--target=t4"),
        (*BASE, "--config=configs/acl_lora.py"),
        (*BASE, "--config", "configs/acl_lora.py"),
        (*BASE, "--config.task=custom"),
        (*BASE, "--config.plugins=mine"),
        (*BASE, "--config.method.adapters=runs/a"),
        (*BASE, "--config.memory.steps=3"),
        (*BASE, "--config.memory.targets=cpu"),
        (*BASE, "--config.model.name=other"),
        (*BASE, "--nothing"),
        (*BASE, "rest"),
        ("roberta-base", "--target=t40"),
    ],
)
def test_what_needs_jax_or_other_files_is_no_question(arguments: tuple[str, ...]) -> None:
    assert key_of(*arguments) is None


def test_outputs_do_not_count_and_the_environment_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of(*BASE)
    assert key_of(*BASE, "--json=x.json", "--markdown=x.md", "--plot=x.png") == before
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
        assert key_of(*BASE) not in (None, before)
    with monkeypatch.context() as patch:
        patch.setenv("JAXFT_PLUGINS", "mine")
        assert key_of(*BASE) is None


def test_a_local_model_counts_by_its_files(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "bert"}')
    of_directory, of_file = key_of(str(tmp_path), "--target=t4"), key_of(str(file), "--target=t4")
    assert of_directory is not None
    assert of_file not in (None, of_directory)
    other = tmp_path / "tiny.json"  # of no weights: only those beside a config.json are read
    other.write_text(file.read_text())
    of_other = key_of(str(other), "--target=t4")
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    assert key_of(str(tmp_path), "--target=t4") != of_directory
    assert key_of(str(file), "--target=t4") not in (None, of_file)
    assert key_of(str(other), "--target=t4") == of_other
    other.write_text('{"model_type": "roberta"}')
    assert key_of(str(other), "--target=t4") not in (None, of_other)


def test_an_answer_that_cannot_be_kept_is_given_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))
    answers.write("key", [])
    assert answers.read("key") is None


def test_a_config_of_the_current_directory_is_not_jaxft_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_of(*BASE)
    monkeypatch.chdir(tmp_path)
    assert key_of(*BASE) == before
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.py").touch()
    assert key_of(*BASE) is None


def test_the_last_setting_of_a_field_counts() -> None:
    settings = ("--config.method.rank=4", "--config.method.rank=8")
    assert key_of(*BASE, *settings) != key_of(*BASE, *reversed(settings))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-here/bert"])
def test_what_names_no_file_is_no_question(name: str) -> None:
    assert key_of(name, "--target=t4") is None


def test_fit_alone_is_of_the_device() -> None:
    for place in (["roberta-base", "--fit", "--target=t4"], ["roberta-base", "--fit"]):
        assert "--fit=device" in as_flags(["memory", *place])[1]
    assert as_flags(["memory", "roberta-base", "--fit", "8GiB"])[1][-2:] == ["--fit", "8GiB"]


def test_need_is_of_every_gpu_without_a_target() -> None:
    _, argv = as_flags(["memory", "roberta-base", "--need"])
    asked = read(argv)
    assert asked is not None
    names = devices(asked).split(",")
    assert {"t4", "h100"} <= set(names)
    assert "v5e" not in names


def test_no_argument_is_refused() -> None:
    with pytest.raises(InputError, match="no model"):
        as_flags(["memory"])
