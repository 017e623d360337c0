"""From a table to settings: what wins over what, flags that give a config back, bad tables."""

import importlib
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict

from configs.tables import grid
from jaxft import cli
from jaxft.config import config_module, flags_of
from jaxft.errors import InputError
from jaxft.sweeping.expand import Setting, expand

TABLES = ("minilm_grid", "course_full", "course_adapters", "few_shot")
ROOT = Path(__file__).parents[2]


def table(**fields: object) -> ConfigDict:
    """A grid of LoRA on ACL-ARC, unless told otherwise."""
    config = grid.get_config()
    config.seeds = (0,)
    with config.unlocked():
        for name, value in fields.items():
            if name in config:
                del config[name]  # another type may come
            config[name] = ConfigDict(value) if isinstance(value, dict) else value
    return config


def one(**fields: object) -> Setting:
    (setting,) = expand(table(**fields))
    return setting


def read_back(config: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> ConfigDict:
    """The config that jaxft.train makes of a run's flags."""
    seed = f"--config.seed={config.seed}"
    argv = ["train", f"--config={ROOT / 'configs/base.py'}", *flags_of(config), seed]
    monkeypatch.setattr(sys, "argv", argv)
    return cli.parse_config_command(argv, flags.FlagValues())


@pytest.mark.parametrize("name", TABLES)
def test_the_flags_of_a_cell_give_its_config_back(name: str, monkeypatch) -> None:
    settings = expand(importlib.import_module(f"configs.tables.{name}").get_config())
    names = {setting.variant for setting in settings}
    for setting in [settings[0], settings[-1], *(s for s in settings if s.variant in names)][:4]:
        assert read_back(setting.config, monkeypatch).to_dict() == setting.config.to_dict()


def test_so_do_values_that_a_shell_or_a_parser_could_take_for_others(monkeypatch) -> None:
    config = one(
        overrides={
            "method": {"targets": ("query", "layer/[01]/.*,x"), "layers": (-1,), "dropout": 0},
            "data": {"dir": "a dir/with 'quotes'", "labels": ("007", "null"), "hub": "1e3"},
        }
    ).config
    again = read_back(config, monkeypatch)
    assert again.to_dict() == config.to_dict()
    assert again.data.labels == ("007", "null")
    assert type(again.method.dropout) is float


def test_the_number_of_cells_of_each_table() -> None:
    counts = {
        name: len(expand(importlib.import_module(f"configs.tables.{name}").get_config()))
        for name in TABLES
    }
    # models x tasks x methods x variants x seeds
    assert counts == {
        "minilm_grid": 3 * 6 * 3,
        "course_full": 3 * 3 * 3 * 5,
        "course_adapters": 2 * 3 * 2 * 3 * 5,
        "few_shot": 3 * 3 * 3 * 2 * 5,
    }


def test_a_report_is_repeated_as_it_was() -> None:
    settings = expand(importlib.import_module("configs.tables.course_full").get_config())
    config = next(s.config for s in settings if s.variant == "report_d")
    assert (config.epochs, config.batch_size, config.seed) == (3, 128, 347913)
    assert (config.optim.learning_rate, config.optim.weight_decay) == (2e-5, 0.01)
    seeds = {s.seed for s in settings if s.variant == "report_e"}
    assert seeds == {123, 234, 345, 456, 567}


def test_every_row_has_its_first_seed_before_any_has_its_second() -> None:
    runs = expand(table(methods=("lora", "full"), seeds=(7, 3)))
    assert [(c.method, c.seed) for c in runs] == [
        ("lora", 7),
        ("full", 7),
        ("lora", 3),
        ("full", 3),
    ]


def test_the_later_setting_wins_and_the_overrides_last() -> None:
    variant = {
        "epochs": 1,
        "batch_size": 1,
        "eval_batch_size": 1,
        "patience": 1,
        "save_every": 1,
        "per_task": {
            "acl": {
                "batch_size": 2,
                "eval_batch_size": 2,
                "patience": 2,
                "save_every": 2,
                "per_method": {"lora": {"save_every": 22}, "full": {"save_every": 99}},
            },
            "agnews": {"batch_size": 99},
        },
        "per_method": {"lora": {"eval_batch_size": 3, "patience": 3}},
        "per_model": {"minilm": {"patience": 4}, "roberta-base": {"patience": 99}},
    }
    config = one(variant={"v": variant}, overrides={"epochs": 5}).config
    assert config.epochs == 5
    assert config.batch_size == 2
    assert config.save_every == 22
    assert config.eval_batch_size == 3
    assert config.patience == 4
    assert config.optim.learning_rate == 1e-3  # of the method, in configs/base.py
    assert config.optim.warmup == 0.06


def test_tasks_have_short_names_and_may_be_merged() -> None:
    tasks = ("acl", "acl_fs", "restaurant_sup+laptop_sup")
    runs = expand(table(tasks=tasks, overrides={"per_task": {"acl": {"epochs": 2}}}))
    assert [c.task for c in runs] == ["acl_sup", "acl_fs", "restaurant_sup,laptop_sup"]
    assert [c.config.epochs for c in runs] == [2, 2, 10]


@pytest.mark.parametrize(
    "name", ["restaurant+laptop", "restaurant_sup+laptop", "restaurant_sup+laptop_sup"]
)
def test_a_setting_of_merged_tasks_goes_by_any_name_of_theirs(name: str) -> None:
    overrides = {"per_task": {name: {"epochs": 2}}, "method": {"layers": -1}}
    (run,) = expand(table(tasks=("restaurant+laptop",), overrides=overrides))
    assert run.config.epochs == 2
    assert run.config.method.layers == (-1,)  # one number of a field that takes several


def test_seeds_of_the_table_win_over_those_of_a_variant() -> None:
    variant = {"a": {"seeds": (5, 6)}, "b": {}}
    assert [(c.variant, c.seed) for c in expand(table(variant=variant, seeds=()))] == [
        ("a", 5),
        ("b", 0),
        ("a", 6),
    ]
    runs = expand(table(variant=variant, variants=("b", "a"), seeds=(1,)))
    assert [(c.variant, c.seed) for c in runs] == [("b", 1), ("a", 1)]


def test_names_may_come_in_one_string_as_a_flag_gives_them() -> None:
    runs = expand(table(methods=("full,lora",), tasks=("acl,agnews",)))
    assert {(c.task, c.method) for c in runs} == {
        (task, method) for task in ("acl_sup", "agnews_sup") for method in ("full", "lora")
    }


WRONG = [
    ({"methods": ("lroa",)}, "config.methods: unknown value 'lroa'", "did you mean 'lora'"),
    ({"tasks": ("alc",)}, "'alc", "did you mean 'acl"),
    ({"tasks": ()}, "config.tasks: empty", ""),
    ({"tsks": ("acl",)}, "config.tsks: no such field", "did you mean 'tasks'"),
    ({"seeds": (0, -1)}, "config.seeds: -1", "0 to 2**32 - 1"),
    ({"seeds": ("one",)}, "config.seeds: 'one'", ""),
    ({"seeds": (1, 1)}, "config.seeds: a seed is listed twice", ""),
    ({"tasks": ("acl", "acl_sup")}, "config.tasks: a name is listed twice", ""),
    ({"methods": ("lora,lora",)}, "config.methods: a name is listed twice", ""),
    ({"overrides": {"epocs": 1}}, "config.overrides.epocs: no such", "did you mean 'epochs'"),
    ({"overrides": {"optim": {"clp": 1.0}}}, "overrides.optim.clp", "did you mean 'optim.clip'"),
    ({"overrides": {"per_methd": {}, "epochs": 0}}, "epochs: 0", ""),
    (
        {"overrides": {"seed": 1}},
        "config.overrides.seed: the grid sets this field",
        "see config.seeds",
    ),
    (
        {"overrides": {"optim": {"learning_rates": (1e-3,)}}},
        "the grid sets this field",
        "config.variant",
    ),
    (
        {"overrides": {"method": {"name": "full"}}},
        "method.name: the grid sets this field",
        "config.methods",
    ),
    ({"overrides": {"epochs": "ten"}}, "config.epochs: 'ten'", "expected int"),
    ({"overrides": {"per_method": {"lroa": {}}}}, "per_method", "did you mean 'lora'"),
    ({"overrides": {"per_task": {"agnew": {}}}}, "per_task", "did you mean 'agnews"),
    ({"variant": {"a": {"per_task": {"acl": {"x": 1}}}}}, "config.variant.a.per_task.acl.x", ""),
    ({"variant": {"tuned": {}}, "variants": ("tund",)}, "config.variants", "'tuned'"),
    ({"overrides": 3}, "config.overrides: 3; expected fields", ""),
    ({"overrides": {"per_task": 3}}, "config.overrides.per_task: 3; expected fields", ""),
    ({"overrides": {"per_task": {"acl": 3}}}, "overrides.per_task.acl: 3; expected fields", ""),
    ({"variant": {"a": 3}}, "config.variant.a: 3; expected fields", ""),
]


@pytest.mark.parametrize(("fields", "said", "hint"), WRONG, ids=[said for _, said, _ in WRONG])
def test_a_wrong_table_is_told_in_one_line(fields: dict, said: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        expand(table(**fields))
    assert said in str(caught.value)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_of_one_run_is_no_table() -> None:
    with pytest.raises(InputError, match="the config of one run"):
        expand(config_module("acl_lora.py").get_config())
