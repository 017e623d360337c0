"""Where files come from: directories in order, and a pinned download that survives accidents."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jaxft.data import sources
from jaxft.data.sources import RemoteFile, fetch, find_files
from jaxft.data.tasks import CATALOGUE, find_task
from jaxft.data.tasks.__main__ import main
from jaxft.errors import InputError

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data"
CONTENT = bytes(range(256)) * 1200  # more than the server sends before it cuts
ACL = CATALOGUE["acl"].files
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no published files at {REAL}")


@dataclass
class Server:
    """What the server of a test serves, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_at: int | None = None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            body = state.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.cut_at])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("JAXFT_DOWNLOAD_ROOT", f"http://127.0.0.1:{http.server_port}/")
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXFT_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def remote(content: bytes = CONTENT, path: str = "data/train.txt") -> RemoteFile:
    return RemoteFile("org/repo", "c0ffee1234", path, hashlib.sha256(content).hexdigest())


URL = "/org/repo/c0ffee1234/data/train.txt"


# ---------------------------------------------------------------- fetch


def test_download_then_cache(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.files[URL] = CONTENT
    target = tmp_path / "deep" / "train.jsonl"
    fetch(remote(), target)
    fetch(remote(), target)
    assert target.read_bytes() == CONTENT
    assert server.asked == [URL]
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert URL in err


def test_cut_connection_is_named_and_the_next_try_starts_anew(
    server: Server, tmp_path: Path
) -> None:
    server.files[URL] = CONTENT
    server.cut_at = 100_000
    target = tmp_path / "train.jsonl"
    with pytest.raises(InputError, match=r"ended after 100000 of 307200 bytes; run again"):
        fetch(remote(), target)
    assert [path.name for path in tmp_path.glob("*") if path.is_file()] == ["train.jsonl.lock"]
    server.cut_at = None
    fetch(remote(), target)
    assert target.read_bytes() == CONTENT


def test_what_an_older_jaxft_left_unfinished_is_no_hindrance(
    server: Server, tmp_path: Path
) -> None:
    server.files[URL] = CONTENT
    (tmp_path / "train.jsonl.part").write_bytes(CONTENT[:1000])
    fetch(remote(), tmp_path / "train.jsonl")
    assert (tmp_path / "train.jsonl").read_bytes() == CONTENT


def test_a_download_may_be_read_by_others(server: Server, tmp_path: Path) -> None:
    server.files[URL] = CONTENT
    fetch(remote(), tmp_path / "train.jsonl")
    assert (tmp_path / "train.jsonl").stat().st_mode & 0o777 == 0o644


def test_wrong_content_is_refused_and_deleted(server: Server, tmp_path: Path) -> None:
    server.files[URL] = CONTENT[:-1] + b"!"
    target = tmp_path / "train.jsonl"
    with pytest.raises(InputError, match="expected sha256") as caught:
        fetch(remote(), target)
    for digest in (remote().sha256, remote(server.files[URL]).sha256):
        assert digest in str(caught.value)
    assert str(caught.value).isprintable()
    assert [path.suffix for path in tmp_path.glob("train*")] == [".lock"]


def test_spoiled_cache_heals(server: Server, tmp_path: Path) -> None:
    server.files[URL] = CONTENT
    target = tmp_path / "train.jsonl"
    target.write_bytes(CONTENT[:50])
    fetch(remote(), target)
    assert target.read_bytes() == CONTENT


def test_many_at_once_download_once(server: Server, tmp_path: Path) -> None:
    server.files[URL] = CONTENT
    target = tmp_path / "train.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: fetch(remote(), target), range(8)))
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_several_processes_download_once(server: Server, tmp_path: Path) -> None:
    server.files[URL] = CONTENT
    target = tmp_path / "train.jsonl"
    code = (
        "from pathlib import Path; from jaxft.data.sources import *; "
        f"fetch({remote()!r}, Path({str(target)!r}))"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (None, "HTTP 404"),
        ("http://127.0.0.1:9", "unreachable"),
        ("nowhere", "unknown url type"),
        ("http://[", "Invalid IPv6 URL"),
    ],
)
def test_network_errors_are_one_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str | None, message: str
) -> None:
    if root:
        monkeypatch.setenv("JAXFT_DOWNLOAD_ROOT", root)
    with pytest.raises(InputError, match=message) as caught:
        fetch(remote(), tmp_path / "train.jsonl")
    assert str(caught.value).isprintable()
    assert server.asked == ([URL] if root is None else [])


def test_mirror_may_be_a_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored = tmp_path / "mirror" / URL.lstrip("/")
    mirrored.parent.mkdir(parents=True)
    mirrored.write_bytes(CONTENT)
    monkeypatch.setenv("JAXFT_DOWNLOAD_ROOT", (tmp_path / "mirror").as_uri())
    fetch(remote(), tmp_path / "train.jsonl")
    assert (tmp_path / "train.jsonl").read_bytes() == CONTENT
    assert server.asked == []
    mirrored.unlink()
    with pytest.raises(InputError, match=r"unreachable \(No such file"):
        fetch(remote(), tmp_path / "again.jsonl")


def test_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    server.files[URL] = CONTENT
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        fetch(remote(), tmp_path / "file" / "train.jsonl")


# ---------------------------------------------------------------- find


def put(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_text(f"{directory}/{name}")
    return directory


def serve_acl(server: Server) -> dict[str, RemoteFile]:
    """A catalogue entry like acl's with small files that the server has."""
    files = {}
    for split, file in ACL.items():
        content = f'{{"text": "{split}"}}'.encode()
        server.files[f"/{file.repo}/{file.commit}/{file.path}"] = content
        files[split] = replace(file, sha256=hashlib.sha256(content).hexdigest())
    return files


def test_auto_takes_dir_then_environment_then_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = serve_acl(server)
    given, environment = tmp_path / "given", tmp_path / "environment"
    for directory in (given, environment):
        put(directory / "acl", "train.jsonl", "test.jsonl")
    monkeypatch.setenv("JAXFT_DATA", str(environment))

    found = find_files("acl", files, data_dir=str(given), source="auto")
    assert found.files == {s: given / "acl" / f"{s}.jsonl" for s in ("train", "test")}
    assert found.source == "local"
    assert "differs from the published files: train.jsonl, test.jsonl" in found.origin

    found = find_files("acl", files, data_dir=None, source="auto")
    assert found.files["train"] == environment / "acl" / "train.jsonl"
    assert server.asked == []

    monkeypatch.setenv("JAXFT_DATA", str(tmp_path / "elsewhere"))
    found = find_files("acl", files, data_dir=None, source="auto")
    assert found.source == "download"
    assert found.origin == "downloaded from allenai/scibert@06793f7"
    assert found.files["dev"] == tmp_path / "cache" / "data" / "acl" / "dev.jsonl"
    assert len(server.asked) == 3

    # Again, with the network gone: from the cache.
    server.files.clear()
    assert find_files("acl", files, data_dir=None, source="auto") == found
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("path", "ending", "name"),
    [
        ("data/a.v2/train.v3.csv", "", "train.csv"),
        ("data/train.v3.csv.gz", "", "train.csv.gz"),
        ("data/train.txt", "jsonl", "train.jsonl"),
    ],
)
def test_a_download_keeps_the_ending_that_says_its_format(
    server: Server, tmp_path: Path, path: str, ending: str, name: str
) -> None:
    server.files[f"/org/repo/c0ffee1234/{path}"] = CONTENT
    file = replace(remote(path=path), ending=ending)
    found = find_files("t", {"train": file}, data_dir=None, source="download")
    assert found.files == {"train": tmp_path / "cache" / "data" / "t" / name}


def test_source_download_passes_over_directories(server: Server, tmp_path: Path) -> None:
    files = serve_acl(server)
    put(tmp_path / "acl", "train.jsonl", "test.jsonl")
    assert find_files("acl", files, data_dir=str(tmp_path), source="download").source == "download"


def test_nothing_found_names_the_ways_out(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXFT_DATA", str(tmp_path / "empty"))
    with pytest.raises(InputError) as caught:
        find_files("acl", ACL, data_dir=None, source="auto")
    message = str(caught.value)
    for part in (
        "task acl",
        str(tmp_path / "empty" / "acl"),
        "HTTP 404",
        "--config.data.dir=DIR",
        "$JAXFT_DATA",
        "--config.data.source=sample",
    ):
        assert part in message
    assert message.isprintable()
    asked = len(server.asked)
    with pytest.raises(InputError, match="looked in"):
        find_files("acl", ACL, data_dir=None, source="local")
    assert len(server.asked) == asked


@pytest.mark.parametrize("source", ["auto", "local"])
def test_given_directory_must_hold_the_task(server: Server, tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError, match=r"data\.dir: no folder .*there is no folder"):
        find_files("acl", ACL, data_dir=str(tmp_path / "no"), source=source)
    put(tmp_path / "restaurant", "train.json")
    with pytest.raises(InputError, match=r"holds .*restaurant"):
        find_files("acl", ACL, data_dir=str(tmp_path), source=source)
    put(tmp_path / "acl", "train.jsonl", "tset.jsonl")
    with pytest.raises(InputError, match=r"no test file .*tset\.jsonl"):
        find_files("acl", ACL, data_dir=str(tmp_path), source=source)
    put(tmp_path / "acl", "test.jsonl", "train.csv")
    with pytest.raises(InputError, match=r"both train\.jsonl and train\.csv"):
        find_files("acl", ACL, data_dir=str(tmp_path), source=source)
    assert server.asked == []


def test_unknown_source() -> None:
    with pytest.raises(InputError, match=r"data\.source: .*did you mean 'sample'"):
        find_files("acl", ACL, data_dir=None, source="smaple")


def test_semeval_file_names(tmp_path: Path) -> None:
    put(tmp_path / "laptop", "Laptop_Train_v2.xml", "Laptops_Test_Gold.xml")
    found = find_task("laptop", data_dir=str(tmp_path), source="auto")
    assert found.files["test"].name == "Laptops_Test_Gold.xml"


@needs_real
@pytest.mark.parametrize("task", list(CATALOGUE))
def test_published_files_are_recognised(task: str) -> None:
    found = find_task(task, data_dir=str(REAL), source="local")
    assert found.origin == f"local files in {REAL / task} (the published files)"


@needs_real
@pytest.mark.parametrize("task", list(CATALOGUE))
def test_catalogue_agrees_with_the_sources_file(task: str) -> None:
    for line in (REAL / "SOURCES").read_text().splitlines():
        digest, name, place = line.split()
        split = Path(name).stem
        if name.startswith(f"{task}/") and split in sources.SPLITS:
            file = CATALOGUE[task].files[split]
            assert f"{file.repo}@{file.commit}:{file.path}" == place
            assert file.sha256 == digest


@pytest.mark.parametrize("task", list(CATALOGUE))
def test_samples_lie_in_the_package(task: str) -> None:
    found = find_task(task, data_dir=None, source="sample")
    assert found.source == "sample"
    assert "written for jaxft" in found.origin


# ---------------------------------------------------------------- the command


def test_command_prints_one_word(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["acl_fs"]) == 0  # the server has nothing
    out, err = capsys.readouterr()
    assert out == "sample\n"
    assert "404" in err

    put(tmp_path / "acl", "train.jsonl", "test.jsonl")
    assert main(["acl_fs", "--dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "local\n"

    monkeypatch.setenv("JAXFT_DATA", str(tmp_path))
    assert main(["acl"]) == 0
    assert capsys.readouterr().out == "local\n"
    assert main(["acl,laptop"]) == 0
    assert capsys.readouterr().out == "sample\n"
    assert all("SemEval14-laptop" in path or "scibert" in path for path in server.asked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["acl_spu"], "did you mean 'acl_sup'"),
        (["acl", "--dir", "/nowhere"], "no folder"),
        (["custom"], "task"),
    ],
)
def test_command_refuses_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_command_runs_as_a_module(tmp_path: Path) -> None:
    put(tmp_path / "acl", "train.jsonl", "test.jsonl")
    command = [sys.executable, "-m", "jaxft.data.tasks", "acl_sup", "--dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "local\n"
