"""The notebook of docs/ runs from its first cell to its last, and is committed without outputs."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebooks" / "finetune.ipynb"


@pytest.fixture
def notebook() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def output_of(notebook: NotebookNode, text: str) -> str:
    """What the cell with a text showed."""
    (cell,) = [cell for cell in notebook.cells if text in cell.source and cell.cell_type == "code"]
    return "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for output in cell.outputs
    )


def test_it_is_committed_without_outputs(notebook: NotebookNode) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count is not None] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own packages
def test_it_runs(
    notebook: NotebookNode, minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the real MiniLM, in this environment's Python."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    spec = tmp_path / "jupyter_data_dir" / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = f'["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    kernel = f'{{"argv": {argv}, "display_name": "Python 3", "language": "python"}}'
    (spec / "kernel.json").write_text(kernel)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=900, resources=resources).execute()
    assert "'macro_f1'" in output_of(notebook, "majority_accuracy")
    assert "'frozen'" in output_of(notebook, 'results["parameters"]')
    assert "lora" in output_of(notebook, "plan.table()")
    assert output_of(notebook, "classifier.predict(texts)").count("Prediction(") == 2
