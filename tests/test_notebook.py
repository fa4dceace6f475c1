"""The demo in a notebook: run, imported and pasted cell by cell, in a real kernel."""

import re
import shutil

import nbformat
import pytest
from conftest import SCRIPT, SETTINGS
from nbclient import NotebookClient
from test_demo import tutorial_output, without_distances

# Each way as a list of cells.
WAYS = {
    "run": ["%run jina_ai_embeddings_demo.py"],
    "import": ["import jina_ai_embeddings_demo as demo", "demo.main()"],
    "cells": re.split(r"(?m)^(?=# %% )", SCRIPT.read_text(encoding="utf-8")),
}


@pytest.fixture
def run_cells(tmp_path):
    """Run cells in a kernel that starts beside the script; return their outputs."""
    def run(cells):
        shutil.copy(SCRIPT, tmp_path)
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        NotebookClient(notebook, timeout=60, kernel_name="python3",
                       resources={"metadata": {"path": str(tmp_path)}}).execute()
        return [output for cell in notebook.cells for output in cell.outputs]
    return run


def stream(outputs, name):
    """Return what the cells wrote to stdout or stderr."""
    return "".join(output.get("text", "") for output in outputs if output.get("name") == name)


@pytest.mark.parametrize("way", WAYS)
def test_a_notebook_prints_the_tutorials_output_and_no_error(run_cells, way):
    outputs = run_cells(WAYS[way])
    assert without_distances(stream(outputs, "stdout")) == tutorial_output()
    assert {output.output_type for output in outputs} == {"stream"}
    assert [line.split(":")[0] for line in stream(outputs, "stderr").splitlines()] == [
        "no JINAAI_API_KEY", "no TIDB_DATABASE_URL"]


@pytest.mark.parametrize("way", WAYS)
def test_settings_come_from_the_env_file_in_the_notebooks_folder(
        run_cells, way, jina, tmp_path, monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text(f"JINAAI_API_KEY={jina.key}\nJINAAI_API_URL={jina.url}\n")
    outputs = run_cells(WAYS[way])
    assert without_distances(stream(outputs, "stdout")) == tutorial_output()
    assert [len(request.texts) for request in jina.requests] == [1, 2]


def test_an_argument_in_a_notebook_is_an_error(run_cells):
    outputs = run_cells(["%run jina_ai_embeddings_demo.py --texts x"])
    assert "examples/own_texts.py" in stream(outputs, "stderr")
    assert stream(outputs, "stdout") == ""
    assert [(output.ename, output.evalue) for output in outputs
            if output.output_type == "error"] == [("SystemExit", "2")]
