"""Hostile files of every format, under an audit hook: nothing runs, nothing is written elsewhere.

What is opened, executed, unpickled, started or connected to is listed by `audited.py` in a process
of its own; here the list is judged.
"""

import json
import os
import pickle
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from flax.serialization import msgpack_serialize

sys.path.insert(0, str(Path(__file__).parent / "interop"))
from exported import write_base, write_own

import jaxft
from jaxft.run.export import copy_plots

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


def edit(path: Path, **fields: Any) -> None:
    """Changes fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


CODE = "import os\nos.system('touch \"{marker}\"')\n"
REMOTE = {"auto_map": {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}}
REMOTE |= {"trust_remote_code": True, "tokenizer_class": "Evil"}


def hostile_models(folder: Path, bomb: bytes, code: str) -> None:
    """Base models that bring code, or a pickle in the place of the weights."""
    for name in ("remote", "bin", "safetensors", "msgpack", "objects"):
        model = write_base(folder / name, "bert")
        (model / "evil.py").write_text(code)
        weights = model / "model.safetensors"
        if name == "remote":
            edit(model / "config.json", **REMOTE)
            edit(model / "tokenizer_config.json", **REMOTE)
        elif name == "bin":
            weights.unlink()
            (model / "pytorch_model.bin").write_bytes(bomb)
        elif name == "safetensors":
            weights.write_bytes(bomb)
        else:
            weights.unlink()
            tree = {"bert": np.ones(3, np.float32)}
            content = bomb if name == "msgpack" else msgpack_serialize(tree) + bomb
            (model / "flax_model.msgpack").write_bytes(content)


def hostile_data(folder: Path, bomb: bytes) -> None:
    """Data files that refer to others, or that are pickles."""
    folder.mkdir()
    for ending in ("jsonl", "json", "csv", "tsv", "txt", "parquet", "xml", "jsonl.gz", "pkl"):
        (folder / f"bomb.{ending}").write_bytes(bomb)
    entity = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    (folder / "entity.xml").write_text(f"{entity}<sentences><sentence>&e;</sentence></sentences>")
    (folder / "dtd.xml").write_text('<!DOCTYPE x SYSTEM "http://localhost:9/x.dtd"><sentences/>')
    table = pyarrow.table({"text": ["a"], "label": ["x"]})
    table = table.replace_schema_metadata({b"pandas": bomb, b"huggingface": bomb})
    pyarrow.parquet.write_table(table, folder / "metadata.parquet")


def hostile_trained(folder: Path, base: Path, bomb: bytes, code: str) -> None:
    """Trained models whose files are pickles or name code."""
    lora = write_own(folder / "own", base, "lora", rank=2)
    jaxft.load(lora).export(folder / "peft", format="peft")
    jaxft.load(lora).export(folder / "peft-bin", format="peft")
    (folder / "peft-bin" / "adapter_model.safetensors").unlink()
    (folder / "peft-bin" / "adapter_model.bin").write_bytes(bomb)
    edit(folder / "peft" / "adapter_config.json", **REMOTE)
    pickled = write_own(folder / "pickled", base, "lora", rank=2)
    (pickled / "adapter" / "trained.safetensors").write_bytes(bomb)
    for name in ("plugins", "sealed"):
        run = write_own(folder / name, base, "lora", rank=2)
        (run / "evil.py").write_text(code)
        for file in ("config.json", "env.json", "results.json"):
            (run / file).write_text(json.dumps({"plugins": ["evil"], "task": "__import__('os')"}))
        (run / "DONE").write_text('{"../../../../etc/passwd": "0", "/dev/zero": "0"}')
    edit(folder / "plugins" / "adapter" / "settings.json", plugins=["evil"])


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happened at each attempt."""
    top = tmp_path_factory.mktemp("hostile")
    marker, code = top / "marker", CODE.format(marker=top / "marker")
    bomb = pickle.dumps(Bomb(marker))
    base = write_base(top / "base", "bert")
    hostile_models(top / "models", bomb, code)
    hostile_data(top / "data", bomb)
    hostile_trained(top / "trained", base, bomb, code)
    (top / "in.txt").write_text("a text\n")
    (top / "evil.py").write_text(code)
    environment = {
        **{name: x for name, x in os.environ.items() if "proxy" not in name.lower()},
        "JAX_PLATFORMS": "cpu",
        "JAXFT_CACHE": str(top / "out" / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    (top / "out").mkdir()
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "audited.py"), str(top), str(top / "out")],
        cwd=top,  # where evil.py is
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert not marker.exists()
    return {"top": str(top), **json.loads(done.stdout)}


def of_kind(noted: dict[str, Any], *kinds: str) -> list[tuple[str, str]]:
    """The events of some kinds, with the attempts at which they came."""
    return [
        (f"{name}: {kind}", what)
        for name, found in noted.items()
        if name != "top"
        for kind, what in found["events"]
        if kind in kinds
    ]


def test_every_hostile_file_was_read_or_refused(noted: dict[str, Any]) -> None:
    ended = {name: found["ended"] for name, found in noted.items() if name != "top"}
    assert set(ended.values()) <= {"refused", "exit code 2", "read", "exit code 0"}
    taken = {
        name
        for name, how in ended.items()
        if how in ("read", "exit code 0") and not name.startswith("sealed")
    }
    # Only what is a sound file but for what it says beside.
    for name in taken:
        assert "bomb" not in name
        assert "bin" not in name
        assert "pickled" not in name
    assert len(ended) > 40


def test_nothing_is_unpickled(noted: dict[str, Any]) -> None:
    assert of_kind(noted, "pickle.find_class", "marshal.loads") == []


def test_nothing_is_executed_that_is_not_installed(noted: dict[str, Any]) -> None:
    paths = sysconfig.get_paths()
    installed = (*(paths[x] for x in ("stdlib", "purelib", "platlib")), str(ROOT))
    for where, file in of_kind(noted, "exec", "compile"):
        assert noted["top"] not in file, where
        assert file.startswith((*installed, "<")), (where, file)
    assert [x for x in of_kind(noted, "import") if "evil" in x[1]] == []


def test_no_process_is_started_and_nobody_is_connected_to(noted: dict[str, Any]) -> None:
    starts = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
    assert of_kind(noted, *starts) == []
    assert of_kind(noted, "socket.connect", "socket.getaddrinfo", "socket.bind") == []


def test_nothing_is_written_outside_the_output(noted: dict[str, Any]) -> None:
    allowed = (f"{noted['top']}/out", "/dev/null", "/proc/self/clear_refs")
    for where, path in of_kind(noted, "write"):
        assert path.startswith(allowed), (where, path)
    assert [x for x in of_kind(noted, "read") if x[1] == "/etc/passwd"] == []


def test_a_link_among_the_pictures_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.png").write_bytes(b"a picture")
    (tmp_path / "secret").write_text("a key")
    (tmp_path / "plots" / "b.png").symlink_to(tmp_path / "secret")
    (tmp_path / "linked").symlink_to(tmp_path / "plots")
    copy_plots(tmp_path / "plots", tmp_path / "export")
    copy_plots(tmp_path / "linked", tmp_path / "other")
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["a.png"]
    assert not (tmp_path / "other").exists()
