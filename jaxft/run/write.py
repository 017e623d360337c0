"""The files of a finished run: trained parameters, predictions, results, plots and the model card.

finish(setup, member, results, leaves, test_logits_NxC)       # DONE comes last
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from jaxft.config import to_json
from jaxft.data import checks
from jaxft.distributed import processes
from jaxft.io import replace_text, write_json, write_jsonl
from jaxft.models import hub
from jaxft.models import trained as trained_files
from jaxft.reporting import facts, hparams, model_card, sealed, tables
from jaxft.reporting.schema import RunResults
from jaxft.run import build
from jaxft.run.scores import predictions
from jaxft.run.setup import Setup
from jaxft.training import loop, mesh
from jaxft.training.step import Params


def finish(
    setup: Setup,
    member: loop.Member,
    results: dict[str, Any],
    leaves: Params,
    test_logits_NxC: np.ndarray,
) -> None:
    """Writes a run's results, its leaves and its predictions; DONE comes last.

    Args:
      leaves: the trained parameters, and the frozen ones that the checkpoint lacks.
    """
    arrays = {path: mesh.fetch(x) for path, x in leaves.items()}
    workdir, env = member.workdir, setup.env
    with processes.error_barrier():
        if processes.is_writer():
            write_trained(workdir, arrays, setup)
            write_predictions(workdir, test_logits_NxC, setup)
            predicted = setup.objective.predicted(test_logits_NxC)
            write_report(workdir, results, env["command"], setup.data["test"].labels, predicted)
            member.log.write_result(hparams.settings(results), hparams.scores(results))
            sealed.seal(workdir)
    print("\n" + tables.result_table(results))
    print(f"\nrun directory: {workdir}")


def write_trained(workdir: Path, trained: dict[str, np.ndarray], setup: Setup) -> None:
    """Writes the trained parameters, with everything that prediction needs.

    Full fine-tuning writes a whole model, which does not need the one it started from.
    """
    config, env, dataset = to_json(setup.config), setup.env, setup.dataset
    is_pair = any(example.pair is not None for example in dataset.test)
    eval_layout = setup.loop_config.eval_layout
    settings = {
        "task": setup.config.task,
        "labels": dataset.labels,
        "objective": setup.objective.name,
        "baseline": setup.objective.baseline(setup.data["train"].labels, dataset.labels),
        "pair": is_pair,
        "columns": build.columns_of(setup.config, is_pair),
        "label_separator": setup.config.data.label_separator,
        "method": {**config["method"], **setup.parts.model.applied.settled},
        "plugins": config["plugins"],
        # Prediction computes new texts, so no layer's outputs are kept.
        "base_model": {**config["model"], "keep_frozen": False, "sha256": env["model_sha256"]},
        "buckets": setup.loop_config.buckets,
        "max_length": setup.config.data.max_length,
        "eval_batch_size": setup.loop_config.eval_batch_size,
        "eval_layout": eval_layout and asdict(eval_layout),
        "weights_sha256": env["weights_sha256"],
    }
    folder = workdir / build.trained_folder(setup.config.method.name)
    trained_files.save(folder, trained, settings)
    if setup.config.method.name == "full":
        hub.copy_description(setup.parts.directory, folder)


def write_predictions(workdir: Path, logits_NxC: np.ndarray, setup: Setup) -> None:
    """Writes predictions_test.jsonl, in the order of the test split."""
    dataset = setup.dataset
    rows = predictions(logits_NxC, dataset.test, dataset.labels, setup.objective)
    seen = [checks.seen_in(dataset, split) for split in ("train", "dev")]
    marked = [
        {**row, "in_train": in_train, "in_dev": in_dev}
        for row, in_train, in_dev in zip(rows, *seen, strict=True)
    ]
    write_jsonl(workdir / "predictions_test.jsonl", marked)


def write_report(
    workdir: Path,
    results: dict[str, Any],
    command: str,
    targets: np.ndarray,
    predicted: np.ndarray,
) -> None:
    """Writes results.json, the plots and the model card.

    Args:
      targets, predicted: of the test split, as the objective has them.
    """
    # Imported here: it takes half a second, and a command that starts draws nothing yet.
    from jaxft.reporting import figures_of_test, plots

    write_json(workdir / "results.json", results)
    folder = workdir / "plots"
    folder.mkdir(exist_ok=True)
    title = f"{results['task']}, {results['model']}, {results['method']}"
    plots.learning_curves(
        results["history"],
        folder / "learning_curves.png",
        title=title,
        selected=results["selected_epoch"],
        metrics=facts.shown_metrics(cast(RunResults, results)),
        baseline="majority class" if results["plot"] == "confusion" else results["baseline"],
        loss_name=results["loss_name"],
    )
    figures_of_test.draw(results, folder, targets, predicted, title=title)
    replace_text(workdir / "README.md", model_card.model_card(results, command=command))
