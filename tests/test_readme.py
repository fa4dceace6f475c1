"""The READMEs and the other pages: alike in three languages, and each block runs as it stands."""

import posixpath
import re
import subprocess
import sys

import pytest
from helpers import ROOT, SCRIPT, SETTINGS, demo_environment, sql

LANGUAGES = ["README.md", "docs/README.zh.md", "docs/README.ja.md"]
PAGES = [*LANGUAGES, "docs/guide.md", "docs/contributing.md"]


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def code_blocks(path):
    """Return the language and the content of each block of code."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", read(path), re.M | re.S)


def blocks(language):
    return [content for name, content in code_blocks("README.md") if name == language]


def prose(path):
    return re.sub(r"^```.*?^```$", "", read(path), flags=re.M | re.S)


def links(path):
    """Return the targets of all links, those to files as paths from the top."""
    folder = posixpath.dirname(path)
    return [
        target if "://" in target else posixpath.normpath(posixpath.join(folder, target))
        for target in re.findall(r"\]\(([^)]+)\)", prose(path))
    ]


# Three languages.

def headings(path):
    return re.findall(r"^(#+) ", prose(path), re.M)


def blocks_without_texts(path):
    # A command may load texts in the reader's language.
    texts = r"(printf|--query) (['\"]).*?\2"
    return [(name, re.sub(texts, r"\1", content)) for name, content in code_blocks(path)]


def links_of_all_languages(path):
    own = [*LANGUAGES, "docs.pingcap"]
    return [link for link in links(path) if not any(name in link for name in own)]


def columns_of_table_rows(path):
    return [row.count("|") for row in re.findall(r"^\|.*$", prose(path), re.M)]


@pytest.mark.parametrize("path", LANGUAGES[1:])
@pytest.mark.parametrize("part", [
    headings, blocks_without_texts, links_of_all_languages, columns_of_table_rows])
def test_each_language_has_the_same(part, path):
    expected = part("README.md")

    assert part(path) == expected != []


@pytest.mark.parametrize("path", LANGUAGES)
def test_the_first_lines_link_to_all_languages(path):
    first_lines = "\n".join(read(path).splitlines()[:4])

    for other in LANGUAGES:
        assert posixpath.relpath(other, posixpath.dirname(path) or ".") in first_lines


@pytest.mark.parametrize("path", PAGES)
def test_links_to_files_are_alive(path):
    files = [link for link in links(path) if "://" not in link]

    missing = [file for file in files if not (ROOT / file).exists()]

    assert files and missing == []


@pytest.mark.parametrize("path", LANGUAGES)
def test_every_setting_and_every_example_is_named(path):
    examples = sorted(ROOT.glob("examples/*.py"))
    helpers = {"__init__.py", "command_line.py", "stand_ins.py", "text_files.py"}
    jobs = [f"examples/{file.name}" for file in examples if file.name not in helpers]

    assert [name for name in SETTINGS if f"`{name}`" not in read(path)] == []
    assert [job for job in jobs if job not in links(path)] == []


# Commands and their output.

def run_command(command, folder, **settings):
    """Run a command of the README in a copy of the project; return the finished process."""
    return subprocess.run(
        command, shell=True, executable="/bin/bash", cwd=folder, text=True,
        env=demo_environment(settings), capture_output=True, timeout=120)


@pytest.fixture
def project(tmp_path):
    """A folder that looks as after the README's first command."""
    for name in ("jina_ai_embeddings_demo.py", "examples", "requirements.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = tmp_path / ".venv" / "bin"
    environment.mkdir(parents=True)
    starter = environment / "python"
    starter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    starter.chmod(0o755)
    (environment / "pip").symlink_to("/bin/true")
    return tmp_path


def test_the_shown_output_is_the_demos():
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=demo_environment(), capture_output=True, text=True)

    assert [done.stdout, done.stderr] == blocks("text")


@pytest.fixture
def commands():
    """The README's commands by their first word that tells them apart."""
    return {
        name: next(block for block in blocks("bash") if name in block)
        for name in ("own_table.py", "drop_all", "--query", "--vector-index")
    }


@pytest.mark.parametrize("name, printed", [
    ("own_table.py", "Saving"), ("drop_all", ""), ("--query", "The key is under the mat."),
    ("--vector-index", "")])
def test_a_command_runs_without_an_account(commands, project, name, printed):
    done = run_command(commands[name], project)

    assert done.returncode == 0, done.stderr
    assert printed in done.stdout


def test_start_over_drops_the_table(commands, project, on_tidb):
    first = run_command(".venv/bin/python jina_ai_embeddings_demo.py", project, **on_tidb)
    assert first.returncode == 0, first.stderr

    run_command(commands["drop_all"], project, **on_tidb)

    assert sql(on_tidb["TIDB_DATABASE_URL"], "SHOW TABLES") == []


@pytest.mark.parametrize("account", [False, True])
def test_the_block_that_imports_the_script_prints_an_answer(project, on_tidb, account):
    program = project / "program.py"
    program.write_text(blocks("python")[0], encoding="utf-8")

    settings = on_tidb if account else {}
    done = run_command(".venv/bin/python program.py", project, **settings)

    assert re.fullmatch(r"The key is under the mat\. 0\.\d+\n", done.stdout), done.stderr


def test_the_guides_program_for_a_service_prints_an_answer(project, on_tidb):
    [(language, content)] = [
        block for block in code_blocks("docs/guide.md") if block[0] == "python"]
    program = project / "program.py"
    program.write_text(content, encoding="utf-8")

    done = run_command(".venv/bin/python program.py", project, **on_tidb)

    assert re.fullmatch(
        r"\[\('The key is under the mat\.', 0\.\d+\)\]\n", done.stdout), done.stderr


# What a reader changes in the script.

def changed_script(project, old, new):
    """Put a changed copy of the script in the place of the link to it."""
    script = project / SCRIPT.name
    text = script.read_text(encoding="utf-8")
    assert text.count(old) == 1
    script.unlink()
    script.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("old, new, model, table, dimensions", [
    ('"jinaai_tidb_demo_documents"', '"notes"', "", "notes", 768),
    ("DIMENSIONS = 768", "DIMENSIONS = 1024", "jina-embeddings-v3",
     "jinaai_tidb_demo_documents_jina_embeddings_v3", 1024),
], ids=["another table", "1024 dimensions"])
def test_the_script_works_with_a_change(project, on_tidb, old, new, model, table, dimensions):
    changed_script(project, old, new)
    command = ".venv/bin/python jina_ai_embeddings_demo.py"

    done = run_command(command, project, **on_tidb, JINAAI_MODEL=model)

    assert done.stdout.count("  - Inserting: ") == 2, done.stderr
    query = f"SELECT VEC_DIMS(content_vec) FROM {table}"
    assert sql(on_tidb["TIDB_DATABASE_URL"], query) == [(dimensions,)] * 2
