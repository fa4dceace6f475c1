"""The demo in a notebook, with a real kernel, and in the reader's own programs."""

import re
import shutil
import subprocess
import sys
from unittest.mock import Mock

import nbformat
import pytest
from conftest import ROOT, SCRIPT, SETTINGS, demo_environment
from nbclient import NotebookClient
from test_demo import tutorial_output, without_distances

WAYS = {  # each a list of cells
    "run": ["%run jina_ai_embeddings_demo.py"],
    "import": ["import jina_ai_embeddings_demo as demo", "demo.main()"],
    "cells": re.split(r"(?m)^(?=# %% )", SCRIPT.read_text(encoding="utf-8")),
}


@pytest.fixture
def run_cells(tmp_path):
    """Run cells in a kernel that starts beside the script; return their outputs."""
    shutil.copy(SCRIPT, tmp_path)
    def run(cells):
        notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
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
    assert [output.evalue for output in outputs if output.output_type == "error"] == ["2"]
    assert "own_texts.py" in stream(outputs, "stderr") and stream(outputs, "stdout") == ""


def test_importing_the_script_neither_connects_nor_sends(jina):
    code = "import socket; socket.socket.connect = None; import jina_ai_embeddings_demo"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True,
        env=demo_environment({"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url,
                              "TIDB_DATABASE_URL": "mysql+pymysql://root@127.0.0.1:9/test"}))
    assert (done.returncode, done.stdout, done.stderr, jina.requests) == (0, b"", b"", [])


def test_main_returns_when_it_has_printed_the_tutorials_output(jina_demo, capsys):
    assert jina_demo.main() is None
    assert without_distances(capsys.readouterr().out) == tutorial_output()


@pytest.mark.parametrize("error, code", [
    (RuntimeError("a\nb"), 1), (OSError("a"), 1), (ValueError("a"), 1), (KeyboardInterrupt(), 130)])
def test_main_ends_a_run_that_raises_with_a_status_and_a_line(demo, capsys, error, code):
    with pytest.raises(SystemExit, match=str(code)):
        demo.main(Mock(side_effect=error))
    assert len(capsys.readouterr().err.splitlines()) == (code == 1)


def test_the_inline_metadata_equals_the_requirements():
    block = re.search(r"(?ms)^# /// script$(.*?)^# ///$", SCRIPT.read_text(encoding="utf-8"))
    assert (ROOT / "requirements.txt").read_text().split() == re.findall(
        r'"(\S+?)"', block[1].partition("dependencies")[2])
