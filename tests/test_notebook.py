"""The demo in a notebook, with a real kernel, and imported or copied by programs."""

import os
import re
import shutil
import subprocess
import sys
from unittest.mock import Mock

import nbformat
import pytest
from helpers import ROOT, SCRIPT, SETTINGS, demo_environment, sql
from nbclient import NotebookClient
from test_demo import tutorial_output, without_distances

from jina_ai_embeddings_demo import EmbeddingError

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
        NotebookClient(notebook, timeout=60, kernel_name="python3", allow_errors=True,
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
        "no TIDB_DATABASE_URL", "no JINAAI_API_KEY"]


@pytest.mark.parametrize("way", WAYS)
def test_settings_come_from_the_env_file_in_the_notebooks_folder(
        run_cells, way, jina, tmp_path, monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text(f"JINAAI_API_KEY={jina.key}\nJINAAI_API_URL={jina.url}\n")
    outputs = run_cells(WAYS[way])
    assert without_distances(stream(outputs, "stdout")) == tutorial_output()
    assert [len(request.texts) for request in jina.requests] == [1, 2]


def test_an_error_in_a_notebook_is_a_line_without_output(run_cells, monkeypatch):
    outputs = run_cells(["%run jina_ai_embeddings_demo.py --texts x"])
    assert [output.evalue for output in outputs if output.output_type == "error"] == ["2"]
    assert "own_texts.py" in stream(outputs, "stderr") and stream(outputs, "stdout") == ""
    monkeypatch.setenv("TIDB_DATABASE_URL", "mysql+pymysql://root@127.0.0.1:9/test")
    outputs = run_cells(WAYS["import"])
    error, = [output.evalue for output in outputs if output.output_type == "error"]
    assert error.startswith("error: JINAAI_API_KEY is not set") and "\n" not in error


@pytest.mark.parametrize("error, code", [
    (RuntimeError("a\n\r b"), "error: RuntimeError: a b"), (KeyError("a"), "error: KeyError: 'a'"),
    (MemoryError(), "error: MemoryError"), (TypeError("a"), "error: TypeError: a"),
    (FileNotFoundError(2, "no", "x"), "error: FileNotFoundError: [Errno 2] no: 'x'"),
    (ValueError("a " * 999), "error: " + "a " * 199 + "a"), (EmbeddingError("a"), "error: a"),
    (KeyboardInterrupt(), "130"), (SystemExit(3), "3")], ids=repr)
def test_main_ends_a_run_that_raises_in_a_line_or_a_status(demo, error, code):
    with pytest.raises(SystemExit) as ended:
        demo.main(Mock(side_effect=error))
    assert str(ended.value.code).rstrip(": ") == code


USES = [  # of each step, by a program that has copied it
    "question = generate_embeddings('What is TiDB?')",
    "engine = create_tidb_engine(TIDB_DATABASE_URL)\nengine.connect().close()",
    "create_table(engine)",
    "insert_documents(engine, TEXTS, embed_texts(TEXTS))\nassert new_texts(engine, TEXTS) == []",
    "[(content, distance)] = find_documents(engine, question, 1)\nassert content == TEXTS[1]"]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_steps_that_are_copied_work_alone_on_a_table_of_their_own(tmp_path, on_tidb, tidb, steps):
    copied = "".join(WAYS["cells"][:steps + 1]).replace("Document", "Note").replace(
        "jinaai_tidb_demo_documents", "notes")
    program = tmp_path / "notes.py"
    program.write_text("\n".join([copied, *USES[:steps]]), encoding="utf-8")
    undefined_names = ["-m", "ruff", "check", "-q", "--isolated", "--select", "F821", program]
    for arguments in undefined_names, ["-I", program]:  # -I: nothing beside it can be imported
        subprocess.run([sys.executable, *arguments], env=demo_environment(on_tidb), check=True)
    assert sql(tidb, "SHOW TABLES") == [("notes",)] * (steps > 2)


@pytest.mark.parametrize("module", ["jina_ai_embeddings_demo", "own_texts", "tidb_auto_embedding"])
def test_importing_neither_connects_nor_sends(run_demo, on_tidb, jina, module):
    code = f"import socket; socket.socket.connect = None; import {module}"
    path = f"{ROOT}{os.pathsep}{ROOT / 'examples'}"
    done = run_demo(code, script="-c", env={**on_tidb, "PYTHONPATH": path})
    assert (done.returncode, done.stdout + done.stderr, jina.requests) == (0, "", [])


@pytest.mark.parametrize("script, more", [
    ("jina_ai_embeddings_demo.py", []), ("examples/tidb_auto_embedding.py", []),
    ("examples/own_texts.py", ["tqdm>=4.66"])])
def test_the_inline_metadata_equals_the_requirements(script, more):
    block = (ROOT / script).read_text(encoding="utf-8").partition("# ///\n")[0]
    assert re.findall(r'"(\w\S+)"', block) == [
        *(ROOT / "requirements.txt").read_text().split(), *more]
