"""What the commands share: JSON that every reader reads, directories that keep to one run."""

import json
import math
from pathlib import Path

import pytest

from jaxft import wiring
from jaxft.errors import InputError

CONFIG = {"task": "acl_sup", "optim": {"clip": 1.0}}
ENV = {"data_sha256": "a", "weights_sha256": "b"}


def test_figures_that_are_none_are_null_in_json(tmp_path: Path) -> None:
    content = {"loss": math.nan, "rows": [1.5, math.inf, {"x": -math.inf}], "name": "NaN"}
    wiring.write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {"loss": None, "rows": [1.5, None, {"x": None}], "name": "NaN"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json"]


def test_a_directory_can_be_claimed_again_by_the_same_run_only(tmp_path: Path) -> None:
    run = tmp_path / "run"
    wiring.claim_workdir(run, CONFIG, ENV)
    wiring.claim_workdir(run, CONFIG, ENV)
    with pytest.raises(InputError, match=r"optim\.clip = 1\.0, this one has 2\.0"):
        wiring.claim_workdir(run, {**CONFIG, "optim": {"clip": 2.0}}, ENV)
    with pytest.raises(InputError, match="the data changed"):
        wiring.claim_workdir(run, CONFIG, {**ENV, "data_sha256": "c"})
    with pytest.raises(InputError, match="the weights changed"):
        wiring.claim_workdir(run, CONFIG, {**ENV, "weights_sha256": "c"})


def test_what_a_run_trains_beside_makes_it_no_other_run(tmp_path: Path) -> None:
    # An older jaxft wrote none of these fields.
    wiring.claim_workdir(tmp_path, CONFIG, ENV)
    beside = {"optim": {"clip": 1.0, "learning_rates": []}, "seeds": [], "together": "on"}
    wiring.claim_workdir(tmp_path, {**CONFIG, **beside}, ENV)
    assert wiring.identity({**CONFIG, **beside}) == CONFIG


def test_a_claim_that_was_killed_half_way_can_be_made_again(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text("{}")
    (tmp_path / "config.json.1a2b.tmp").write_text('{"task"')
    wiring.claim_workdir(tmp_path, CONFIG, ENV)
    assert wiring.read_json(tmp_path / "config.json") == CONFIG


def test_a_copy_of_a_config_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "config.json.bak").write_text("{}")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        wiring.claim_workdir(tmp_path, CONFIG, ENV)


def test_a_directory_of_something_else_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="not empty and holds no run"):
        wiring.claim_workdir(tmp_path, CONFIG, ENV)
    with pytest.raises(InputError, match="is a file"):
        wiring.claim_workdir(tmp_path / "thesis.tex", CONFIG, ENV)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
