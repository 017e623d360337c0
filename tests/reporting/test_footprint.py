"""The tables of plans: each row once, figures that add up, savings that can be recomputed."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.planning.collectives import KINDS as COLLECTIVES
from jaxft.reporting import advice
from jaxft.reporting.footprint import fit_table, markdown, plan_table
from jaxft.reporting.formats import NONE, amount, share
from jaxft.reporting.plans import does_not_fit, groups, saved_share

MIB, GIB = 2**20, 2**30
LABELS = ("full", "head", "bitfit", "lora", "lora, top 2 layers", "houlsby", "pfeiffer")
KINDS = ("frozen", "trained", "optimizer", "gradients", "activations", "workspace", "other")
SIZES = tuple(MIB * n for n in (400, 2, 4, 1, 800, 90, 3))


def make_row(
    label: str = "lora",
    remat: str = "none",
    *,
    sizes: tuple[int, ...] = SIZES,
    target: str = "h100:8",
    **changes: Any,
) -> dict[str, Any]:
    """A row whose breakdown is `sizes`, in the order of KINDS; TPUs leave temporaries undivided."""
    breakdown = dict(zip(KINDS, sizes, strict=True))
    if target.startswith("v5e"):
        kinds = ("gradients", "activations", "workspace")
        breakdown["temporaries"] = sum(breakdown.pop(kind) for kind in kinds)
    trained = {"params_bytes": sizes[1], "grad_bytes": sizes[1], "opt_state_bytes": sizes[2]}
    frozen = {"params_bytes": sizes[0], "grad_bytes": 0, "opt_state_bytes": 0}
    parts = {"frozen": sizes[0] // 4, "backbone": 0, "adapter": sizes[1] // 4, "head": 0}
    parts |= {"trained": sizes[1] // 4, "total": (sizes[0] + sizes[1]) // 4}
    row = {
        "model": "roberta-base",
        "method": label.split(",")[0],
        "label": label,
        "remat": remat,
        "dtype": "float32",
        "target": target,
        "devices": 8,
        "mesh": {"data": 8, "fsdp": 1, "tensor": 1},
        "seeds": 1,
        "moved": dict.fromkeys(COLLECTIVES, 0) | {"all-reduce": 5 * MIB},
        "memory_bytes": 80 * GIB,
        "batch_size": 32,
        "length": 128,
        "parameters": parts,
        "partitions": {"frozen": frozen, "adapter": trained},
        "compiled": {"arguments": 0, "outputs": 0, "temporaries": 0, "aliased": 0}
        | {"peak": sum(sizes)},
        "breakdown": breakdown,
        "flops": 2.9e11,
        "compile_s": 12.3,
        "cached": False,
        "step_s": None,
    }
    return row | changes


def make_fit(label: str, largest: int, **changes: Any) -> dict[str, Any]:
    fit = {"limit": 2 * GIB, "largest_batch": largest, "compiled": 5}
    return make_row(label, batch_size=largest, fit=fit, **changes)


@st.composite
def plans(draw: st.DrawFn, min_size: int = 1) -> list[dict[str, Any]]:
    """Rows in any order, of GPUs and TPUs, with full in some groups only."""
    keys = st.tuples(
        st.sampled_from(LABELS),
        st.sampled_from(["none", "dots", "layer"]),
        st.sampled_from(["h100:8", "v5e:2x4"]),
        st.sampled_from([8, 1024]),
        st.sampled_from([1, 5]),
    )
    rows = []
    largest = draw(st.sampled_from([2**12, 2**30, 2**37]))
    for label, remat, target, batch, seeds in draw(
        st.lists(keys, min_size=min_size, max_size=9, unique=True)
    ):
        sizes = (*(draw(st.integers(0, largest)) for _ in KINDS[:-1]), draw(st.integers(0, MIB)))
        changes: dict[str, Any] = {"batch_size": batch, "target": target, "seeds": seeds}
        changes["memory_bytes"] = draw(st.sampled_from([None, 16 * GIB]))
        rows.append(make_row(label, remat, sizes=sizes, **changes))
    return rows


def read_table(text: str) -> list[dict[str, str]]:
    """The lines of all tables in a text, by head; a mark has none."""
    found = []
    for block in text.split("\n\n"):
        _, *lines = block.split("\n")
        if lines and lines[0].startswith("method"):
            heads, *rows = (re.split(" {2,}", line) for line in lines)
            found += [dict(zip([*heads, "mark"], row, strict=False)) for row in rows]
    return found


def number(cell: str) -> float:
    """A figure in its table's unit; a dash is none, and so, nearly, is `<0.1`."""
    return 0.0 if cell == NONE or cell.startswith("<") else float(cell.replace(",", ""))


few = settings(max_examples=40, deadline=None)


# ---------------------------------------------------------------- plans


@few
@given(plans())
def test_every_row_once_in_its_group(rows: list[dict[str, Any]]):
    lines = read_table(plan_table(rows))
    ordered = [row for group in groups(rows) for row in group]
    assert [line["method"] for line in lines] == [row["label"] for row in ordered]
    if len({row["remat"] for row in rows}) > 1:
        assert [line["remat"] for line in lines] == [row["remat"] for row in ordered]
    else:
        assert all("remat" not in line for line in lines)
    if any(row["seeds"] > 1 for row in rows):
        assert [line["seeds"] for line in lines] == [str(row["seeds"]) for row in ordered]
    else:
        assert all("seeds" not in line for line in lines)
    assert [line.get("mark") == "does not fit" for line in lines] == [
        row["memory_bytes"] is not None and row["compiled"]["peak"] > row["memory_bytes"]
        for row in ordered
    ]


@few
@given(plans())
def test_figures_add_up_to_the_peak(rows: list[dict[str, Any]]):
    parts = ("params", "optimizer", "live grads", "activations", "workspace", "temporaries")
    text = plan_table(rows)
    unit, digit = (GIB, 0.001) if "GiB a device" in text else (MIB, 0.1)
    ordered = [row for group in groups(rows) for row in group]
    for row, line in zip(ordered, read_table(text), strict=True):
        total = sum(number(line[part]) for part in parts if part in line)
        assert total == pytest.approx(number(line["peak"]), abs=len(parts) * digit)
        assert number(line["peak"]) == pytest.approx(row["compiled"]["peak"] / unit, abs=digit)


@few
@given(plans())
def test_saved_is_against_full_in_the_same_group(rows: list[dict[str, Any]]):
    ordered = [row for group in groups(rows) for row in group]
    for row, line in zip(ordered, read_table(plan_table(rows)), strict=True):
        fulls = {
            other["remat"]: other["compiled"]["peak"]
            for other in rows
            if other["label"] == "full"
            and all(other[key] == row[key] for key in ("target", "batch_size", "seeds"))
        }
        full = fulls.get("none", fulls.get(row["remat"]))
        expected = 1 - row["compiled"]["peak"] / full if full else None
        assert saved_share(row, rows) == (None if expected is None else pytest.approx(expected))
        assert line["saved"] == share(expected)


@few
@given(plans())
def test_columns_align(rows: list[dict[str, Any]]):
    for block in plan_table(rows).split("\n\n"):
        _, *lines = block.split("\n")
        if not lines or not lines[0].startswith("method"):
            continue
        # A mark stands behind the table.
        lines = [line.removesuffix("does not fit").rstrip() for line in lines]
        assert len({len(line) for line in lines}) == 1
        heads = list(re.finditer(r"\S+( \S+)*", lines[0]))
        for end in (head.end() for head in heads if head[0] not in ("method", "remat")):
            assert all(line[end - 1] != " " and line[end : end + 1] in ("", " ") for line in lines)


def test_undivided_temporaries_have_a_column_and_a_line_of_their_own():
    both = plan_table([make_row(target="h100:8"), make_row(target="v5e:2x4")])
    gpu, tpu = read_table(both)
    assert "temporaries" not in gpu
    assert tpu.keys().isdisjoint({"live grads", "activations", "workspace"})
    assert tpu["temporaries"] == amount(sum(SIZES[3:]), "MiB") == "894.0"
    assert "what the forward pass keeps" in both
    assert "what the forward pass keeps" not in plan_table([make_row(target="v5e:8")])


def test_title_and_cells():
    text = plan_table([make_row("full", sizes=tuple(2 * n for n in SIZES)), make_row()])
    title, _, *lines = text.split("\n\n")[0].split("\n")
    assert title == (
        "roberta-base, float32, h100:8 (8 devices of 80.0 GiB; data 8), "
        "batch 32 x 128 tokens; MiB a device"
    )
    assert " ".join(lines[1].split()) == (
        "lora 524,288 (0.50%) 402.0 2.0 4.0 1.0 800.0 93.0 1,300.0 50.0% 290 5.0 5.0"
    )


def test_columns_without_figures_are_left_out():
    def heads(*rows: dict[str, Any]) -> set[str]:
        return set().union(*read_table(plan_table(list(rows))))

    assert "s/step" not in heads(make_row())
    assert "GFLOP" not in heads(make_row(flops=None))
    assert {"s/step", "GFLOP"} <= heads(make_row(), make_row("head", step_s=0.5))
    lines = read_table(plan_table([make_row(), make_row("head", step_s=0.5)]))
    assert [line["s/step"] for line in lines] == [NONE, "0.5000"]
    assert "batch" not in heads(make_row())


def test_full_without_remat_is_what_all_are_compared_with():
    half = tuple(n // 2 for n in SIZES)
    rows = [make_row("full", "layer", sizes=half), make_row("full"), make_row("lora", "layer")]
    assert [saved_share(row, rows) for row in rows] == [0.5, 0.0, 0.0]
    # Without such a row, the one with the same remat, if there is one.
    rows.pop(1)
    assert [saved_share(row, rows) for row in rows] == [0.0, -1.0]
    assert saved_share(make_row("lora", "dots"), rows) is None
    assert saved_share(make_row("lora", "layer", length=64), rows) is None


def test_several_seeds_stand_beside_one():
    five = make_row(sizes=tuple(3 * n for n in SIZES), seeds=5)
    rows = [make_row("full"), make_row(), five, make_row("head", seeds=5)]
    lines = read_table(plan_table(rows))
    assert [line["seeds"] for line in lines] == ["1", "1", "5", "5"]
    assert [line["to one"] for line in lines] == [NONE, NONE, "3.0x", NONE]
    assert [line["saved"] for line in lines] == ["0.0%", "0.0%", NONE, NONE]
    note = "each with its own batch of this size"
    assert note in plan_table(rows)
    assert note not in plan_table(rows[:2])
    # Old plans do not say how many.
    old = [{name: x for name, x in row.items() if name != "seeds"} for row in rows[:2]]
    assert plan_table(old) == plan_table(rows[:2])


def test_a_step_may_fill_the_memory_but_no_more():
    assert not does_not_fit(make_row(memory_bytes=sum(SIZES)))
    assert does_not_fit(make_row(memory_bytes=sum(SIZES) - 1))
    assert not does_not_fit(make_row(memory_bytes=None))


def test_a_refused_program_has_no_figures_and_does_not_fit():
    refused = make_row("full", compiled=None, breakdown=None, flops=None)
    assert does_not_fit(refused)
    full, lora = read_table(plan_table([refused, make_row()]))
    assert full["peak"] == full["activations"] == full["GFLOP"] == NONE
    assert full["mark"] == "does not fit"
    assert lora["saved"] == NONE
    assert plan_table([]) == fit_table([]) == markdown([]) == ""


@pytest.mark.parametrize(
    ("n", "unit", "expected"),
    [
        (None, "MiB", NONE),
        (0, "MiB", "0.0"),
        (1, "MiB", "<0.1"),
        (MIB // 10, "MiB", "0.1"),
        (5000 * MIB, "MiB", "5,000.0"),
        (GIB, "GiB", "1.000"),
        (1, "GiB", "<0.001"),
    ],
)
def test_amount(n: int | None, unit: str, expected: str):
    assert amount(n, unit) == expected


# ---------------------------------------------------------------- fits


def test_largest_batches():
    rows = [make_fit("full", 32), make_fit("lora", 100), make_fit("head", 0, compiled=None)]
    full, lora, head = read_table(fit_table([*rows, make_row()]))
    assert full == {
        "method": "full",
        "largest batch": "32",
        "peak": "1,300.0",
        "of limit": "63.5%",
        "to full": "1.0x",
    }
    assert (lora["largest batch"], lora["to full"]) == ("100", "3.1x")
    assert (head["largest batch"], head["peak"], head["mark"]) == ("0", NONE, "does not fit")
    assert "limit 2.0 GiB" in fit_table(rows)
    # Peaks at different batches are not compared.
    assert saved_share(rows[1], rows) is None


def test_largest_batches_of_several_seeds():
    rows = [make_fit("full", 32), make_fit("lora", 100), make_fit("lora", 20, seeds=5)]
    lines = read_table(fit_table(rows))
    assert [(line["seeds"], line["to full"]) for line in lines] == [
        ("1", "1.0x"),
        ("1", "3.1x"),
        ("5", NONE),
    ]
    assert "each with its own batch" in fit_table(rows)
    assert "its own batch" not in fit_table(rows[:2])


def test_largest_batches_without_full():
    assert "to full" not in read_table(fit_table([make_fit("lora", 8)]))[0]
    lines = read_table(fit_table([make_fit("full", 0, compiled=None), make_fit("lora", 8)]))
    assert all("to full" not in line for line in lines)
    assert fit_table([make_row()]) == ""


# ---------------------------------------------------------------- Markdown


@few
@given(plans(min_size=0), st.lists(st.integers(0, 999), max_size=3))
def test_markdown_tables_have_equal_cells(rows: list[dict[str, Any]], batches: list[int]):
    fits = [make_fit(label, n) for label, n in zip(LABELS, batches, strict=False)]
    text = markdown([*rows, *fits])
    names = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line.startswith("|")]
        cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
        assert len({len(line) for line in cells}) <= 1
        names += [line[0].strip() for line in cells[2:]]
    assert sorted(names) == sorted([row["label"] for row in [*rows, *fits, *fits]])


def test_markdown_escapes_names():
    text = markdown([make_row("lora|x <b>\nz")])
    assert "| lora\\|x &lt;b> z | " in text


# ---------------------------------------------------------------- how the model is computed


def test_a_table_names_what_is_not_the_default_of_the_model() -> None:
    plain = plan_table([make_row()])
    assert "stored" not in plain
    assert "scan" not in plain
    rows = [make_row("full"), make_row(frozen_dtype="nf4"), make_row(frozen_dtype="int8")]
    table = plan_table([row | {"scan": "on", "attention": "cudnn"} for row in rows])
    assert "roberta-base, float32, attention cudnn, scan on, h100:8 (8 devices" in table
    assert "model.frozen_dtype" in table
    lines = [line.split() for line in table.splitlines()]
    stored = {line[0]: line[1] for line in lines if line[:1] in (["method"], ["full"])}
    assert stored == {"method": "stored", "full": "float32"}
    assert [line[1] for line in lines if line[:1] == ["lora"]] == ["nf4", "int8"]
    # Another way to compute the whole model is another group, where full is to be compared with.
    assert len(groups([rows[0], rows[1] | {"scan": "on"}])) == 2
    assert len(groups([rows[0], rows[1] | {"packed": True}])) == 2
    assert len(groups([rows[0] | {"packed": False}, rows[1]])) == 1


def test_settings_of_another_number_of_examples_have_a_table_of_their_own() -> None:
    def asked(examples: int) -> dict[str, Any]:
        row = make_fit("lora", 40)
        setting = {"batch_size": examples, "accumulate": 1, "remat": "none", "mesh": row["mesh"]}
        setting |= {"frozen_dtype": "float32", "peak": GIB, "flops_per_example": 1e9}
        return row | {"fit": row["fit"] | {"examples": examples, "settings": [setting]}}

    rows = [asked(8), asked(32)]
    titles = [table.title for table in advice.settings_tables(rows)]
    assert ["8 examples an update" in title for title in titles] == [True, False]
    assert ["32 examples an update" in title for title in titles] == [False, True]
    # The largest batch does not depend on it.
    assert len(read_table(fit_table(rows))) == 1
