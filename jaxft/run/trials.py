"""The runs that a config asks for: every seed with every learning rate, together or one by one.

for trial in trials(config):
    path = directory(config, Path("runs/{seed}"), trial)
"""

from itertools import product
from pathlib import Path

from ml_collections import ConfigDict

from jaxft.config import default_workdir
from jaxft.errors import InputError, check_choice
from jaxft.training.trials import Trial


def trials(config: ConfigDict) -> list[Trial]:
    """Every seed of a config with every learning rate."""
    seeds = config.seeds or (config.seed,)
    rates = [float(x) for x in config.optim.learning_rates] or [config.optim.learning_rate]
    return [Trial(*own) for own in product(seeds, rates)]


def rates_differ(config: ConfigDict) -> bool:
    """Whether a step takes the learning rate of each run as an argument."""
    return len(config.optim.learning_rates) > 1


def are_together(config: ConfigDict, runs: int) -> bool:
    """Whether this number of runs train in one step rather than one after the other.

    Raises:
      InputError: `together` is "on", but they cannot.
    """
    check_choice(config.together, ("auto", "on", "off"), "together")
    if runs == 1 or config.together == "off":
        return False
    if config.together == "auto":
        # Runs of full fine-tuning share nothing, so it would save neither memory nor time.
        return config.method.name != "full" and not config.patience and fits_mesh(config, runs)
    if config.patience:
        raise InputError(
            "together: 'on' needs patience=0, because with patience each run stops at another epoch"
        )
    if not fits_mesh(config, runs):
        raise InputError(f"mesh.seeds: {config.mesh.seeds} does not divide the {runs} runs")
    return True


def fits_mesh(config: ConfigDict, seeds: int) -> bool:
    return seeds % config.mesh.seeds == 0


def trial_config(config: ConfigDict, trial: Trial) -> ConfigDict:
    """The config of one trial's run, as if it had been given alone."""
    own = config.copy_and_resolve_references()
    own.seed, own.seeds = trial.seed, ()
    own.optim.learning_rate, own.optim.learning_rates = trial.learning_rate, ()
    return own


def directory(config: ConfigDict, workdir: Path | None, trial: Trial) -> Path:
    """A trial's run directory: --workdir with its {seed} and {learning_rate}, or a subdirectory.

    Raises:
      InputError: --workdir names one of them, and several runs differ in the other.
    """
    if workdir is None:
        return default_workdir(trial_config(config, trial))
    own = (
        ("{seed}", "seed", trial.seed, config.seeds),
        ("{learning_rate}", "lr", trial.learning_rate, config.optim.learning_rates),
    )
    path = str(workdir)
    if not any(mark in path for mark, *_ in own):
        return workdir / "-".join(f"{name}-{value}" for _, name, value, values in own if values)
    for mark, _, value, values in own:
        if len(values) > 1 and mark not in path:
            raise InputError(
                f"--workdir: {workdir} is the same for {len(values)} runs; expected {mark} in it"
            )
        path = path.replace(mark, str(value))
    return Path(path)
