"""A table of plans has the common methods, and any other that is asked for."""

import pytest

from jaxft.config import config_module
from jaxft.errors import InputError
from jaxft.peft.methods import METHODS
from jaxft.planning import targets
from jaxft.run.plans import make_jobs

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
