"""Targets: what is parsed, what is refused in one line, and what XLA makes of the known devices."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.errors import InputError
from jaxft.planning.custom_devices import known
from jaxft.planning.devices import ALIASES, DEVICES, Gpu, Tpu
from jaxft.planning.targets import (
    COMPILERS,
    ENVIRONMENTS,
    compiler_options,
    described,
    devices_of,
    environment,
    parse,
    parse_all,
)

ROOT = Path(__file__).parents[2]
GPUS = [kind for kind, device in DEVICES.items() if isinstance(device, Gpu)]
TPUS = {kind: device for kind, device in DEVICES.items() if isinstance(device, Tpu)}
FLAT = [kind for kind, tpu in TPUS.items() if tpu.shapes[0] == "1x1"]
A5000 = {"name": "A5000", "like": "3090", "memory_gib": 24, "core_count": 64}


def refusal(text: str, custom: Any = ()) -> str:
    """The one line that tells why `text` is no target."""
    with pytest.raises(InputError) as caught:
        parse(text, custom)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


@given(st.sampled_from(GPUS), st.integers(1, 1024), st.booleans())
def test_a_count_of_gpus_is_one_host_with_as_many(kind: str, count: int, upper: bool) -> None:
    name = f"{kind}:{count}"
    target = parse(f" {name.upper() if upper else name} ")
    assert target.name.lower() == name
    assert (target.platform, target.kind, target.devices) == ("cuda", kind, count)
    assert target.facts["topology"] == f"1x1x{count}"
    assert target.memory_bytes == DEVICES[kind].memory_bytes
    assert json.loads(json.dumps(target.facts)) == target.facts


@given(st.sampled_from(FLAT), st.integers(1, 16), st.integers(1, 16))
def test_a_shape_of_chips_is_a_device_for_each_on_hosts_that_fill_it(
    kind: str, x: int, y: int
) -> None:
    target = parse(f"{kind.upper()}:{x}X{y}")
    assert (target.platform, target.kind, target.devices) == ("tpu", kind, x * y)
    assert target.facts["topology_name"] == f"{kind}:{x}x{y}"
    host = target.facts["chips_per_host_bounds"]
    assert (x % host[0], y % host[1], host[2]) == (0, 0, 1)
    assert json.loads(json.dumps(target.facts)) == target.facts


@given(st.sampled_from(["v4", "v5p"]), st.lists(st.integers(1, 16), min_size=3, max_size=3))
def test_v4_and_v5p_have_three_sides(kind: str, sides: list[int]) -> None:
    shape = "x".join(map(str, sides))
    target = parse(f"{kind}:{shape}")
    assert target.devices == math.prod(sides)
    assert target.facts["topology_name"] == f"{kind}:{shape}"
    assert target.facts.get("chip_config_name") == {"v4": "megacore"}.get(kind)


@given(st.text(max_size=12))
def test_any_text_is_a_target_or_refused_in_one_line(text: str) -> None:
    try:
        target = parse(text)
    except InputError:
        refusal(text)
    else:
        assert target.devices >= 1


@pytest.mark.parametrize("kind", DEVICES)
def test_a_name_alone_is_one_gpu_or_one_chip(kind: str) -> None:
    target = parse(kind)
    assert (target.name, target.kind) == (kind, kind)
    assert target.devices == (TPUS[kind].devices_per_chip if kind in TPUS else 1)
    assert target.memory_bytes > 7 * 2**30


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_the_device_it_stands_for(alias: str) -> None:
    size = DEVICES[ALIASES[alias]].shapes[1] if ALIASES[alias] in TPUS else "2"
    target = parse(f"{alias.upper()}:{size}")
    assert target.name == f"{alias.upper()}:{size}"
    assert target.kind == ALIASES[alias]
    assert target.facts == parse(f"{ALIASES[alias]}:{size}").facts


def test_a_list_with_commas_is_several_targets() -> None:
    found = parse_all("h100:8, v5e:2x4,cpu")
    assert [target.name for target in found] == ["h100:8", "v5e:2x4", "cpu"]
    assert [target.platform for target in found] == ["cuda", "tpu", "here"]
    assert [target.devices for target in found] == [8, 8, 1]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("h10", "'h100'"),
        ("H1000:8", "'h100'"),
        ("v5", "did you mean 'v5"),
        ("rtx4070", "'rtx4070-laptop'"),
        ("cpus", "'cpu'"),
        ("", "one of rtx4070-laptop, 3090"),
        ("h100:0", "'h100:1'"),
        ("h100:-8", "'h100:8'"),
        ("h100:", "'h100:1'"),
        ("h100:2x4", "'h100:8'"),
        ("h100:8\n9", "from 1 to 1024"),
        ("h100:99999999", "'h100:1024'"),
        ("cpu:many", "'cpu:1'"),
        ("v5e:8", "'v5e:2x4'"),
        ("v5e:1", "'v5e:1x1'"),
        ("v5e:0x2", "'v5e:1x1'"),
        ("v5e:2x2x2", "'v5e:2x4'"),
        ("v5e:32x32", "'v5e:16x16'"),
        ("v6e:", "'v6e:1x1'"),
        ("v6e:2x4:2", "'v6e:4x4'"),
        ("v4:2x2", "'v4:2x2x1'"),
        ("v4:8", "'v4:2x2x2'"),
        ("v5p:wide", "'v5p:1x1x1'"),
    ],
)
def test_what_is_no_target_is_refused_in_one_line_with_the_nearest_that_is(
    text: str, valid: str
) -> None:
    message = refusal(text)
    assert message.startswith("target: ")
    assert valid in message


def test_a_list_with_a_hole_is_refused() -> None:
    with pytest.raises(InputError, match="target: unknown value ''"):
        parse_all("h100,,cpu")


def test_a_process_is_told_its_platform_before_it_imports_jax() -> None:
    assert environment("cuda") == {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    tpu = {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    assert environment("tpu").items() >= tpu.items()
    assert environment("here") == {}
    with pytest.raises(InputError, match="did you mean 'cuda'"):
        environment("cud")
    environment("tpu").clear()
    assert environment("tpu")
    script = "import sys, jaxft.planning.targets; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_only_an_absent_gpu_cannot_autotune() -> None:
    assert compiler_options(parse("h100:8")) == {"xla_gpu_autotune_level": 0}
    assert compiler_options(parse("v5e")) == compiler_options(parse("cpu")) == {}


def test_the_present_backend_is_taken_as_it_is() -> None:
    here, cpu = parse("here"), parse("CPU")
    assert here.platform == cpu.platform == "here"
    assert (here.devices, cpu.devices, cpu.memory_bytes) == (1, 1, None)
    assert devices_of(here) == jax.devices()[:1]
    stats = jax.devices()[0].memory_stats() or {}
    found = described(here)
    assert found.memory_bytes == stats.get("bytes_limit")
    assert found.facts["device_kind"] == jax.devices()[0].device_kind
    assert described(parse("h100")) == parse("h100")


def test_more_devices_than_there_are_is_one_line_that_tells_how_to_have_them() -> None:
    count = len(jax.devices()) + 7
    with pytest.raises(InputError) as caught:
        devices_of(parse(f"here:{count}"))
    message = str(caught.value)
    assert "\n" not in message
    assert f"expected 1 to {len(jax.devices())}" in message
    if jax.default_backend() == "cpu":
        assert f"XLA_FLAGS=--xla_force_host_platform_device_count={count}" in message


def test_cpu_is_refused_where_jax_runs_on_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        platform = "gpu"

    monkeypatch.setattr(jax, "devices", lambda: [Other()])
    with pytest.raises(InputError, match=r"JAX runs on gpu; expected 'here'"):
        devices_of(parse("cpu"))


@pytest.mark.parametrize(("name", "extra"), [("h100", "plan-gpu"), ("v5e", "plan-tpu")])
def test_a_missing_package_is_one_line_with_the_command_that_helps(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError) as caught:
        devices_of(parse(name))
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(f'pip install -c constraints.txt -e ".[{extra}]"')


SHAPES = ["v5e:1x2", "v5e:2x3", "v6e:8x1", "v5p:1x1x2", "v4:1x2x1", "v4:3x3x3"]
ASKED = {
    "cuda": [f"{kind}{count}" for kind in GPUS for count in ("", ":8")],
    "tpu": [f"{kind}:{shape}" for kind, tpu in TPUS.items() for shape in tpu.shapes[:5]] + SHAPES,
}
SCRIPT = """
import json, sys
from jaxft.planning.targets import devices_of, parse_all

asked, custom = json.loads(sys.argv[1])
found = {}
for target in parse_all(asked, custom):
    devices = devices_of(target)
    found[target.name] = [len(devices), len({device.id for device in devices})]
    found[target.name] += [target.devices, devices[0].device_kind]
print(json.dumps(found))
"""


@pytest.mark.parametrize("platform", [name for name in ENVIRONMENTS if name != "here"])
def test_xla_has_the_stated_number_of_devices(platform: str) -> None:
    module, extra = COMPILERS[platform]
    # scripts/test.sh makes an environment with the compilers and names its Python.
    python = os.environ.get("JAXFT_PLAN_PYTHON", sys.executable)
    has_it = f"import importlib.util as u, sys; sys.exit(not u.find_spec({module!r}))"
    if subprocess.run([python, "-c", has_it], check=False).returncode:
        pytest.skip(f"{module} is not installed; the extra {extra} has it")
    names = [*ASKED[platform], *(["a5000:2"] if platform == "cuda" else [])]
    done = subprocess.run(
        [python, "-c", SCRIPT, json.dumps([",".join(names), [A5000]])],
        cwd=ROOT,
        env={**os.environ, **environment(platform)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == names
    for name, (devices, ids, stated, kind) in found.items():
        assert devices == ids == stated, name
        if platform == "cuda":
            assert kind == known([A5000])[name.split(":")[0]].description
        else:
            # XLA's names: "TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite", "TPU7x".
            assert kind.startswith("TPU7x" if name.startswith("tpu7x") else f"TPU {name[:2]}")
            assert kind.endswith("lite") == (name[2] == "e")
