"""Every field of a grid, with a comment per line. A table starts from this and fills it in.

    python -m jaxft.sweep --config configs/tables/minilm_grid.py --config.seeds=0,1

A setting has fields of configs/base.py and, for settings of only some runs, per_task, per_method
and per_model: name -> a nested setting. In this order, later values win: the defaults of task and
method in configs/base.py, the variant, its per_task, per_method and per_model, and `overrides`.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns a grid of one run; `arg` is the text after a colon in FILE:ARG, unused here."""
    del arg
    config = ConfigDict()
    config.plugins = ()  # modules of your own to import first, e.g. ("my_method",)
    config.model = ConfigDict()
    config.model.names = ("minilm",)  # hub ids, local directories, or "minilm"
    config.tasks = ("acl",)  # acl: acl_sup; acl_fs: few-shot; restaurant_sup+laptop_sup: merged
    config.methods = ("lora",)  # names as in method.name
    config.seeds = ()  # () takes the variant's seeds, else seed 0. Seeds train together in one
    # process if they can (overrides.together)
    config.variants = ()  # names of the variants to run; () for all
    config.variant = ConfigDict()  # name -> a setting, which may have its own `seeds`
    config.overrides = ConfigDict(sections(base.get_config()))  # a setting for all runs; it wins

    # For `--launcher=slurm`; further fields are submitit's own: partition, account, qos,
    # constraint, mem_gb, setup, array_parallelism (jobs at a time), ...
    config.slurm = ConfigDict()
    config.slurm.cluster = "slurm"  # local: processes of this machine, to try it out
    config.slurm.bundles_per_job = 1  # processes of a job, one after the other: see --dry_run
    config.slurm.timeout_min = 240  # of a job; at the time limit it saves and is queued again
    config.slurm.gpus_per_node = 1  # of a job
    config.slurm.cpus_per_task = 8  # of a job
    return config


def sections(config: ConfigDict) -> dict[str, Any]:
    """The parts of a config without their fields, so that a flag may name any of them."""
    return {name: sections(x) for name, x in config.items() if isinstance(x, ConfigDict)}
