"""Collectives: known ones in programs that XLA compiles, for devices that are here and absent."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.planning.collectives import (
    KINDS,
    Collective,
    collectives,
    group_size,
    moved_bytes,
    parse_line,
    sent_share,
    shape_bytes,
    top_level,
)
from jaxft.planning.targets import COMPILERS, environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MIB = 2**20

# What each program must send follows from its shapes and shardings; see EXPECTED.
SCRIPT = """
import json, sys
from dataclasses import astuple
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxft.planning.collectives import collectives
from jaxft.planning.targets import compiler_options, devices_of, parse

target = parse(sys.argv[1])
devices = np.asarray(devices_of(target))
ring, grid = Mesh(devices, ("d",)), Mesh(devices.reshape(2, 4), ("a", "b"))
on = lambda mesh, *axes: NamedSharding(mesh, P(*axes))
def shape(size, mesh, *axes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(size, dtype, sharding=on(mesh, *axes))
manual = partial(jax.shard_map, mesh=ring, in_specs=P("d"), out_specs=P("d"), check_vma=False)
twice = lambda x: 2 * x
total = lambda x: x.sum(0)
onward = [(i, (i + 1) % 8) for i in range(8)]

def layers(x, weights):
    body = lambda x, w: (lax.with_sharding_constraint(jnp.tanh(x @ w), on(ring)), None)
    return lax.scan(body, x, weights)[0]

def until(x, w):
    body = lambda x: lax.with_sharding_constraint(jnp.tanh(x @ w), on(ring))
    return lax.while_loop(lambda x: x[0, 0] > 0.5, body, x)

def sharded_step(w, v, x):
    def loss(weights):
        w, v = (weight.astype(jnp.bfloat16) for weight in weights)
        return ((x + jax.nn.gelu(x @ w) @ v).astype(jnp.float32) ** 2).mean()
    return jax.tree.map(lambda p, g: p - 0.1 * g, (w, v), jax.grad(loss)((w, v)))

rows = shape((1024, 256), ring, "d")
stack, square = shape((5, 512, 512), ring, None, "d"), shape((512, 512), ring, "d")
cases = {
    "contract": (lambda x, w: x @ w, on(ring), shape((256, 512), ring, None, "d"),
                 shape((512, 1024), ring, "d")),
    "gather": (twice, on(ring), rows),
    "gather by 2": (twice, on(grid), shape((1024, 256), grid, "a")),
    "gather by 4": (twice, on(grid), shape((1024, 256), grid, "b")),
    "reduce by 2": (total, on(grid), shape((512, 1024), grid, "a")),
    "reduce by 4": (total, on(grid), shape((512, 1024), grid, "b")),
    "reduce by 4 of 8": (lambda x: x.reshape(2, 512, 64).sum(1), on(ring),
                         shape((1024, 64), ring, "d")),
    "pair": (lambda x, y: (total(x), total(y)), on(ring), shape((512, 1024), ring, "d"),
             shape((512, 2048), ring, "d")),
    "scatter": (manual(lambda x: lax.psum_scatter(x, "d", tiled=True)), None,
                shape((8192, 128), ring, "d")),
    "permute": (manual(lambda x: lax.ppermute(x, "d", onward)), None, rows),
    "exchange": (twice, on(ring, None, "d"), shape((1024, 512), ring, "d")),
    "none": (twice, on(ring, "d"), rows),
    "loop": (layers, on(ring), shape((128, 512), ring), stack),
    "until": (until, on(ring), shape((128, 512), ring), square),
    "sharded step": (sharded_step, (on(ring, "d"), on(ring, "d")), shape((1024, 4096), ring, "d"),
                     shape((4096, 1024), ring, "d"),
                     shape((8192, 1024), ring, "d", dtype=jnp.bfloat16)),
}
found = {}
for name, (function, out, *shapes) in cases.items():
    jitted = jax.jit(function) if out is None else jax.jit(function, out_shardings=out)
    executable = jitted.lower(*shapes).compile(compiler_options=compiler_options(target))
    found[name] = [astuple(one) for one in collectives(executable.as_text())]
print(json.dumps(found))
"""


def compiled(target: str, python: str, **variables: str) -> dict[str, list[Collective]]:
    """What the script found for a target."""
    done = subprocess.run(
        [python, "-c", SCRIPT, target],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: [Collective(*one) for one in several] for name, several in found.items()}


@pytest.fixture(scope="module", params=["cpu:8", "h100:8", "v5e:2x4"])
def programs(request: pytest.FixtureRequest) -> tuple[str, dict[str, list[Collective]]]:
    """(target, what the script found for it), with one process for each target."""
    target = request.param
    platform = {"h100:8": "cuda", "v5e:2x4": "tpu"}.get(target)
    if platform is None:
        flags = "--xla_force_host_platform_device_count=8"
        return target, compiled(target, sys.executable, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    module, extra = COMPILERS[platform]
    # scripts/test.sh makes an environment with the compilers and names its Python.
    python = os.environ.get("JAXFT_PLAN_PYTHON", sys.executable)
    has_it = f"import importlib.util as u, sys; sys.exit(not u.find_spec({module!r}))"
    if subprocess.run([python, "-c", has_it], check=False).returncode:
        pytest.skip(f"{module} is not installed; the extra {extra} has it")
    return target, compiled(target, python, **environment(platform))


# (kind, bytes of the whole array, group), by hand; once each.
EXPECTED = {
    "contract": ("all-reduce", 256 * 1024 * 4, 8),
    "gather": ("all-gather", 1024 * 256 * 4, 8),
    "gather by 2": ("all-gather", 1024 * 256 * 4, 2),
    "gather by 4": ("all-gather", 1024 * 256 * 4, 4),
    "reduce by 2": ("all-reduce", 1024 * 4, 2),
    "reduce by 4": ("all-reduce", 1024 * 4, 4),
    "pair": ("all-reduce", (1024 + 2048) * 4, 8),  # in one, be it a tuple or joined before
    "scatter": ("reduce-scatter", 1024 * 128 * 4, 8),
    "permute": ("collective-permute", 128 * 256 * 4, 2),
    "exchange": ("all-to-all", 128 * 512 * 4, 8),  # of what one device has
}


def test_what_is_sent_follows_from_shapes_and_shardings(
    programs: tuple[str, dict[str, list[Collective]]],
) -> None:
    _, found = programs
    for name, (kind, size, group) in EXPECTED.items():
        assert found[name] == [Collective(kind, size, group, count=1)], name
    assert found["none"] == []
    parts = {(one.kind, one.bytes, one.group) for one in found["reduce by 4 of 8"]}
    assert parts == {("all-reduce", 64 * 4, 4), ("all-gather", 2 * 64 * 4, 2)}


def test_a_loops_collective_counts_for_each_trip(
    programs: tuple[str, dict[str, list[Collective]]],
) -> None:
    target, found = programs
    # TPU's compiler keeps the state divided between the trips, and gathers it once in the end.
    kind = "reduce-scatter" if target == "v5e:2x4" else "all-reduce"
    (one,) = [one for one in found["loop"] if one.kind == kind]
    assert one == Collective(kind, 128 * 512 * 4, group=8, count=5)
    # The trips of a loop that runs until something happens are not known.
    unknown = [one for one in found["until"] if not one.is_exact]
    assert Collective(kind, 128 * 512 * 4, group=8, count=1, is_exact=False) in unknown


def test_a_sharded_step_gathers_weights_and_scatters_gradients(
    programs: tuple[str, dict[str, list[Collective]]],
) -> None:
    target, found = programs
    moved = moved_bytes(found["sharded step"])
    weights = 2 * 4096 * 1024
    if target == "cpu:8":
        # It reduces whole gradients and slices them, in float32, and may gather a weight again.
        assert moved["all-reduce"] >= 2 * 7 / 8 * 4 * weights
        assert moved["all-gather"] >= 7 / 8 * 4 * weights
        return
    least = 2 * 7 / 8 * 2 * weights  # bfloat16, once to gather and once to scatter
    if target == "h100:8":
        assert moved["all-gather"] == moved["reduce-scatter"] == least / 2
    else:
        # All but one gather go in loops of permutes, which send nine parts of eight, not seven; the
        # gather stands in four fusions.
        assert moved["collective-permute"] > moved["all-gather"] > 0
        assert least <= sum(moved.values()) <= 9 / 7 * least
        assert all(one.is_exact for one in found["sharded step"])


# ---------------------------------------------------------------- text

BITS = {"pred": 8, "s4": 4, "u8": 8, "bf16": 16, "f16": 16, "f8e4m3fn": 8, "f32": 32, "s32": 32}
BITS |= {"u32": 32, "s64": 64, "c64": 64, "c128": 128}
LAYOUTS = ["", "{0}", "{1,0}", "{1,0:T(8,128)}", "{0,1:T(8,128)(2,1)S(1)}", "{:T(128)}"]


@st.composite
def arrays(draw: st.DrawFn) -> tuple[str, int]:
    """(shape as XLA writes it, bytes)."""
    dtype, sides = draw(st.sampled_from(list(BITS))), draw(st.lists(st.integers(0, 99), max_size=4))
    layout = draw(st.sampled_from(LAYOUTS))
    size = math.ceil(BITS[dtype] * math.prod(sides) / 8)
    return f"{dtype}[{','.join(map(str, sides))}]{layout}", size


def joined(parts: list[tuple[str, int]]) -> tuple[str, int]:
    """A tuple, with the marks that XLA sets at every fifth."""
    marked = [f"/*index={i}*/{s}" if i and i % 5 == 0 else s for i, (s, _) in enumerate(parts)]
    return f"({', '.join(marked)})", sum(size for _, size in parts)


shapes = st.recursive(
    arrays(), lambda inner: st.lists(inner, min_size=1, max_size=7).map(joined), max_leaves=9
)


@given(shapes, st.sampled_from(["all-reduce", "all-gather-start", "fusion"]))
def test_a_line_is_taken_apart_at_its_shape(shape: tuple[str, int], opcode: str) -> None:
    text, size = shape
    line = f"  ROOT %x.1 = {text} {opcode}(%a.b, /*index=5*/%c-d), channel_id=1, metadata={{x()}}"
    found = parse_line(line)
    assert found is not None
    assert (found.name, found.shape, found.opcode, found.is_root) == ("x.1", text, opcode, True)
    assert found.operands == ["a.b", "c-d"]
    assert found.attributes == ", channel_id=1, metadata={x()}"
    assert shape_bytes(text) == size


@settings(max_examples=50)
@given(st.lists(shapes, min_size=1, max_size=7))
def test_a_tuple_is_taken_apart_at_its_top(parts: list[tuple[str, int]]) -> None:
    whole, size = joined(parts)
    assert [shape_bytes(part) for part in top_level(whole)] == [size for _, size in parts]
    assert shape_bytes(whole) == size


def test_what_holds_no_data_has_no_bytes() -> None:
    assert shape_bytes("(token[], opaque[], f32[0,8]{1,0})") == 0
    assert shape_bytes("f32[<=8,2]") == 64


@given(st.integers(1, 6), st.integers(1, 9))
def test_groups_have_one_size_in_every_form(count: int, size: int) -> None:
    ids = iter(range(count * size))
    listed = ",".join(
        "{" + ",".join(str(next(ids)) for _ in range(size)) + "}" for _ in range(count)
    )
    forms = [
        f"{{{listed}}}",
        f"[{count},{size}]<=[{count * size}]",
        f"[{count},{size}]<=[{size},{count}]T(1,0)",
        f"mesh['a'={count},'b'={size}] {{'b'}}",
        f"mesh['data'={size},'b'={count}], device_ids=([{size},{count}]T(1,0)) {{'data'}}",
        f"mesh['a'={count},'b'={7 * size}] {{'b':(7){size}}}",
        f"mesh['a'={count},'b'={7 * size}] {{'b:(7){size}'}}",
    ]
    for form in forms:
        text = f", channel_id=1, replica_groups={form}, dimensions={{0}}"
        assert group_size(text, devices=1000) == size, form
    assert group_size(", replica_groups={}, dimensions={0}", devices=1000) == 1000
    axes = f", replica_groups=mesh['a'={count},'b'={size}] {{'a','b'}}, to_apply=%add"
    assert group_size(axes, devices=1000) == count * size


@pytest.mark.parametrize(("pairs", "group"), [("{0,1},{1,0}", 2), ("{0,0},{3,3}", 1), ("", 1)])
def test_a_permute_has_a_sender_and_a_receiver(pairs: str, group: int) -> None:
    assert group_size(f", source_target_pairs={{{pairs}}}, metadata={{}}", devices=8) == group


MODULE = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%wrapped (p: f32[4,8]) -> f32[32,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %gathered = f32[32,8]{1,0} all-gather(%p), channel_id=1, replica_groups={}, dimensions={0}
}

%body (state: (s32[], f32[64])) -> (s32[], f32[64]) {
  %state = (s32[], f32[64]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %copied = s32[] copy(%i)
  %by = s32[] constant(BY)
  %next = s32[] add(%copied, %by)
  %x = f32[64]{0} get-tuple-element(%state), index=1
  %reduced = f32[64]{0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %out = (s32[], f32[64]{0}) tuple(%next, %reduced)
}

%until (state.1: (s32[], f32[64])) -> pred[] {
  %state.1 = (s32[], f32[64]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(LIMIT)
  ROOT %less = pred[] compare(%i.1, %limit), direction=DIRECTION
}

%piece.1 (q: bf16[16,8]) -> bf16[128,8] {
  %q = bf16[16,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %g.1 = bf16[128,8]{1,0} all-gather(%q), channel_id=7, replica_groups=[1,8]<=[8], \
frontend_attributes={chain_id="0"}, metadata={op_name="jit(f)/x"}
}

%piece.2 (q.2: bf16[16,8]) -> bf16[128,8] {
  %q.2 = bf16[16,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %g.2 = bf16[128,8]{1,0} all-gather(%q.2), channel_id=7, replica_groups=[1,8]<=[8], \
frontend_attributes={chain_id="0"}, metadata={op_name="jit(f)/x"}
}

%all-reduce-scatter.3 (r: f32[80]) -> f32[10] {
  %r = f32[80]{0} parameter(0)
  %whole = f32[80]{0} all-reduce(%r), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %part = f32[10]{0} dynamic-slice(%whole, %zero), dynamic_slice_sizes={10}
}

%yes (y: f32[2]) -> f32[2] {
  %y = f32[2]{0} parameter(0)
  ROOT %y.1 = f32[2]{0} all-reduce(%y), replica_groups={{0,1,2,3}}, to_apply=%add
}

%no (n: f32[2]) -> f32[2] {
  ROOT %n = f32[2]{0} parameter(0)
}

ENTRY %main (p.1: f32[4,8], v: f32[64], r.1: f32[80], y.2: f32[2], c: pred[]) -> () {
  %p.1 = f32[4,8]{1,0} parameter(0)
  %async = ((f32[4,8]{1,0}), f32[32,8]{1,0}, u32[]) async-start(%p.1), calls=%wrapped
  %update = ((f32[4,8]{1,0}), f32[32,8]{1,0}, u32[]) async-update(%async), calls=%wrapped
  %done = f32[32,8]{1,0} async-done(%update), calls=%wrapped
  %first = s32[] constant(FIRST)
  %first.1 = s32[] copy(%first)
  %v = f32[64]{0} parameter(1)
  %init = (s32[], f32[64]{0}) tuple(%first.1, %v)
  %loop = (s32[], f32[64]{0}) while(%init), condition=%until, body=%body
  %q.1 = bf16[16,8]{1,0} parameter(2)
  %one = bf16[128,8]{1,0} fusion(%q.1), kind=kCustom, calls=%piece.1
  %two = bf16[128,8]{1,0} fusion(%q.1), kind=kCustom, calls=%piece.2
  %r.1 = f32[80]{0} parameter(3)
  %kept = f32[10]{0} fusion(%r.1), kind=kCustom, calls=%all-reduce-scatter.3
  %y.2 = f32[2]{0} parameter(4)
  %c = pred[] parameter(5)
  %either = f32[2]{0} conditional(%c, %y.2, %y.2), branch_computations={%yes, %no}
  ROOT %nothing = () tuple()
}
"""


def module(first: int = 0, limit: int = 5, by: int = 1, direction: str = "LT") -> str:
    """The text above, with the bounds of its loop."""
    bounds = {"FIRST": first, "LIMIT": limit, "BY": by, "DIRECTION": direction}
    text = MODULE
    for name, value in bounds.items():
        text = text.replace(f"({name})", f"({value})").replace(f"={name}", f"={value}")
    return text


def test_computations_are_followed_from_where_they_are_called() -> None:
    assert collectives(module()) == [
        Collective("all-gather", 32 * 8 * 4, group=8, count=1),
        Collective("all-reduce", 64 * 4, group=2, count=5),
        Collective("reduce-scatter", 80 * 4, group=8, count=1),
        Collective("all-reduce", 2 * 4, group=4, count=1, is_exact=False),
        Collective("all-gather", 128 * 8 * 2, group=8, count=1),
    ]


@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 9))
def test_a_loops_trips_are_those_of_its_counter(first: int, limit: int, by: int) -> None:
    found = [one for one in collectives(module(first, limit, by)) if one.group == 2]
    assert sum(one.count for one in found) == len(range(first, limit, by))


@pytest.mark.parametrize("change", [{"direction": "NE"}, {"by": 0}, {"by": -1}])
def test_a_loop_whose_trips_are_unknown_counts_once_and_says_so(change: dict[str, Any]) -> None:
    (one,) = [one for one in collectives(module(**change)) if one.group == 2]
    assert (one.count, one.is_exact) == (1, False)
    noted = 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
    text = module(**change).replace("body=%body", noted)
    (one,) = [one for one in collectives(text) if one.group == 2]
    assert (one.count, one.is_exact) == (3, True)


# ---------------------------------------------------------------- bytes


def ring_all_reduce(chunks: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """Sums rows by the ring; returns what each has in the end, and how many chunks each sent."""
    devices = len(chunks)
    held, sent = [list(row) for row in chunks], [0] * devices
    for step in range(2 * (devices - 1)):
        messages = []
        for device in range(devices):
            index = (device - step) % devices
            messages.append(((device + 1) % devices, index, held[device][index]))
            sent[device] += 1
        for receiver, index, value in messages:
            held[receiver][index] = value + (held[receiver][index] if step < devices - 1 else 0)
    return held, sent


@given(st.integers(1, 9))
def test_a_ring_sends_the_stated_share(devices: int) -> None:
    chunks = [[10**row + column for column in range(devices)] for row in range(devices)]
    held, sent = ring_all_reduce(chunks)
    assert held == [[sum(column) for column in zip(*chunks, strict=True)]] * devices
    assert {count / devices for count in sent} == {sent_share("all-reduce", devices)}


@given(st.sampled_from(KINDS), st.integers(1, 512), st.integers(0, 10**9), st.integers(1, 9))
def test_what_is_moved_adds_up(kind: str, group: int, size: int, count: int) -> None:
    one = Collective(kind, size, group, count)
    moved = moved_bytes([one, one])
    assert list(moved) == list(KINDS)
    assert moved[kind] == sum(moved.values()) == round(2 * count * size * sent_share(kind, group))
    assert (moved[kind] == 0) == (group == 1 or size == 0)
    assert moved[kind] <= 2 * count * size * (2 if kind == "all-reduce" else 1)
