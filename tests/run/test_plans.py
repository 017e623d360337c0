"""A table of plans has the common methods, and any other that is asked for; limits of memory."""

import pytest

from jaxft.config import config_module
from jaxft.errors import InputError
from jaxft.peft.methods import METHODS
from jaxft.planning import targets
from jaxft.planning.devices import DEVICES, MIB
from jaxft.run.plans import fit_limit, make_jobs

MODEL = ({"model_type": "bert", "hidden_size": 384}, [], 3)


def labels(*methods: str) -> list[str]:
    config = config_module().get_config()
    config.memory.methods = methods
    return [label for label, _ in make_jobs(config, MODEL, targets.parse("cpu"))]


def test_the_common_methods_are_planned_if_none_is_named() -> None:
    top = "lora, top 2 layers"
    assert labels() == ["full", "head", "bitfit", "lora", top, "houlsby", "pfeiffer"]


def test_any_method_is_planned_by_its_name() -> None:
    assert labels(*METHODS) == list(METHODS)
    with pytest.raises(InputError, match=r"memory\.methods: unknown value 'veera'.* 'vera'"):
        labels("veera")


def test_a_limit_is_a_size_or_what_the_device_has_beside_its_context() -> None:
    t4, h100s, cpu = (targets.parse(name) for name in ("t4", "h100:8", "cpu"))
    assert fit_limit("", t4) is None
    assert fit_limit("1.5GiB", t4) == 3 * 2**29
    assert fit_limit("1.5 GB", t4) == 1_500_000_000
    assert fit_limit("device", t4) == DEVICES["t4"].memory_bytes - 300 * MIB
    assert fit_limit("device", h100s) == DEVICES["h100"].memory_bytes - (300 + 688) * MIB
    for text in (".GiB", "GiB", "2.4.1GiB", "24", "24TiB", "-3GiB"):
        with pytest.raises(InputError, match="expected a size such as 24GiB"):
            fit_limit(text, t4)
    with pytest.raises(InputError, match="memory of 'cpu' is not known; expected a size"):
        fit_limit("device", cpu)
