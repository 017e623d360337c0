"""The picture files: all that the report names, of figures that add up."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from test_gather import cell_of, run_of
from test_tables import EMPTY

from jaxft.report.bars import segments
from jaxft.report.gather import make_cells
from jaxft.report.pictures import confusion, mesh_sizes, plan_rows, slug, write_pictures


def test_all_named_files_are_there_and_no_others(tmp_path: Path):
    runs = [run_of(seed, method) for seed in (0, 1) for method in ("full", "lora")]
    cells = make_cells([*runs, run_of(task="agnews_sup")])[0]
    pictures = write_pictures(cells, tmp_path)
    named = [file for groups in pictures.values() for _, files in groups for file, _ in files]
    found = {f"plots/{path.name}" for path in (tmp_path / "plots").iterdir()}
    assert sorted(named) == sorted(found)
    assert len(named) == len(set(named)) == 2 * (4 + 1) + 3
    for path in (tmp_path / "plots").glob("*.png"):
        pixels = matplotlib.image.imread(path)[..., :3]
        assert len(np.unique(pixels.sum(-1).round(2))) > 5


def test_confusion_is_summed_over_seeds():
    cell = cell_of(0, 1, 2)
    counts = confusion(cell)
    assert counts is not None
    assert counts.sum() == 3 * 130
    assert (
        counts.tolist() == np.sum([r.results["test"]["confusion"] for r in cell.runs], 0).tolist()
    )
    assert confusion(cell_of(0, test=EMPTY)) is None


def test_bars_add_up_to_the_peak_of_a_step():
    memory = run_of().results["memory"]
    cells = [cell_of(0, 1), cell_of(0, method="full", memory={**memory, "compiled": None})]
    (row,) = plan_rows(cells)
    assert sum(segments(row).values()) == memory["compiled"]["peak"]
    assert segments(row)["frozen"] == 3600
    assert segments(row)["optimizer"] == 800


def test_what_seeds_trained_together_have_for_themselves_is_there_for_each():
    alone, together = cell_of(0, 1), cell_of(0, 1)
    for run in together.runs:
        run.results["timing"]["seeds_together"] = 2
    one, both = (segments(row) for row in plan_rows([alone, together]))
    assert both["frozen"] == one["frozen"]
    assert (both["trained"], both["optimizer"]) == (2 * one["trained"], 2 * one["optimizer"])


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
