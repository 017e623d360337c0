"""The picture files: all that the report names, of figures that add up."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from test_aggregate import group_of, run_of
from test_tables import EMPTY

from jaxft.reporting.aggregate import make_groups
from jaxft.reporting.bars import segments
from jaxft.reporting.costs import mesh_sizes
from jaxft.reporting.pictures import confusion, plan_rows, slug, write_pictures


def test_all_named_files_are_there_and_no_others(tmp_path: Path):
    runs = [run_of(seed, method) for seed in (0, 1) for method in ("full", "lora")]
    groups = make_groups([*runs, run_of(task="agnews_sup")])[0]
    pictures = write_pictures(groups, tmp_path)
    named = [file for groups in pictures.values() for _, files in groups for file, _ in files]
    found = {f"plots/{path.name}" for path in (tmp_path / "plots").iterdir()}
    assert sorted(named) == sorted(found)
    assert len(named) == len(set(named)) == 2 * (4 + 1) + 3
    for path in (tmp_path / "plots").glob("*.png"):
        pixels = matplotlib.image.imread(path)[..., :3]
        assert len(np.unique(pixels.sum(-1).round(2))) > 5


def test_confusion_is_summed_over_seeds():
    group = group_of(0, 1, 2)
    counts = confusion(group)
    assert counts is not None
    assert counts.sum() == 3 * 130
    assert (
        counts.tolist() == np.sum([r.results["test"]["confusion"] for r in group.runs], 0).tolist()
    )
    assert confusion(group_of(0, test=EMPTY)) is None


def test_bars_add_up_to_the_peak_of_a_step():
    memory = run_of().results["memory"]
    groups = [group_of(0, 1), group_of(0, method="full", memory={**memory, "compiled": None})]
    (row,) = plan_rows(groups)
    assert sum(segments(row).values()) == memory["compiled"]["peak"]
    assert segments(row)["frozen"] == 3600
    assert segments(row)["optimizer"] == 800


def test_bars_are_of_one_run_whatever_trained_together():
    alone, together, planned = group_of(0, 1), group_of(0, 1), group_of(0, 1)
    (row,) = plan_rows([alone])
    for run in (*together.runs, *planned.runs):
        run.results["timing"]["seeds_together"] = 2
        run.results["memory"] = {**run.results["memory"], "compiled": {"peak": 10**9}}
    for run in planned.runs:
        run.results["memory"]["plan"] = {**row, "model": "a run's own name for it"}
    # What several runs took says nothing about one.
    assert plan_rows([together]) == []
    assert plan_rows([planned]) == [row]


@pytest.mark.parametrize(
    ("mesh", "sizes"),
    [
        ({"data": -1}, {"data": 8}),
        ({"data": -1, "fsdp": 4, "tensor": 1}, {"data": 2, "fsdp": 4, "tensor": 1}),
        ({"data": 1, "fsdp": 8}, {"data": 1, "fsdp": 8}),
    ],
)
def test_mesh_sizes(mesh: dict[str, int], sizes: dict[str, int]):
    assert mesh_sizes(mesh, 8) == sizes


def test_slug():
    assert (
        slug("acl_sup,agnews_sup-org/some model (lr 1e-05)")
        == "acl_sup-agnews_sup-org-some-model-lr-1e-05"
    )
