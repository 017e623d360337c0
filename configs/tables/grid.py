"""Every field of a grid, a comment a line. A table takes this and fills it in.

    python -m jaxft.sweep --config configs/tables/minilm_grid.py --config.seeds=0,1

A setting is fields of configs/base.py, and beside them, where it holds for some cells only,
per_task, per_method and per_model: name -> a setting again. The later of these wins: the defaults
of task and method in configs/base.py, the variant, its per_task, per_method and per_model, and
`overrides`.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns a grid of one cell; `arg` is what follows a colon behind the file's name."""
    del arg
    config = ConfigDict()
    config.plugins = ()  # modules of your own to import first, e.g. ("my_method",)
    config.model = ConfigDict()
    config.model.names = ("minilm",)  # hub ids, local directories, or "minilm"
    config.tasks = ("acl",)  # acl: acl_sup; acl_fs: few-shot; restaurant_sup+laptop_sup: merged
    config.methods = ("lora",)  # names as in method.name
    config.seeds = ()  # a cell each; () for the variant's own seeds, else seed 0; where they can
    # train together they do, in one process (overrides.together)
    config.variants = ()  # names of those below that are run; () for all
    config.variant = ConfigDict()  # name -> a setting, with `seeds` of its own if it has some
    config.overrides = ConfigDict(sections(base.get_config()))  # a setting for all cells; it wins

    # What `--launcher=slurm` asks for; further fields are submitit's own: partition, account, qos,
    # constraint, mem_gb, setup, array_parallelism (jobs at a time), ...
    config.slurm = ConfigDict()
    config.slurm.cluster = "slurm"  # local: submitit's own processes on this machine, to try it
    config.slurm.bundles_per_job = 1  # processes of a job, one after the other: see --dry_run
    config.slurm.timeout_min = 240  # of a job; one that runs out of it saves and is queued again
    config.slurm.gpus_per_node = 1  # of a job
    config.slurm.cpus_per_task = 8  # of a job
    return config


def sections(config: ConfigDict) -> dict[str, Any]:
    """The parts of a config without their fields, so that a flag may name any of them."""
    return {name: sections(x) for name, x in config.items() if isinstance(x, ConfigDict)}
