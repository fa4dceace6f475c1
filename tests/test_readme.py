"""The README in three languages: equal in substance, and every block of it runs as it stands."""

import posixpath
import re
import subprocess
import sys

import pytest
from helpers import ROOT, SCRIPT, SETTINGS, demo_environment, sql
from jina_server import status

LANGUAGES = ["README.md", "docs/README.zh.md", "docs/README.ja.md"]
EXAMPLES = ["examples/own_texts.py", "examples/tidb_auto_embedding.py",
            "examples/weaviate_jinaai.py"]


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def code_blocks(path):
    """Return (language, content) of each code block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", read(path), re.M | re.S)


def blocks(language):
    return [content for name, content in code_blocks("README.md") if name == language]


def prose(path):
    return re.sub(r"^```.*?^```$", "", read(path), flags=re.M | re.S)


def links(path):
    """Return the targets of all links, those to files as paths from the top."""
    targets = re.findall(r"\]\(([^)]+)\)", prose(path))
    return [target if "://" in target
            else posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            for target in targets]


# Three languages.

def headings(path):
    return re.findall(r"^(#+) ", prose(path), re.M)


def blocks_without_texts(path):
    # A command may load example texts in the reader's language.
    return [(language, re.sub(r"(printf|--query) (['\"]).*?\2", r"\1", content))
            for language, content in code_blocks(path)]


def links_but_to_languages_and_the_tutorial(path):
    return [link for link in links(path) if link not in LANGUAGES and "docs.pingcap" not in link]


def table_rows(path):
    return [row.count("|") for row in re.findall(r"^\|.*$", prose(path), re.M)]


@pytest.mark.parametrize("path", LANGUAGES[1:])
@pytest.mark.parametrize("part", [
    headings, blocks_without_texts, links_but_to_languages_and_the_tutorial, table_rows])
def test_each_language_has_the_same(part, path):
    assert part(path) == part("README.md") != []


@pytest.mark.parametrize("path", LANGUAGES)
def test_the_first_lines_link_to_all_languages(path):
    first = "\n".join(read(path).splitlines()[:4])
    for other in LANGUAGES:
        assert posixpath.relpath(other, posixpath.dirname(path) or ".") in first


@pytest.mark.parametrize("path", LANGUAGES)
def test_relative_links_lead_to_files_and_each_step_to_its_cell(path):
    files = [link for link in links(path) if "://" not in link]
    assert all((ROOT / file.partition("#")[0]).exists() for file in files)
    script = SCRIPT.read_text(encoding="utf-8").splitlines()
    lines = [int(file.partition("#L")[2]) for file in files if "#L" in file]
    assert [script[line - 1][:11] for line in lines] == [f"# %% Step {n}" for n in range(1, 6)]


@pytest.mark.parametrize("path", LANGUAGES)
def test_every_setting_and_example_is_told_in_at_most_300_lines_and_10_rows_of_errors(path):
    for name in SETTINGS:
        assert f"`{name}`" in read(path)
    for example in EXAMPLES:
        assert example in links(path)
    assert len(read(path).splitlines()) <= 300
    errors = read(path)[read(path).index("`cannot read .env"):].partition("\n\n")[0]
    assert 1 <= len(errors.splitlines()) <= 10


def test_the_shown_output_is_the_demos():
    done = subprocess.run([sys.executable, str(SCRIPT)], env=demo_environment(),
                          capture_output=True, text=True)
    assert [done.stdout] == blocks("text")


# Blocks of Python, each in a file of its own.

@pytest.fixture
def run_file(tmp_path):
    """Run Python code, with the demo on its path; return what it prints."""
    def run(code, *command, **settings):
        (tmp_path / "test_block.py").write_text(code, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, *command, "test_block.py"], cwd=tmp_path, capture_output=True,
            env=dict(demo_environment(settings), PYTHONPATH=str(ROOT)), text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    return run


@pytest.mark.parametrize("account", [False, True])
def test_the_block_that_imports_the_script_prints_an_answer(run_file, on_tidb, account):
    printed = run_file(blocks("python")[0], **(on_tidb if account else {}))
    assert re.fullmatch(r"The key is under the mat\. 0\.\d+\n", printed)


CALLS = """
from fastapi.testclient import TestClient

with TestClient(app) as client:
    demo.insert_documents(app.state.engine, ["a b", "c"], demo.embed_texts(["a b", "c"]))
    for _ in range(2):
        answer = client.get("/search", params={"question": "b", "limit": 1})
        print(answer.status_code, answer.json())
"""


def test_the_web_service_finds_texts_and_answers_503_while_the_embeddings_fail(
        run_file, on_tidb, jina):
    jina.faults = [None, None, status(401)]
    found, failed = run_file(blocks("python")[1] + CALLS, **on_tidb).splitlines()
    assert found.startswith("200 [['a b', 0.") and failed.startswith("503 {'detail': ")


def test_the_test_without_a_network_passes(run_file):
    assert "1 passed" in run_file(blocks("python")[2], "-m", "pytest", "-p", "no:cacheprovider")


# Recipes, each applied to a copy of the script.

TABLE, V3 = "jinaai_tidb_demo_documents", "jina-embeddings-v3"
ANOTHER_TABLE, DIMENSIONS, METADATA, LONGER_TEXTS = blocks("diff")


def changed_script(recipe):
    """Return the script with the lines behind - replaced by those behind +."""
    script = SCRIPT.read_text(encoding="utf-8")
    for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", recipe, re.M):
        old, new = (re.sub("^[-+]", "", lines, flags=re.M) for lines in (old, new))
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    return script


@pytest.mark.parametrize("recipe, model, table", [
    (ANOTHER_TABLE, "", "notes"), (ANOTHER_TABLE, V3, "notes_jina_embeddings_v3"),
    (DIMENSIONS, V3, TABLE + "_jina_embeddings_v3"), (METADATA, "", TABLE),
    (LONGER_TEXTS, "", TABLE)])
def test_the_script_goes_on_working_with_a_recipe(run_file, on_tidb, recipe, model, table):
    for stored in "  - Inserting: ", "  - Already stored: ":
        printed = run_file(changed_script(recipe), **on_tidb, JINAAI_MODEL=model)
        assert printed.count(stored) == 2 and printed.count("distance: ") == 3
    url, dimensions = on_tidb["TIDB_DATABASE_URL"], 1024 if recipe == DIMENSIONS else 768
    assert sql(url, "SHOW TABLES") == [(table,)]
    assert sql(url, f"SELECT VEC_DIMS(content_vec) FROM {table}") == [(dimensions,)] * 2


def test_metadata_is_stored_and_searched_by(run_file, on_tidb):
    code = changed_script(METADATA).partition("if __name__")[0] + """
engine, embed = connect()
create_table(engine)
for source, texts in ("mail", ["a b", "c"]), ("wiki", ["a", "d"]):
    insert_documents(engine, texts, embed(texts), source)
for source in "mail", "wiki", "none":
    print([content for content, _ in find_documents(engine, generate_embeddings("a"), 1, source)])
"""
    assert run_file(code, **on_tidb) == "['a b']\n['a']\n[]\n"


def test_longer_texts_are_stored_once(run_file, on_tidb):
    code = changed_script(LONGER_TEXTS).partition("if __name__")[0] + """
engine, embed = connect()
create_table(engine)
texts = ["a " * 5000, "a " * 5000 + "b", "c"]
for _ in range(2):
    new = new_texts(engine, texts)
    print(len(new))
    insert_documents(engine, texts, embed(texts))
print(sorted(len(content) for content, _ in find_documents(engine, embed(["c"])[0], 9)))
"""
    assert run_file(code, **on_tidb) == "3\n0\n[1, 10000, 10001]\n"


def test_768_characters_fit_into_a_unique_key(run_file, on_tidb):
    code = SCRIPT.read_text(encoding="utf-8").replace("String(255", "String(768")
    assert "  - Inserting: " in run_file(code, **on_tidb)
