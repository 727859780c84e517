"""The notebooks run from top to bottom, what they train made smaller. 01, which trains nothing, is committed with its outputs, and must
print them again; `python tests/test_notebooks.py` writes them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SMALLER = {  # instead of the cell that is tagged as parameters
    "01_graphs": None,
    "02_ablations": 'SCENES, EPOCHS, PARTS = 60, 2, ("racg", "no_cross_graph")',
    "03_attention_and_grounding": "SCENES, EPOCHS = 60, 2",
}


def executed(name: str) -> tuple[Any, Any]:
    """A notebook as committed, and as it comes out of its kernel."""
    committed = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(committed)
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = SMALLER[name] or parameters.source
    where = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", record_timing=False, resources=where).execute()
    return committed, notebook


def printed(notebook: Any) -> list[str]:
    """Of each cell, whole: a kernel under load hands over one print in several pieces."""
    outputs = [cell.get("outputs", []) for cell in notebook.cells]
    return ["".join(output.text for output in cell if output.output_type == "stream") for cell in outputs]


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))


def test_every_notebook_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALLER)


def test_graphs() -> None:
    committed, notebook = executed("01_graphs")
    assert printed(notebook) == printed(committed)
    assert pictures(notebook) == pictures(committed) == 3


@pytest.mark.parametrize(("name", "drawn"), [("02_ablations", 0), ("03_attention_and_grounding", 3)])
def test_what_is_trained(name: str, drawn: int) -> None:
    committed, notebook = executed(name)
    assert not any(cell.get("outputs") for cell in committed.cells)  # they change with the model
    assert pictures(notebook) == drawn
    assert not [output for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]


if __name__ == "__main__":
    committed, notebook = executed("01_graphs")
    notebook.metadata = committed.metadata
    nbformat.write(notebook, FOLDER / "01_graphs.ipynb")
