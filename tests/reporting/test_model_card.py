"""The model card: valid YAML and Markdown, every section, and limits that fit the run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from jaxft.reporting.markup import escape_markdown
from jaxft.reporting.model_card import model_card
from jaxft.training.metrics import from_confusion

LABELS = ["Background", "a|b <i>"]
COMMAND = "python -m jaxft.train --config configs/acl_lora.py --config.seed=3"


def scores(confusion: list[list[int]]) -> dict[str, Any]:
    matrix = np.array(confusion)
    return {
        "examples": int(matrix.sum()),
        **from_confusion(matrix, LABELS),
        "loss": 0.5,
        "majority_accuracy": float(matrix[0].sum() / matrix.sum()),
    }


def results(**changes: Any) -> dict[str, Any]:
    dev = scores([[5, 1], [2, 4]])
    split = {"examples": 12, "classes": dict(zip(LABELS, (7, 5), strict=True)), "truncated": 2}
    history = [{"epoch": e, "step": 9 * e, "train_loss": 1 / e, "dev": dev} for e in (1, 2, 3)]
    complete = {
        "task": "acl_sup",
        "model": "bert-base-uncased",
        "method": "lora",
        "method_options": {"name": "lora", "rank": 8},
        "seed": 3,
        "labels": LABELS,
        "select": "best",
        "best_epoch": 2,
        "selected_epoch": 2,
        "test": scores([[60, 10], [20, 40]]),
        "test_unseen": scores([[30, 10], [10, 30]]),
        "dev": dev,
        "last": {"test": scores([[50, 20], [20, 40]]), "dev": dev, "epoch": 3},
        "parameters": {"frozen": 900, "adapter": 90, "head": 10, "trained": 100, "total": 1000},
        "memory": {
            "frozen": {"params_bytes": 3600, "grad_bytes": 0, "opt_state_bytes": 0},
            "compiled": {"temporaries": 2**20, "peak": 3 * 2**20},
            "measured_peak": 5 * 2**30,
            "measured_by": "device allocator",
            "device": "TPU v5e",
        },
        "timing": {"train_s": 125.0, "compile_s": 4.2, "examples_per_s": 9.0}
        | {"padding_fraction": 0.125, "compiled_shapes": 3},
        "data": {
            "source": "local",
            "origin": "local files in data/acl",
            "notes": ["a note"],
            "max_length": 128,
            "splits": {"train": split, "dev": split, "test": split},
            "train_duplicates": 4,
            "train_conflicts": 1,
            "test_in_train": 0,
            "test_in_train_other_label": 0,
        },
        "history": history,
        "versions": {"jax": "0.6.0"},
    }
    return complete | changes


def card(**changes: Any) -> str:
    return model_card(results(**changes), command=COMMAND)


def front_matter(text: str) -> dict[str, Any]:
    _, head, _ = text.split("---\n", 2)
    return yaml.safe_load(head)


def section(text: str, name: str) -> str:
    return text.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]


def test_front_matter():
    head = front_matter(card())
    assert head["library_name"] == "jaxft"
    assert head["base_model"] == "bert-base-uncased"
    assert {"jaxft", "lora", "acl_sup"} <= set(head["tags"])
    (entry,) = head["model-index"]
    (result,) = entry["results"]
    assert result["dataset"]["name"] == "ACL-ARC"
    assert [m["value"] for m in result["metrics"]] == [0.7692, 0.7636]


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("org/name", "org/name"),
        ("minilm", "sentence-transformers/all-MiniLM-L6-v2"),
        ("./mine", None),
        ("/a/b", None),
        ("a/b/c", None),
        ('od"d: #x', 'od"d: #x'),
    ],
)
def test_base_model_is_a_hub_id(model: str, base: str | None):
    assert front_matter(card(model=model)).get("base_model") == base


def test_sections_hold_what_they_promise():
    text = card()
    assert "Scores of epoch 2 of 3, the best on dev by macro-F1." in section(text, "Result")
    for row in (
        "| test | 0.7692 | 0.7636 | 0.5000 | 130 |",
        "| test unseen in train | 0.7500 | 0.7500 | 0.5000 | 80 |",
        "| majority (Background) | 0.5385 |",
        "| for comparison: test, epoch 3 | 0.6923 |",
        "| Background | 0.7500 | 0.8571 | 0.8000 | 70 |",
        "(plots/learning_curves.png)",
        "(plots/confusion_test.png)",
    ):
        assert row in section(text, "Result")
    assert "local files in data/acl" in section(text, "Data")
    assert "train texts cut off at 128 tokens: 2" in section(text, "Data")
    assert "| `method.rank` | `8` |" in section(text, "Training")
    assert "| total | 1,000 | 100.00% |" in section(text, "What is frozen, what is trained")
    assert "python -m jaxft.predict --run DIR --input FILE.jsonl" in section(text, "Use")
    assert COMMAND in section(text, "Repeat")
    assert "| jax | 0.6.0 |" in section(text, "Versions")


def test_settings_come_from_the_config():
    config = {"optim": {"learning_rate": 1e-3, "clip": 0}, "seed": 3, "data": {"dir": ""}}
    training = section(card(config=config), "Training")
    assert "| `optim.learning_rate` | `0.001` |" in training
    assert "| `optim.clip` | `0` |" in training
    assert "data.dir" not in training
    assert "`seed`" not in training


def test_every_table_has_rows_of_one_width():
    """A label with a bar in it must not open another column."""
    width = None
    for line in card().splitlines():
        if not line.startswith("|"):
            width = None
            continue
        bars = line.count("|") - line.count("\\|")
        assert width in (None, bars), line
        width = bars
    assert "<i>" not in card().split("---\n", 2)[2]


def test_limits_of_a_plain_run():
    limits = section(card(), "Limits")
    assert "One seed (3) only: no spread." in limits
    assert "COLLAPSED" not in limits
    assert "sample" not in limits
    assert "occur in train" not in limits
    assert "majority" not in limits


def test_limits_of_a_doubtful_run():
    sample = results()["data"] | {"source": "sample", "test_in_train": 52}
    text = card(test=scores([[70, 0], [60, 0]]), data=sample)
    limits = section(text, "Limits")
    assert "COLLAPSED: predicts 'Background' throughout" in limits
    assert "bundled sample made for trying jaxft out, not ACL-ARC" in limits
    assert "52 of 130 test texts also occur in train; without them its macro-F1 is" in limits
    # Who reads the head only is told too.
    introduction = text.split("\n## ", 1)[0]
    assert "COLLAPSED" in introduction
    assert "not a result about ACL-ARC" in introduction
    assert "bundled sample" in front_matter(text)["model-index"][0]["results"][0]["dataset"]["name"]


def test_no_better_than_the_majority():
    assert "no higher than that of predicting" in section(
        card(test=scores([[60, 10], [55, 5]])), "Limits"
    )


def test_merged_tasks_and_empty_unseen():
    empty = {"examples": 0, "accuracy": None, "macro_f1": None, "loss": None}
    tasks = {"acl": scores([[9, 1], [1, 9]])}
    data = results()["data"] | {"test_in_train": 130}
    text = card(task="acl_sup,agnews_fs", tasks=tasks, test_unseen=empty, data=data)
    assert "for ACL-ARC and AG News, 2 classes" in text
    assert "| acl | 0.9000 | 0.9000 | 0.5000 | 20 |" in section(text, "Result")
    dashes = " | ".join(["\N{EN DASH}"] * 3)
    assert f"| test unseen in train | {dashes} | 0 |" in section(text, "Result")
    assert "no test text is left without them" in section(text, "Limits")
    assert "None" not in text


def test_command_with_backticks_stays_inside_its_block():
    text = model_card(results(), command="echo ```x```")
    assert "````sh\necho ```x```\n````" in text


@pytest.mark.parametrize(
    "text", ["`<script>alert(1)</script>", "`a` <b>", "``<i>``", "a ` b", "<u>"]
)
def test_a_backtick_lets_no_tag_through(text: str):
    found = escape_markdown(text)
    assert "<" not in found
    assert "`" not in found.replace("\\`", "")


def test_code_stays_code():
    assert escape_markdown("`a < b`") == "`a < b`"


def test_a_model_that_is_a_directory_here_is_no_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert front_matter(card(model="org/mine"))["base_model"] == "org/mine"
    (tmp_path / "checkpoints" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in front_matter(card(model="checkpoints/mine"))
    assert "base_model" not in front_matter(card(model="checkpoints"))
