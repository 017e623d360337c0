"""What the commands share: JSON that every reader reads."""

import json
import math
import shutil
from pathlib import Path

import pytest
from transformers import BertTokenizerFast, RobertaTokenizerFast
from transformers import tokenization_utils_base as tokenization

from jaxft.config import config_module
from jaxft.data.examples import Dataset, Example
from jaxft.errors import InputError
from jaxft.io import write_json, write_jsonl
from jaxft.run import build


def test_figures_that_are_none_are_null_in_json(tmp_path: Path) -> None:
    content = {"loss": math.nan, "rows": [1.5, math.inf, {"x": -math.inf}], "name": "NaN"}
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {"loss": None, "rows": [1.5, None, {"x": None}], "name": "NaN"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json"]


def test_lines_of_a_run_that_diverged_are_json(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", [{"p": math.nan}, {"p": 0.5}])
    assert (tmp_path / "x.jsonl").read_text() == '{"p": null}\n{"p": 0.5}\n'


@pytest.mark.parametrize(
    ("given", "targets"),
    [
        (("query", "value"), ("query", "value")),
        (("query,key",), ("query", "key")),
        ((r".*/(query|value){1,2}",), (r".*/(query|value){1,2}",)),
        ((r".*/(query|value){1,2},key", "dense"), (r".*/(query|value){1,2}", "key", "dense")),
        ((r".*/[a,b]\(,\),x",), (r".*/[a,b]\(", r"\)", "x")),
    ],
)
def test_targets_are_split_at_commas_that_are_no_part_of_a_regex(
    given: tuple[str, ...], targets: tuple[str, ...]
) -> None:
    config = config_module().get_config()
    config.method.targets = given
    assert build.method_options(config)["targets"] == targets


def test_the_same_rows_cut_elsewhere_are_other_data() -> None:
    rows = tuple(Example(str(i), f"text {i}", None, "ab"[i % 2], "t", "f:1") for i in range(9))

    def cut(train: int, dev: int) -> Dataset:
        parts = rows[:train], rows[train : train + dev], rows[train + dev :]
        return Dataset("t", ("a", "b"), *parts, "made by hand", "local", (), {"t": ("a", "b")})

    one, other = build.split_fingerprints(cut(4, 2)), build.split_fingerprints(cut(4, 3))
    assert one["train"] == other["train"]
    assert one["dev"] != other["dev"]
    assert one["test"] != other["test"]
    assert build.split_fingerprints(cut(4, 2)) == one


def test_every_file_that_a_tokenizer_reads_is_part_of_the_models_digest(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    known = (tokenization.ADDED_TOKENS_FILE, tokenization.SPECIAL_TOKENS_MAP_FILE)
    names = {*known, tokenization.TOKENIZER_CONFIG_FILE}
    for tokenizer in (BertTokenizerFast, RobertaTokenizerFast):
        names.update(tokenizer.vocab_files_names.values())
    model = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    digests = [build.model_digests(model)["tokenizer"]]
    for name in sorted(names):
        (model / name).write_text("{}")
        digests.append(build.model_digests(model)["tokenizer"])
    assert len(set(digests)) == 1 + len(names)


def test_a_config_alone_is_planned_as_its_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_checkpoint / "config.json", tmp_path / "mine.json")
    config = config_module().get_config()
    found = []
    for name in (tiny_checkpoint, tmp_path / "mine.json"):
        config.model.name = str(name)
        found.append(build.read_model(config, ("a", "b")))
    whole, alone = found
    assert alone[0] == whole[0]
    assert alone[2] == whole[2] == 2
    assert alone[1] == []


def test_a_config_of_another_name_is_named_in_the_message(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"model_type": "bert", "hidden_size": 0}')
    config = config_module().get_config()
    config.model.name = str(tmp_path / "mine.json")
    with pytest.raises(InputError, match=r"mine\.json: hidden_size 0"):
        build.read_model(config, ("a", "b"))
