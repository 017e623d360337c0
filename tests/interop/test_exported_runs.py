"""A finished run is exported by the command, pushed to a hub, and trained on elsewhere."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from exported import TEXTS, leaves_of, write_base, write_own

import jaxft
from jaxft import cli, export

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

ROOT = Path(__file__).parents[2]
FIELDS = {"source": "sample", "max_length": 32, "batch_size": 40, "epochs": 1, "rank": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny", "bert")


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> jaxft.Run:
    workdir = tmp_path_factory.mktemp("runs") / "first"
    return jaxft.finetune("acl_sup", str(base), "lora", workdir=workdir, **FIELDS)


def test_the_command_writes_every_format_with_a_card(run: jaxft.Run, tmp_path: Path) -> None:
    expected = run.classifier.logits(TEXTS)
    for kind in ("peft", "transformers", "jaxft"):
        output = tmp_path / kind
        argv = ["export", str(run.directory), f"--format={kind}", f"--output={output}"]
        assert export.main(argv) == 0
        card = (output / "README.md").read_text()
        library = {"peft": "peft", "transformers": "transformers", "jaxft": "jaxft"}[kind]
        assert f"library_name: {library}\n" in card
        assert "## Data" in card
        assert (output / "plots" / "learning_curves.png").is_file()
        back = jaxft.load(output)
        assert back.labels == run.classifier.labels
        assert back.baseline() == run.classifier.baseline()
        np.testing.assert_allclose(back.logits(TEXTS), expected, atol=1e-5, rtol=0)
    assert {path.name for path in tmp_path.iterdir()} == {"peft", "transformers", "jaxft"}


def test_training_goes_on_from_an_export(run: jaxft.Run, base: Path, tmp_path: Path) -> None:
    run.classifier.export(tmp_path / "peft")
    on = jaxft.finetune(
        "acl_sup",
        str(base),
        "lora",
        workdir=tmp_path / "second",
        init_from=str(tmp_path / "peft"),
        learning_rate=1e-9,
        **FIELDS,
    )
    before, after = run.classifier.run.trained, on.classifier.run.trained
    assert before.keys() == after.keys()
    for path, x in before.items():
        np.testing.assert_allclose(after[path], x, atol=1e-6, rtol=0)
    env = json.loads((on.directory / "env.json").read_text())
    assert len(env["init_sha256"]) == 64


def test_training_goes_on_from_a_method_with_frozen_parameters_of_its_own(
    base: Path, tmp_path: Path
) -> None:
    fields = {name: x for name, x in FIELDS.items() if name != "rank"} | {"vera_rank": 4}
    first = jaxft.finetune("acl_sup", str(base), "vera", workdir=tmp_path / "first", **fields)
    start = {"init_from": str(first.directory), "learning_rate": 1e-9}
    on = jaxft.finetune(
        "acl_sup", str(base), "vera", workdir=tmp_path / "second", **fields, **start
    )
    before, after = first.classifier, jaxft.load(on.directory)
    assert after.run.trained.keys() == before.run.trained.keys()
    np.testing.assert_allclose(after.logits(TEXTS), before.logits(TEXTS), atol=1e-5)


def refused(base: Path, workdir: Path, **fields: Any) -> str:
    given = {**FIELDS, **fields}
    method = given.pop("method", "lora")
    with pytest.raises(jaxft.InputError) as found:
        jaxft.finetune("acl_sup", str(base), method, workdir=workdir, **given)
    assert not workdir.exists()
    return str(found.value)


def test_a_start_of_another_kind_is_refused(run: jaxft.Run, base: Path, tmp_path: Path) -> None:
    start, workdir = str(run.directory), tmp_path / "second"
    line = refused(base, workdir, init_from=start, method="houlsby")
    assert "was trained by 'lora', not by 'houlsby'" in line
    assert "/lora/a is" in refused(base, workdir, init_from=start, rank=3)
    assert "/lora/a is missing" in refused(base, workdir, init_from=start, targets=("key",))
    other = write_base(tmp_path / "other", "bert", head=True)
    assert "another base model" in refused(other, workdir, init_from=start)
    assert "no directory" in refused(base, workdir, init_from=str(tmp_path / "nowhere"))


def test_a_start_of_other_labels_has_a_new_output_layer(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_own(tmp_path / "own", base, "lora", rank=2)
    jaxft.finetune(
        "acl_sup",
        str(base),
        "lora",
        workdir=tmp_path / "run",
        init_from=str(own),
        verbose=True,
        **FIELDS,
    )
    assert "but not its output layer: the labels are others" in capsys.readouterr().out


# ---------------------------------------------------------------- the hub


class Hub(BaseHTTPRequestHandler):
    """A stand-in for the hub: repositories are made, and commits kept as files by their paths."""

    files: ClassVar[dict[str, bytes]] = {}
    calls: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.calls.append(self.path)
        if self.path == "/api/repos/create":
            name = json.loads(body)
            place = f"{name.get('organization')}/{name['name']}"
            self.answer({"url": f"http://{self.headers['Host']}/{place}"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer(
                {"files": [{"path": f["path"], "uploadMode": "regular"} | KEPT for f in files]}
            )
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[line["value"]["path"]] = content
            self.answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/me/mine/commit/{'0' * 40}",
                    "commitOid": "0" * 40,
                    "success": True,
                }
            )
        else:
            self.answer({})

    def do_GET(self) -> None:
        self.calls.append(self.path)
        self.answer({"sha": "0" * 40, "siblings": [], "id": "me/mine"})

    def answer(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


KEPT = {"shouldIgnore": False, "oid": None}


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_export_is_pushed_to_the_hub(base: Path, tmp_path: Path, hub: str) -> None:
    own = write_own(tmp_path / "own", base, "lora", rank=2)
    output = tmp_path / "peft"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "jaxft.export", str(own), "--format=peft"),
            *(f"--output={output}", "--push_to_hub=me/mine"),
        ],
        cwd=ROOT,
        env={**os.environ, "HF_ENDPOINT": hub, "HF_TOKEN": "hf_x", "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "pushed to" in done.stdout
    assert Hub.files == {path.name: path.read_bytes() for path in output.iterdir()}


def test_a_hub_out_of_reach_is_one_line_and_the_export_stays(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    own = write_own(tmp_path / "own", base, "lora", rank=2)
    argv = ["export", str(own), "--format=jaxft", f"--output={tmp_path / 'out'}"]
    assert cli.guarded(export.main, [*argv, "--push_to_hub=me/mine"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("export: --push_to_hub: me/mine: ")
    assert err.count("\n") == 1
    assert leaves_of(jaxft.load(tmp_path / "out").run) == leaves_of(jaxft.load(own).run)


def test_a_link_out_of_the_model_is_not_exported(run: jaxft.Run, tmp_path: Path) -> None:
    """A model of somebody else may have one to a file of the user's."""
    model, secret = tmp_path / "model", tmp_path / "secret"
    run.classifier.export(model, format="transformers")
    secret.write_text("mine")
    (model / "merges.txt").symlink_to(secret)
    with pytest.raises(jaxft.InputError, match=r"merges\.txt: outside of"):
        jaxft.load(model).export(tmp_path / "out", format="transformers")
    assert not (tmp_path / "out").exists()
