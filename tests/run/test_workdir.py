"""A run's directory: which run may write it, by which process, and where it was started."""

import json
import multiprocessing
from pathlib import Path

import pytest

from jaxft.config import identity
from jaxft.errors import InputError
from jaxft.io import read_json, write_json
from jaxft.run import workdir as rundir

CONFIG = {"task": "acl_sup", "optim": {"clip": 1.0}}
ENV = {
    "data_sha256": "a",
    "splits_sha256": {"train": "a", "dev": "b", "test": "c"},
    "weights_sha256": "b",
    "model_sha256": {"weights": "b", "config": "c", "tokenizer": "d"},
    "command": "python -m jaxft.train",
    "backend": "cpu",
    "devices": ["cpu"],
    "python": "3.11.7",
    "versions": {"jax": "0.10.2", "jaxft": "0.1.0"},
}


def claim(workdir: Path, config: dict, env: dict) -> None:
    with rundir.claimed(workdir, config, env):
        pass


def test_a_directory_can_be_claimed_again_by_the_same_run_only(tmp_path: Path) -> None:
    run = tmp_path / "run"
    claim(run, CONFIG, ENV)
    claim(run, CONFIG, ENV)
    with pytest.raises(InputError, match=r"optim\.clip = 1\.0, this one has 2\.0"):
        claim(run, {**CONFIG, "optim": {"clip": 2.0}}, ENV)
    with pytest.raises(InputError, match="the data changed"):
        claim(run, CONFIG, {**ENV, "data_sha256": "c"})
    with pytest.raises(InputError, match="the weights changed"):
        claim(run, CONFIG, {**ENV, "weights_sha256": "c"})
    with pytest.raises(InputError, match=r"the data \(dev\) changed"):
        claim(run, CONFIG, {**ENV, "splits_sha256": {**ENV["splits_sha256"], "dev": "d"}})
    with pytest.raises(InputError, match=r"the model \(config, tokenizer\) changed"):
        claim(
            run, CONFIG, {**ENV, "model_sha256": {"weights": "b", "config": "d", "tokenizer": "e"}}
        )


def test_what_a_run_trains_beside_makes_it_no_other_run(tmp_path: Path) -> None:
    # An older jaxft wrote none of these fields.
    claim(tmp_path, CONFIG, ENV)
    beside = {"optim": {"clip": 1.0, "learning_rates": []}, "seeds": [], "together": "on"}
    claim(tmp_path, {**CONFIG, **beside}, ENV)
    assert identity({**CONFIG, **beside}) == CONFIG


def test_a_claim_that_was_killed_half_way_can_be_made_again(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text("{}")
    (tmp_path / "config.json.1a2b.tmp").write_text('{"task"')
    claim(tmp_path, CONFIG, ENV)
    assert read_json(tmp_path / "config.json") == CONFIG


def test_a_copy_of_a_config_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "config.json.bak").write_text("{}")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        claim(tmp_path, CONFIG, ENV)


def test_a_directory_of_something_else_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="not empty and holds no run"):
        claim(tmp_path, CONFIG, ENV)
    with pytest.raises(InputError, match="is a file"):
        claim(tmp_path / "thesis.tex", CONFIG, ENV)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_of_an_older_jaxft_is_told_by_the_digests_that_it_has(tmp_path: Path) -> None:
    older = {name: ENV[name] for name in ("data_sha256", "weights_sha256")}
    write_json(tmp_path / "env.json", older)
    write_json(tmp_path / "config.json", CONFIG)
    claim(tmp_path, CONFIG, ENV)
    with pytest.raises(InputError, match="the data changed"):
        claim(tmp_path, CONFIG, {**ENV, "data_sha256": "c"})


def try_to_claim(workdir: Path, answers: "multiprocessing.Queue[str]") -> None:
    try:
        claim(workdir, CONFIG, {**ENV, "command": "another"})
        answers.put("claimed")
    except InputError as err:
        answers.put(str(err))


def claimed_elsewhere(workdir: Path) -> str:
    """What another process comes to that claims the directory."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=try_to_claim, args=(workdir, answers))
    process.start()
    answer = answers.get(timeout=120)
    process.join()
    return answer


def test_a_process_that_is_refused_writes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with rundir.claimed(run, CONFIG, ENV):
        assert claimed_elsewhere(run) == f"{run}: another process is writing this run"
        assert read_json(run / "env.json") == ENV
    assert claimed_elsewhere(run) == "claimed"
    assert read_json(run / "env.json") == ENV  # where it began, not where it went on


def test_each_start_of_a_run_is_a_line_of_its_own(tmp_path: Path) -> None:
    assert rundir.launches(tmp_path) == []
    rundir.add_launch(tmp_path, ENV, step=0)
    later = {**ENV, "devices": ["cpu"] * 4, "versions": {"jax": "0.10.3", "jaxft": "0.1.0"}}
    rundir.add_launch(tmp_path, later, step=40)
    with (tmp_path / "launches.jsonl").open("a") as file:
        file.write('{"time": "2026-')  # a kill cut it short
    first, second = rundir.launches(tmp_path)
    assert (first["step"], second["step"]) == (0, 40)
    assert (len(first["devices"]), len(second["devices"])) == (1, 4)
    assert rundir.other_versions(first, ENV) == ""
    assert rundir.other_versions(first, later) == "jax 0.10.2 -> 0.10.3"
    assert json.dumps(first)
