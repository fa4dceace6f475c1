"""The README in three languages: equal in substance, with snippets of the script that run."""

import ast
import posixpath
import re
import subprocess
import sys

import nbclient
import nbformat
import pytest
from conftest import ROOT, SCRIPT, SETTINGS, demo_environment

LANGUAGES = ["README.md", "docs/README.zh.md", "docs/README.ja.md"]
EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("examples/*.py"))


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def code_blocks(path):
    """Return (language, content) of each code block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", read(path), re.M | re.S)


def prose(path):
    return re.sub(r"^```.*?^```$", "", read(path), flags=re.M | re.S)


def links(path):
    """Return the targets of all links, those to files as paths from the top."""
    targets = re.findall(r"\]\(([^)]+)\)", prose(path))
    return [target if "://" in target
            else posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            for target in targets]


def snippets():
    """Return the first block, which imports the script, and those of its steps."""
    first, *steps = [content for language, content in code_blocks("README.md")
                     if language == "python"]
    return first, steps


# Three languages.

def headings(path):
    return re.findall(r"^(#+) ", prose(path), re.M)


def comparable_blocks(path):
    # A diagram may be labelled in the reader's language, but has the same nodes and arrows.
    return [(language, re.sub(r"\[[^](]*\]|\|[^|]*\|", "", content) if language == "mermaid"
             else content) for language, content in code_blocks(path)]


def links_but_to_languages(path):
    return [link for link in links(path) if link not in LANGUAGES]


def table_rows(path):
    return [row.count("|") for row in re.findall(r"^\|.*$", prose(path), re.M)]


@pytest.mark.parametrize("path", LANGUAGES[1:])
@pytest.mark.parametrize("part", [headings, comparable_blocks, links_but_to_languages, table_rows])
def test_each_language_has_the_same(part, path):
    assert part(path) == part("README.md") != []


@pytest.mark.parametrize("path", LANGUAGES)
def test_the_first_lines_link_to_all_languages(path):
    first = "\n".join(read(path).splitlines()[:4])
    for other in LANGUAGES:
        assert posixpath.relpath(other, posixpath.dirname(path) or ".") in first


@pytest.mark.parametrize("path", LANGUAGES)
def test_relative_links_lead_to_files(path):
    files = [link for link in links(path) if "://" not in link]
    assert files and all((ROOT / file).exists() for file in files)


@pytest.mark.parametrize("path", LANGUAGES)
def test_every_setting_and_example_is_told_in_at_most_380_lines(path):
    for name in SETTINGS:
        assert f"`{name}`" in read(path)
    for example in EXAMPLES:
        assert example in links(path)
    assert len(read(path).splitlines()) <= 380


# Snippets.

def test_each_step_has_a_snippet_of_the_scripts_own_lines_in_their_order():
    script = [line.strip() for line in read(SCRIPT.name).splitlines()]
    steps = snippets()[1]
    assert len(steps) == 5
    for snippet in steps:
        lines, position = snippet.splitlines(), 0
        assert len(lines) <= 25 and lines[0].startswith(("from ", "import "))
        for line in lines:
            if line.strip() and not line.startswith(("from ", "import ")):
                position = script.index(line.strip(), position)  # raises ValueError if not there


def run_cells(cells, folder, **settings):
    """Run *cells* in a Jupyter kernel, where __file__ does not exist; return what they print."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in [
        f"import sys; sys.path.append({str(ROOT)!r})", *cells]])
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3")
    client.execute(cwd=str(folder), env=demo_environment(settings))
    return "".join(output["text"] for cell in notebook.cells for output in cell.outputs
                   if output.get("name") == "stdout")


def test_the_block_that_imports_the_script_prints_an_answer(jina, tidb, tmp_path):
    printed = run_cells([snippets()[0]], tmp_path, JINAAI_API_KEY=jina.key,
                        JINAAI_API_URL=jina.url, TIDB_DATABASE_URL=tidb)
    assert printed.startswith("The key is under the mat. 0.")


def test_the_steps_pasted_in_a_row_into_a_kernel_give_the_tutorials_answer(jina, tidb, tmp_path):
    printed = run_cells(snippets()[1], tmp_path, JINAAI_API_KEY=jina.key, JINAAI_API_URL=jina.url,
                        TIDB_DATABASE_URL=tidb)
    assert re.fullmatch(r"  - distance: 0\.\d+\n    content: TiDB is an open-source .*\n", printed)


@pytest.mark.parametrize("step", range(5))
def test_each_step_pasted_alone_into_a_file_runs(step, jina, tmp_path):
    (tmp_path / "pasted.py").write_text(snippets()[1][step], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "pasted.py"], cwd=str(tmp_path), capture_output=True, text=True,
        env=dict(demo_environment({"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url}),
                 PYTHONPATH=str(ROOT)))
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr


def test_the_shown_output_is_the_demos():
    done = subprocess.run([sys.executable, str(SCRIPT)], env=demo_environment(),
                          capture_output=True, text=True)
    assert ("text", done.stdout) in code_blocks("README.md")


# Errors.

def error_lines():
    """Yield the longest constant part of every error message and piece of advice in the scripts."""
    for script in SCRIPT.name, "examples/own_texts.py":
        tree = ast.parse(read(script))
        for node in ast.walk(tree):
            names = "ValueError", "EmbeddingError", "exit"
            if isinstance(node, ast.Call) and node.args and getattr(
                    node.func, "id", getattr(node.func, "attr", None)) in names:
                parts = getattr(node.args[-1], "values", [node.args[0], node.args[-1]])
                yield max((part.value for part in parts if isinstance(part, ast.Constant)
                           and isinstance(part.value, str)), key=len, default="")
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ADVICE":
                yield from (value.value for value in node.value.values)


@pytest.mark.parametrize("path", LANGUAGES)
def test_every_error_line_of_the_scripts_is_in_the_table(path):
    table = " ".join(re.findall(r"^\| `.*", prose(path), re.M))
    lines = [line for line in error_lines() if len(line) > 5]
    assert len(lines) >= 20
    for line in lines:
        clause = re.split(r"[;:,(]", line.replace("error: ", "").strip(" ;:(,"))[0].strip()
        assert clause in table, line
