"""The config files: every task takes every method, and a name of its own means the same."""

import importlib.util
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs.base import defaults_of
from jaxft.config import check_fields, check_values, config_digest, config_module
from jaxft.data.tasks import CATALOGUE
from jaxft.errors import InputError
from jaxft.peft import methods

CONFIGS = Path(__file__).parents[1] / "configs"


def load(name: str, *arguments: str) -> ConfigDict:
    """The config of a file, read as the command reads it."""
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arguments)


@pytest.mark.parametrize("task", CATALOGUE)
@pytest.mark.parametrize("method", methods.METHODS)
def test_a_task_takes_any_method(task: str, method: str) -> None:
    config = load(task, method)
    assert config.task == f"{task}_sup"
    assert config.epochs == CATALOGUE[task].epochs
    assert config.method.name == method
    assert config.optim.learning_rate == methods.find(method).learning_rate
    check_fields(config)
    check_values(config)


@pytest.mark.parametrize("task", CATALOGUE)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_config_with_a_name_of_its_own_is_the_tasks(task: str, method: str) -> None:
    assert load(f"{task}_{method}") == load(task, method)


def test_the_custom_config_takes_files_or_a_hub_dataset() -> None:
    for config in (load("custom"), load("custom", "glue_sst2")):
        assert config.task == "custom"
        check_fields(config)
        check_values(config)


def test_the_custom_config_takes_a_method_and_refuses_another_name() -> None:
    config = load("custom", "houlsby")
    assert config.method.name == "houlsby"
    assert config.optim.learning_rate == methods.find("houlsby").learning_rate
    assert load("custom", "lora") == load("custom") == defaults_of("custom", "lora")
    with pytest.raises(InputError, match=r"custom\.py: unknown value 'hulsby'.*houlsby"):
        load("custom", "hulsby")


def test_the_table_of_openllama_plans_what_the_reports_estimate() -> None:
    config = load("tables/openllama_3b")
    check_fields(config)
    check_values(config)
    assert config.memory.estimates
    assert config.memory.targets == ("h100", "a100")
    assert config.memory.methods == ("full", "lora", "houlsby")
    assert config.memory.dtypes == ("float32", "bfloat16")


def test_every_default_has_a_comment() -> None:
    defaults, _ = (CONFIGS / "base.py").read_text().split("    return config\n", 1)
    lines = defaults.splitlines()
    fields = [
        line for line in lines if line.startswith("    config.") and "ConfigDict()" not in line
    ]
    assert len(fields) > 30
    assert [line for line in fields if "  # " not in line] == []


def test_a_score_that_auto_would_choose_makes_no_other_run() -> None:
    def digest(**fields: str) -> str:
        config = config_module().get_config()
        config.update(fields)
        return config_digest(config)

    assert digest(metric="macro_f1") == digest()
    assert digest(metric="accuracy") != digest()
    regression = digest(objective="regression")
    assert len({digest(), regression, digest(objective="regression", metric="mae")}) == 3
    separated = config_module().get_config()
    separated.data.label_separator = ";"
    assert config_digest(separated) != digest()


def test_a_config_with_a_method_of_its_own_takes_no_other() -> None:
    with pytest.raises(InputError, match=r"'houlsby' after the colon.*configs/acl\.py:lora"):
        load("acl_lora", "houlsby")
