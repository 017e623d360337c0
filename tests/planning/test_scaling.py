"""Scaling on paper: figures by hand, the algorithm behind a formula, what must hold of bounds."""

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.errors import InputError
from jaxft.planning.collectives import KINDS, Collective, moved_bytes, sent_share
from jaxft.planning.devices import DEVICES, Gpu, Tpu
from jaxft.planning.scaling import (
    COUNTS,
    HOST,
    NETWORK,
    device_of,
    scaling,
    seconds,
    torus_bandwidth,
)

GPUS = [kind for kind, device in DEVICES.items() if isinstance(device, Gpu)]
TPUS = [kind for kind, device in DEVICES.items() if isinstance(device, Tpu)]
GB = 10**9


def make_row(**changes: Any) -> dict[str, Any]:
    """A plan for eight H100: 989 GFLOP a device, a gigabyte of gradients."""
    row = {
        "target": "h100:8",
        "devices": 8,
        "mesh": {"data": 8, "fsdp": 1, "tensor": 1},
        "batch_size": 64,
        "flops": 8 * 989e9,
        "collectives": [asdict(Collective("all-reduce", GB, 8, 1))],
    }
    return row | changes


def line(table: list[dict[str, Any]], devices: int) -> dict[str, Any]:
    (found,) = [one for one in table if one["devices"] == devices]
    return found


def test_figures_by_hand() -> None:
    table = scaling(make_row())
    assert [one["devices"] for one in table] == list(COUNTS) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    one, eight, many = (line(table, devices) for devices in (1, 8, 256))
    assert one == {
        "devices": 1,
        "examples": 8,
        "compute_s": pytest.approx(1e-3),
        "interconnect_s": 0,
        "bound_s": pytest.approx(1e-3),
        "overlapped": 1,
        "apart": 1,
        "is_exact": True,
    }
    # NVLink: 2 x 7/8 of 1 GB at 450 GB/s.
    assert eight["interconnect_s"] == pytest.approx(1.75 / 450)
    assert eight["bound_s"] == eight["interconnect_s"]
    assert eight["overlapped"] == pytest.approx(1e-3 * 450 / 1.75)
    assert eight["apart"] == pytest.approx(1e-3 / (1e-3 + 1.75 / 450))
    # 32 hosts with eight adapters of 400 Gbit/s: 2 x 31/32 of 1 GB at 400 GB/s, more than NVLink's.
    assert many["interconnect_s"] == pytest.approx(2 * 31 / 32 / 400)
    assert (many["examples"], many["compute_s"]) == (2048, one["compute_s"])


def test_a_batch_that_stays_is_spread_until_each_device_has_one_example() -> None:
    table = scaling(make_row(), batch="stays")
    assert [one["devices"] for one in table] == [1, 2, 4, 8, 16, 32, 64]
    assert {one["examples"] for one in table} == {64}
    for one in table:
        assert one["compute_s"] == pytest.approx(8e-3 / one["devices"])
        grows = line(scaling(make_row()), one["devices"])
        assert one["interconnect_s"] == grows["interconnect_s"]


@pytest.mark.parametrize(("kind", "side", "stated"), [("v5e", 16, 51.2e12), ("v6e", 16, 102.4e12)])
def test_a_pod_reduces_at_the_rate_that_google_states(kind: str, side: int, stated: float) -> None:
    """Their pages: "All-reduce bandwidth per Pod" 51.2 TB/s and 102.4 TB/s."""
    tpu = device_of(f"{kind}:{side}x{side}")
    assert isinstance(tpu, Tpu)
    assert side**2 * torus_bandwidth(tpu, side**2) == stated


def test_the_links_at_a_corner_of_a_slice() -> None:
    links = {
        # Two sides, closed from 16 chips on: 1x2, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16.
        "v5e": {2: 1, 4: 2, 8: 2, 16: 2, 32: 2, 64: 2, 128: 3, 256: 4},
        # Three sides, closed where they are made of cubes of four: 2x4x4 and less, 4x4x4 and more.
        "v5p": {2: 1, 4: 2, 8: 3, 16: 3, 32: 3, 64: 6, 128: 6, 256: 6, 6144: 6},
    }
    for kind, by_chips in links.items():
        tpu = device_of(kind)
        assert isinstance(tpu, Tpu)
        link = {"v5e": 50e9, "v5p": 100e9}[kind]
        found = {chips: torus_bandwidth(tpu, chips) / link for chips in by_chips}
        assert found == by_chips


def test_a_slice_that_is_not_offered_is_refused() -> None:
    row = make_row(target="v5e:2x4")
    with pytest.raises(InputError, match=r"no slice of 6 chips; expected \[1, 2, 4, 8"):
        scaling(row, counts=[6])
    with pytest.raises(InputError, match="12 GPUs; expected at most 8, or full hosts"):
        scaling(make_row(), counts=[12])


# ---------------------------------------------------------------- the algorithm behind the formula


def all_reduce(values: list[list[int]], groups: list[list[int]], sent: list[int]) -> None:
    """Sums the rows of each group by a ring, in place, and counts what each device sends."""
    for group in groups:
        n, size = len(group), len(values[0])
        assert size % n == 0
        chunk = size // n
        for step in range(2 * (n - 1)):
            messages = []
            for place, device in enumerate(group):
                start = (place - step) % n * chunk
                part = values[device][start : start + chunk]
                messages.append((group[(place + 1) % n], start, part))
                sent[device] += chunk
            for receiver, start, part in messages:
                old = values[receiver][start : start + chunk]
                new = [a + b for a, b in zip(old, part, strict=True)] if step < n - 1 else part
                values[receiver][start : start + chunk] = new


@given(st.integers(1, 4), st.integers(1, 4))
def test_hosts_reduce_inside_and_between_at_once(inside: int, hosts: int) -> None:
    """Two levels, each GPU with its g-th: the sums are right, and each level sends its share."""
    devices, size = inside * hosts, inside * hosts * 2
    values = [[10**device + place for place in range(size)] for device in range(devices)]
    total = [sum(column) for column in zip(*values, strict=True)]
    by_link, by_network = [0] * devices, [0] * devices
    whole = [list(range(host * inside, (host + 1) * inside)) for host in range(hosts)]
    across = [list(range(place, devices, inside)) for place in range(inside)]
    all_reduce(values, whole, by_link)  # a reduce-scatter first, an all-gather last: sends as much
    chunk = size // inside
    for group in across:
        place = group[0]
        parts = [row[place * chunk : (place + 1) * chunk] for row in values]
        all_reduce(parts, [group], by_network)
        for device in group:
            for other in whole[device // inside]:
                values[other][place * chunk : (place + 1) * chunk] = parts[device]
    assert values == [total] * devices
    assert {sent / size for sent in by_link} == {sent_share("all-reduce", inside)}
    per_host = [sum(by_network[device] for device in host) / size for host in whole]
    assert per_host == [pytest.approx(sent_share("all-reduce", hosts))] * hosts


# ---------------------------------------------------------------- what must hold


found = st.builds(
    Collective,
    kind=st.sampled_from(KINDS[:-1]),
    bytes=st.integers(1, 10**10),
    group=st.just(8),
    count=st.integers(1, 100),
)
gpu_rows = st.builds(
    lambda kind, several, flops: make_row(
        target=f"{kind}:8", collectives=[asdict(one) for one in several], flops=flops
    ),
    st.sampled_from(GPUS),
    st.lists(found, max_size=5),
    st.floats(1e9, 1e18),
)


@given(gpu_rows)
def test_inside_a_host_it_is_what_a_device_sends_by_its_link(row: dict[str, Any]) -> None:
    sent = sum(moved_bytes(Collective(**one) for one in row["collectives"]).values())
    link = device_of(row["target"]).link_bandwidth
    eight = line(scaling(row), 8)["interconnect_s"]
    assert eight == pytest.approx(sent / link, rel=1e-6, abs=4 / link)


@given(gpu_rows, st.sampled_from(["grows", "stays"]))
def test_more_gpus_never_send_in_less_time(row: dict[str, Any], batch: Any) -> None:
    table = scaling(row, batch)
    times = [one["interconnect_s"] for one in table]
    assert times[0] == 0
    if "all-to-all" not in [one["kind"] for one in row["collectives"]]:
        assert times == sorted(times)
    for one in table:
        both = one["compute_s"] + one["interconnect_s"]
        assert 0 < one["apart"] <= one["overlapped"] <= 1
        assert max(one["compute_s"], one["interconnect_s"]) == one["bound_s"] <= both
        assert one["apart"] >= one["overlapped"] / 2


@given(st.sampled_from(TPUS), st.sampled_from(COUNTS[1:]), st.sampled_from(KINDS[:-1]))
def test_a_chip_sends_at_most_by_all_of_its_links(kind: str, chips: int, collective: str) -> None:
    tpu = DEVICES[kind]
    assert isinstance(tpu, Tpu)
    least = GB * sent_share(collective, chips) / (tpu.interconnect_bandwidth / 2)
    assert seconds(collective, GB, tpu, 0, chips) >= least


def test_permutes_are_the_gather_that_they_replace() -> None:
    """Seven of an eighth each move what the gather moves, on however many devices."""
    permutes = [asdict(Collective("collective-permute", GB // 8, 2, 7))]
    gather = [asdict(Collective("all-gather", GB, 8, 1))]
    for target in ("h100:8", "v5e:2x4"):
        tables = [scaling(make_row(target=target, collectives=c)) for c in (permutes, gather)]
        times = [[one["interconnect_s"] for one in table] for table in tables]
        assert times[0] == pytest.approx(times[1])


def test_what_every_gpu_exchanges_passes_the_network_whole() -> None:
    """All-to-all, 1 GB of each of 16 T4: 7/16 of it inside a host, half of it times 8 between."""
    t4 = DEVICES["t4"]
    inside, between = 7 / 16 * GB / t4.link_bandwidth, 8 * GB / 2 / NETWORK
    assert seconds("all-to-all", GB, t4, NETWORK, 2 * HOST) == pytest.approx(max(inside, between))
    fast = 10**15
    assert seconds("all-to-all", GB, t4, fast, 2 * HOST) == pytest.approx(inside)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "h100", "devices": 1}, "'h100' is one device"),
        ({"collectives": None}, "was refused as too large"),
        ({"target": "cpu:8"}, "no figures of 'cpu:8' are known; expected one of rtx4070-laptop"),
        ({"mesh": {"data": 2, "fsdp": 4}}, "along data and fsdp; expected one along data or fsdp"),
        ({"mesh": {"data": 1, "tensor": 8}}, "along tensor; expected"),
        (
            {"collectives": [asdict(Collective("all-reduce", 4, 4, 1))]},
            "all-reduce among 4 of 8 devices",
        ),
    ],
)
def test_a_row_that_does_not_tell_is_refused_in_one_line(changes: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        scaling(make_row(**changes))
    assert str(caught.value).startswith("scaling: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_way_of_the_batch_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'grows'"):
        scaling(make_row(), batch="grow")  # type: ignore[arg-type]


def test_a_users_device_and_a_count_that_is_not_exact() -> None:
    own = {"name": "mine", "like": "t4", "bf16_flops": 1e12, "link_bandwidth": 1e9}
    one = asdict(Collective("all-gather", 8 * GB, 8, 1, is_exact=False))
    alone = asdict(Collective("all-reduce", GB, 1, 1))
    (eight,) = scaling(
        make_row(target="mine:8", collectives=[one, alone]), counts=[8], custom=[own]
    )
    assert eight["interconnect_s"] == pytest.approx(7)
    assert eight["compute_s"] == pytest.approx(0.989)
    assert not eight["is_exact"]
