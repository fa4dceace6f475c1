"""The README in three languages: equal in substance, and with snippets that are the script's."""

import ast
import builtins
import posixpath
import re
import subprocess
import sys

import pytest
from conftest import ROOT, SCRIPT, SETTINGS, demo_environment
from jina_server import cosine_distance, embedding_of

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


def snippets(path="README.md"):
    return [content for language, content in code_blocks(path) if language == "python"]


# Three languages.

@pytest.mark.parametrize("path", LANGUAGES[1:])
def test_the_headings_are_as_many_and_in_the_same_order(path):
    def levels(path):
        return re.findall(r"^(#+) ", prose(path), re.M)

    assert levels(path) == levels("README.md")
    steps = re.findall(r"^### \D*(\d)", prose(path), re.M)
    assert steps == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("path", LANGUAGES[1:])
def test_the_code_blocks_are_the_same(path):
    def comparable(path):
        # A diagram may be labelled in the reader's language, but has the same nodes and arrows.
        return [(language, re.sub(r"\[[^](]*\]|\|[^|]*\|", "", content) if language == "mermaid"
                 else content) for language, content in code_blocks(path)]

    assert comparable(path) == comparable("README.md")


@pytest.mark.parametrize("path", LANGUAGES[1:])
def test_the_links_are_the_same(path):
    others = set(LANGUAGES)  # the first lines link to the languages, each from its own place
    assert [link for link in links(path) if link not in others] == [
        link for link in links("README.md") if link not in others]


@pytest.mark.parametrize("path", LANGUAGES[1:])
def test_the_tables_have_the_same_rows(path):
    def table_rows(path):
        return [row.count("|") for row in re.findall(r"^\|.*$", prose(path), re.M)]

    assert table_rows(path) == table_rows("README.md")


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
def test_every_setting_and_example_is_told(path):
    for name in SETTINGS:
        assert f"`{name}`" in read(path)
    for example in EXAMPLES:
        assert example in links(path)


# Snippets.

def test_each_snippet_is_in_the_script_line_for_line():
    script = read(SCRIPT.name)
    assert len(snippets()) >= 5
    position = 0
    for snippet in snippets():
        position = script.find(snippet, position)
        assert position >= 0, snippet


def test_the_snippets_cover_all_five_steps():
    script = read(SCRIPT.name)
    for step in re.findall(r"(?ms)^# ---- Step \d.*?$(.*?)(?=^# ----)", script):
        for definition in re.findall(r"(?m)^(?:def|class) (\w+)", step):
            assert any(f" {definition}(" in snippet for snippet in snippets()), definition


def bound_and_used(section):
    """Return the names that a section of the script binds, and those that it uses."""
    tree = ast.parse(section)
    bound, used = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(name.asname or name.name).split(".")[0] for name in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.ExceptHandler):
            bound.add(node.name)
        elif isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
    return bound, used - set(dir(builtins)) - {"__file__"}


def test_each_step_imports_what_it_uses_and_takes_only_definitions_from_those_before():
    defined = set()
    sections = re.split(r"(?m)^# ---- .*$", read(SCRIPT.name))
    for section in sections[1:6]:
        bound, used = bound_and_used(section)
        assert used <= bound | defined, used - bound - defined
        defined |= {name for name in bound if re.search(
            rf"(?m)^(?:def |class ){name}\b|^(?:\w+, )*{name}\b[^=\n]* = ", section)}


def test_the_snippets_run_in_a_row_as_a_user_pastes_them(tmp_path, jina):
    pasted = tmp_path / "pasted.py"
    pasted.write_text("\n\n".join(snippets()) + """

import sys
sys.path.insert(0, sys.argv[1])
from jina_ai_embeddings_demo import create_stand_in_engine

engine = create_stand_in_engine()
create_table(engine)
print(store_texts(engine, TEXTS) == TEXTS, store_texts(engine, TEXTS))
print(find_documents(engine, generate_embeddings("What is TiDB?"), 1))
""", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(pasted), str(ROOT)], capture_output=True, text=True,
        env=demo_environment({"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url}))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    stored, found = done.stdout.splitlines()
    assert stored == "True []"
    (content, distance), = ast.literal_eval(found)
    assert content.startswith("TiDB is an open-source")
    assert distance == pytest.approx(
        cosine_distance(embedding_of("What is TiDB?"), embedding_of(content)), abs=1e-6)


def test_the_shown_output_is_the_demos(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT)], env=demo_environment(),
                          capture_output=True, text=True)
    assert ("text", done.stdout) in code_blocks("README.md")


# Errors.

def error_lines():
    """Yield the longest constant part of every error message in the script."""
    tree = ast.parse(read(SCRIPT.name))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args
             and getattr(node.func, "id", getattr(node.func, "attr", None))
             in ("ValueError", "EmbeddingError", "SystemExit", "error")]
    for call in calls:
        message = call.args[0]
        parts = message.values if isinstance(message, ast.JoinedStr) else [message]
        yield max((part.value for part in parts if isinstance(part, ast.Constant)), key=len)


@pytest.mark.parametrize("path", LANGUAGES)
def test_every_error_line_of_the_script_is_in_the_table(path):
    table = " ".join(re.findall(r"^\| `(.*?)` \|", prose(path), re.M))
    lines = list(error_lines())
    assert len(lines) >= 13
    for line in lines:
        clause = re.split(r"[;:,(]", line.replace("error: ", "").strip(" ;:(,"))[0].strip()
        assert clause in table, line
    for advice in ("check TIDB_DATABASE_URL and run again to go on",
                   "this is not TiDB, or older than 8.4"):
        assert advice in table and advice in read(SCRIPT.name)
