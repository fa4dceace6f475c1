"""The demo in a notebook, with a real kernel, and imported or copied by programs."""

import re
import subprocess
import sys
from itertools import groupby

import nbformat
import pytest
from helpers import (
    ROOT,
    SCRIPT,
    SETTINGS,
    demo_environment,
    sql,
    tutorial_output,
    without_distances,
)
from nbclient import NotebookClient

CELLS = re.split("^(?=# %% )", SCRIPT.read_text(encoding="utf-8"), flags=re.M)
WAYS = {  # each a list of a notebook's cells
    "%run": ["%run jina_ai_embeddings_demo.py"],
    "import": ["import jina_ai_embeddings_demo as demo", "demo.main()"],
    "cells": CELLS,
}


@pytest.fixture
def run_cells(clone):
    """Run cells in a kernel that starts in a clone; return their outputs."""

    def run(cells):
        code_cells = [nbformat.v4.new_code_cell(source) for source in cells]
        notebook = nbformat.v4.new_notebook(cells=code_cells)
        client = NotebookClient(
            notebook,
            timeout=60,
            kernel_name="python3",
            allow_errors=True,
            resources={"metadata": {"path": str(clone)}},
        )
        client.execute()
        return [output for cell in notebook.cells for output in cell.outputs]

    return run


def written(outputs, name):
    """What the cells wrote to "stdout" or "stderr"."""
    return "".join(output.text for output in outputs if output.get("name") == name)


# %% In a notebook
@pytest.mark.parametrize("cells", WAYS.values(), ids=WAYS)
def test_a_notebook_prints_the_tutorials_output(run_cells, cells):
    outputs = run_cells(cells)

    assert without_distances(written(outputs, "stdout")) == tutorial_output()
    assert {output.output_type for output in outputs} == {"stream"}
    no_url, no_key = written(outputs, "stderr").splitlines()
    assert no_url.startswith("no TIDB_DATABASE_URL")
    assert no_key.startswith("no JINAAI_API_KEY")


@pytest.mark.parametrize("cells", WAYS.values(), ids=WAYS)
def test_settings_come_from_the_env_file_in_the_notebooks_folder(
        run_cells, cells, jina, clone, monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name)
    (clone / ".env").write_text(f"JINAAI_API_KEY={jina.key}\nJINAAI_API_URL={jina.url}\n")

    outputs = run_cells(cells)

    assert without_distances(written(outputs, "stdout")) == tutorial_output()
    assert [len(request.texts) for request in jina.requests] == [1, 2]


def test_an_error_in_a_notebook_is_a_line_without_output(run_cells, monkeypatch):
    monkeypatch.setenv("TIDB_DATABASE_URL", "mysql+pymysql://root@127.0.0.1:9/test")

    outputs = run_cells(WAYS["import"])

    [error] = [output.evalue for output in outputs if output.output_type == "error"]
    assert error.startswith("error: JINAAI_API_KEY is not set")
    assert len(error.splitlines()) == 1
    assert written(outputs, "stdout") == ""


# %% In a program
USES = [  # of each step, by a program that has copied it
    "question = generate_embeddings('What is TiDB?')",
    "engine = create_tidb_engine(TIDB_DATABASE_URL)\nengine.connect().close()",
    "create_table(engine)",
    "insert_documents(engine, TEXTS, embed_texts(TEXTS))\nassert new_texts(engine, TEXTS) == []",
    "[(content, distance)] = find_documents(engine, question, 1)\nassert content == TEXTS[1]",
]


def number_of_step(cell):
    """The number in "# %% Step 2 in detail: ...", or "" for other cells."""
    title = re.match(r"# %% Step (\d)", cell)
    return title[1] if title else ""


def steps_of_the_script():
    """The imports, and then each step with its details."""
    groups = ["".join(cells) for _, cells in groupby(CELLS, number_of_step)]
    return groups[:6]


@pytest.mark.parametrize("last", [1, 2, 3, 4, 5])
def test_steps_that_are_copied_work_alone_on_a_table_of_their_own(
        tmp_path, on_tidb, tidb, last):
    copied = "".join(steps_of_the_script()[:last + 1])
    renamed = copied.replace("Document", "Note").replace("jinaai_tidb_demo_documents", "notes")
    program = tmp_path / "notes.py"
    program.write_text("\n".join([renamed, *USES[:last]]), encoding="utf-8")

    # -I: nothing beside the program can be imported.
    done = subprocess.run(
        [sys.executable, "-I", program],
        env=demo_environment(on_tidb),
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert sql(tidb, "SHOW TABLES") == ([("notes",)] if last >= 3 else [])


def test_no_step_uses_a_name_that_comes_later(tmp_path):
    files = []
    for last in range(1, 6):
        file = tmp_path / f"steps_1_to_{last}.py"
        file.write_text("".join(steps_of_the_script()[:last + 1]), encoding="utf-8")
        files.append(file)

    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821"]
    done = subprocess.run([*command, *files], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("[a-z]*.py"))


def test_importing_neither_connects_nor_sends(run_demo, on_tidb, jina):
    modules = ["jina_ai_embeddings_demo", *(f"examples.{name}" for name in EXAMPLES)]
    code = "import socket; socket.socket.connect = None; import " + ", ".join(modules)

    done = run_demo(code, script="-c", env={**on_tidb, "PYTHONPATH": str(ROOT)})

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert jina.requests == []


def requirements(path):
    """The requirements in a requirements.txt."""
    return (ROOT / path).read_text(encoding="utf-8").split()


def inline_requirements(path):
    """The requirements in the lines for `uv run` at the top of a script, if it has some."""
    source = (ROOT / path).read_text(encoding="utf-8")
    block = re.match("# /// script\n(.*?)# ///\n", source, re.S)
    return re.findall(r'"(\w\S+)"', block[1]) if block else []


def test_uv_run_installs_the_requirements_of_the_script():
    assert inline_requirements(SCRIPT.name) == requirements("requirements.txt")


UV_EXAMPLES = [
    f"examples/{name}.py" for name in EXAMPLES if inline_requirements(f"examples/{name}.py")]


@pytest.mark.parametrize("path", UV_EXAMPLES)
def test_uv_run_installs_an_examples_requirements_in_the_same_versions(path):
    needed = requirements("requirements.txt")
    optional = requirements("examples/requirements.txt")

    inline = inline_requirements(path)

    assert inline[:len(needed)] == needed
    assert set(inline[len(needed):]) <= set(optional)
