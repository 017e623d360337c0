"""Each formula gives its source's figure to the digits printed there, or the table says not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.course_reports import estimates
from jaxft.course_reports.estimates import (
    DIFFERENCES,
    ESTIMATES,
    GB,
    HEADS,
    HIDDEN,
    LAYERS,
    LENGTH,
    PARAMETERS,
    Estimate,
    activation_bytes,
    adam_shrinks,
    adapter_parameters,
    beside_frozen,
    full_bytes,
    full_recompute_bytes,
    full_with_activations,
    gradients_shrink,
    hand_estimates,
    llama_parameters,
    lora_share,
    reported_activation_bytes,
    selective_recompute_bytes,
    state_bytes,
    transformer_parameters,
)

ROUNDING = GB // 200  # half of the last of two printed digits
TWO_TO_30 = 2**30
sizes = st.integers(1, 1000)
counts = st.integers(0, 10 * GB)


def test_openllama_has_about_3e9_parameters_by_the_approximation() -> None:
    assert transformer_parameters(HIDDEN, LAYERS) == 3_194_880_000
    assert round(transformer_parameters(HIDDEN, LAYERS) / GB) * GB == PARAMETERS


def test_openllama_has_more_parameters_than_the_approximation_counts() -> None:
    count = llama_parameters(HIDDEN, LAYERS, estimates.FFN, estimates.VOCABULARY)
    assert f"{count:,}" == "3,426,473,600"
    assert any(f"{count:,}" in reason for reason in DIFFERENCES)


def test_reports_a_and_d_48_gb_in_full() -> None:
    assert full_bytes(PARAMETERS, itemsize=4) == (12 + 12 + 24) * GB


def test_report_a_lora_takes_a_quarter_of_a_percent_and_saves_23_94_gb() -> None:
    share = lora_share(HIDDEN, rank=16, matrices=3)
    assert f"{share:.2%}" == "0.25%"
    peft = adam_shrinks(PARAMETERS, round(PARAMETERS * share))
    assert peft == 24_060_000_000
    assert full_bytes(PARAMETERS, itemsize=4) - peft == 23_940_000_000


def test_report_a_keeps_the_gradients_of_frozen_weights() -> None:
    assert adam_shrinks(PARAMETERS, trained=0) == 8 * PARAMETERS


def test_report_a_activations() -> None:
    activations = reported_activation_bytes(LENGTH, HIDDEN, HEADS, LAYERS)
    assert activations == 4 * (34 * 64 * 3200 + 5 * 64**2 * 32) * 26 == 792_330_240
    assert round(activations / GB, 3) == 0.792


def test_report_b_30_gb_in_full_and_12_12_by_peft() -> None:
    assert full_bytes(PARAMETERS, itemsize=2) + 6 * GB == (6 + 6 + 12 + 6) * GB
    assert 15_000_000 / PARAMETERS == 0.005
    assert beside_frozen(PARAMETERS, 15_000_000, 6 * GB) == 12_120_000_000


def test_report_b_does_not_follow_without_the_trained_weights() -> None:
    assert gradients_shrink(PARAMETERS, 15_000_000, 6 * GB) == 12_090_000_000


def test_report_c_counts_its_adapters_and_12_12_gb() -> None:
    trained = adapter_parameters(hidden=3230, size=64, per_layer=2, layers=24)
    assert trained == 20_003_232
    assert f"{trained / PARAMETERS:.4%}" == "0.6668%"
    assert f"{gradients_shrink(PARAMETERS, trained, 6 * GB) / GB:.2f}" == "12.12"
    assert f"{beside_frozen(PARAMETERS, trained, 6 * GB) / GB:.2f}" == "12.16"


def test_report_e_full_follows_in_units_of_two_to_the_30() -> None:
    assert f"{full_with_activations(PARAMETERS) / TWO_TO_30:.2f}" == "45.44"
    assert f"{full_with_activations(PARAMETERS) / GB:.2f}" == "48.79"


def test_report_e_peft_is_as_the_note_says() -> None:
    trained = 30_000_000
    activations = reported_activation_bytes(LENGTH, HIDDEN, HEADS, LAYERS)
    kept = 8 * PARAMETERS + full_bytes(trained, itemsize=4)
    assert f"{(kept + activations) / TWO_TO_30:.2f}" == "23.54"
    assert f"{(kept + 2 * activations) / TWO_TO_30:.2f}" == "24.27"
    row = next(row for row in ESTIMATES if row.source == "course report E")
    assert row.peft is None
    assert "23.54" in row.note


def terms_of_the_paper(b: int, s: int, h: int, a: int) -> dict[str, int]:
    """Section 4.1 of Korthikanti et al. 2022, tensor by tensor: two bytes, of a mask one."""
    return {
        "input of Q, K and V": 2 * s * b * h,
        "Q and K": 2 * (2 * s * b * h),
        "softmax output": 2 * a * s * s * b,
        "softmax dropout mask": a * s * s * b,
        "softmax dropout output": 2 * a * s * s * b,
        "V": 2 * s * b * h,
        "input of the attention's output projection": 2 * s * b * h,
        "attention dropout mask": s * b * h,
        "input of the MLP's first layer": 2 * s * b * h,
        "input of GeLU": 2 * s * b * (4 * h),
        "input of the MLP's second layer": 2 * s * b * (4 * h),
        "MLP dropout mask": s * b * h,
        "inputs of two LayerNorms": 2 * (2 * s * b * h),
    }


@given(sizes, sizes, sizes, sizes, sizes)
def test_activations_are_the_sum_of_the_papers_terms(
    b: int, s: int, h: int, a: int, layers: int
) -> None:
    attention = 11 * s * b * h + 5 * a * s * s * b
    mlp, norms = 19 * s * b * h, 4 * s * b * h
    terms = sum(terms_of_the_paper(b, s, h, a).values())
    assert terms == attention + mlp + norms
    assert activation_bytes(b, s, h, a, layers) == layers * terms


@pytest.mark.parametrize(
    ("heads", "hidden", "layers", "saved"), [(96, 12288, 96, "70%"), (128, 20480, 105, "65%")]
)
def test_selective_recomputation_saves_what_the_paper_says(
    heads: int, hidden: int, layers: int, saved: str
) -> None:
    # GPT-3 and MT-NLG at a length of 2048, section 5.
    stored = activation_bytes(1, 2048, hidden, heads, layers)
    assert f"{1 - selective_recompute_bytes(1, 2048, hidden, layers) / stored:.0%}" == saved


@given(sizes, sizes, sizes, sizes, sizes)
def test_the_more_is_recomputed_the_less_is_stored(b: int, s: int, h: int, a: int, n: int) -> None:
    stored = activation_bytes(b, s, h, a, n)
    assert 17 * full_recompute_bytes(b, s, h, n) == selective_recompute_bytes(b, s, h, n) < stored


@given(sizes, sizes, sizes, sizes, sizes)
def test_activations_are_linear_in_the_batch_and_more_in_the_length(
    b: int, s: int, h: int, a: int, n: int
) -> None:
    assert activation_bytes(2 * b, s, h, a, n) == 2 * activation_bytes(b, s, h, a, n)
    assert activation_bytes(b, 2 * s, h, a, n) > 2 * activation_bytes(b, s, h, a, n)
    # Masks apart, float32 doubles: so the reports' factor of 4 exceeds what it would take.
    assert reported_activation_bytes(s, h, a, n) > 2 * activation_bytes(1, s, h, a, n)


@given(counts, counts, counts, st.sampled_from([2, 4]), st.integers(1, GB))
def test_state_grows_with_each_of_its_parts(p: int, g: int, m: int, size: int, more: int) -> None:
    base = state_bytes(parameters=p, gradients=g, adam=m, itemsize=size)
    parameters = state_bytes(parameters=p + more, gradients=g, adam=m, itemsize=size)
    gradients = state_bytes(parameters=p, gradients=g + more, adam=m, itemsize=size)
    adam = state_bytes(parameters=p, gradients=g, adam=m + more, itemsize=size)
    assert parameters - base == gradients - base == size * more
    assert adam - base == 2 * size * more


@given(counts, counts, counts)
def test_peft_grows_with_what_is_trained_up_to_all_of_it(p: int, t: int, u: int) -> None:
    fewer, more = sorted((min(t, p), min(u, p)))
    assert adam_shrinks(p, fewer) <= adam_shrinks(p, more) <= full_bytes(p, itemsize=4)
    assert adam_shrinks(p, p) == full_bytes(p, itemsize=4)
    assert gradients_shrink(p, fewer, 0) <= gradients_shrink(p, more, 0)
    assert gradients_shrink(p, p, 0) == full_bytes(p, itemsize=2)
    assert beside_frozen(p, more, 0) - gradients_shrink(p, more, 0) == 2 * more


@pytest.mark.parametrize("row", ESTIMATES, ids=lambda row: row.source)
def test_every_row_has_a_source_and_follows_or_says_why_not(row: Estimate) -> None:
    assert row.source
    assert row.formula
    pairs = [(row.full, row.quoted_full), (row.peft, row.quoted_peft)]
    follows = all(
        compute is not None and abs(compute() - quoted) <= ROUNDING
        for compute, quoted in pairs
        if quoted is not None
    )
    assert follows == (row.source != "course report E")
    if not follows or row.quoted_full is None:
        assert row.note


def test_the_rows_are_computed_in_whole_bytes() -> None:
    rows = hand_estimates()
    assert [row["source"] for row in rows] == [row.source for row in ESTIMATES]
    assert len({row["source"] for row in rows}) == len(rows)
    for row in rows:
        for field in ("full_bytes", "peft_bytes", "quoted_full_bytes", "quoted_peft_bytes"):
            assert row[field] is None or isinstance(row[field], int)
        if row["peft_bytes"] is not None:
            assert row["peft_bytes"] < row["full_bytes"]
    assert rows[0]["full_bytes"] == 48 * GB
    assert rows[0]["peft_bytes"] == 24_060_000_000


def test_each_difference_is_one_sentence() -> None:
    assert len(DIFFERENCES) == 4
    assert all(reason.endswith(".") and ". " not in reason for reason in DIFFERENCES)
