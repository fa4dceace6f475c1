"""Auto Embedding: the document's SQL, a run on the stand-in, and what a TiDB without it answers."""

import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys

import pymysql
import pytest
from conftest import ROOT, SETTINGS, assert_one_line_error, demo_environment, sql
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

EXAMPLE = ROOT / "examples" / "tidb_auto_embedding.py"
KEY = "jina_0123456789abcdef_test"
QUESTION = "How to start learning Java programming?"
ELSEWHERE = "Auto Embedding works on TiDB Cloud Starter on AWS only"
SETTING = "setting JINAAI_API_KEY for the whole TiDB cluster and all of its users\n"

# The document's SQL, word for word, on fewer lines.
SET_KEY = 'SET @@GLOBAL.TIDB_EXP_EMBED_JINA_AI_API_KEY = "{your-jina-api-key}";'
CREATE = {"none": """
CREATE TABLE sample_documents (
    `id` INT PRIMARY KEY, `content` TEXT, `embedding` VECTOR(2048) GENERATED ALWAYS AS (EMBED_TEXT(
        "jina_ai/jina-embeddings-v4", `content`)) STORED
);""", "task": """
CREATE TABLE sample (
    `id` INT, `content` TEXT, `embedding` VECTOR(2048) GENERATED ALWAYS AS (EMBED_TEXT(
        "jina_ai/jina-embeddings-v4", `content`,
        '{"task": "retrieval.passage", "task@search": "retrieval.query"}')) STORED
);""", "dimensions": """
CREATE TABLE sample (
    `id` INT, `content` TEXT, `embedding` VECTOR(768) GENERATED ALWAYS AS (EMBED_TEXT(
        "jina_ai/jina-embeddings-v3", `content`, '{"dimensions":768}')) STORED
);"""}
INSERT = """
INSERT INTO sample_documents (id, content)
VALUES
    (1, "Java: Object-oriented language for cross-platform development."),
    (2, "Java coffee: Bold Indonesian beans with low acidity."),
    (3, "Java island: Densely populated, home to Jakarta."),
    (4, "Java's syntax is used in Android apps."),
    (5, "Dark roast Java beans enhance espresso blends.");"""
SEARCH = """
SELECT `id`, `content`,
    VEC_EMBED_COSINE_DISTANCE(embedding, "How to start learning Java programming?") AS _distance
FROM sample_documents ORDER BY _distance ASC LIMIT 2;"""


def plain(statement):
    """Return *statement* on one line, with one kind of quotes and names without their table's."""
    statement = re.sub(r"`|;|\\|sample_documents\.", "", statement).replace('"', "'")
    return re.sub(r" ?([(),]) ?", r"\1", " ".join(statement.split()))


@pytest.fixture
def example(monkeypatch):
    """The example as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    import tidb_auto_embedding
    return tidb_auto_embedding


@pytest.fixture
def run_example(run_demo):
    """Run the example as a user does: run_example(*arguments, NAME=setting)."""
    return lambda *arguments, **env: run_demo(*arguments, env=env, script=EXAMPLE)


@pytest.fixture
def tidb_engine(example, tidb):
    """An engine for TiDB."""
    tidb_engine = example.demo.create_tidb_engine(tidb)
    yield tidb_engine
    tidb_engine.dispose()


@pytest.fixture
def sent(monkeypatch):
    """The statements that TiDB is sent, whether it takes them or not."""
    statements, query = [], pymysql.Connection.query

    def record(connection, statement, *rest):
        statements.append(plain(statement if isinstance(statement, str) else statement.decode()))
        return query(connection, statement, *rest)
    monkeypatch.setattr(pymysql.Connection, "query", record)
    return statements


@pytest.fixture
def tidb_table(tidb):
    """The example's table as far as TiDB can have it without EMBED_TEXT."""
    sql(tidb, "CREATE TABLE sample_documents (id INT PRIMARY KEY, content TEXT, embedding "
              "VECTOR(2) GENERATED ALWAYS AS (VEC_FROM_TEXT("
              "REPLACE('[1,2]', 'jina_ai/jina-embeddings-v4', content))) STORED)")


# What is sent is the document's SQL.

def test_the_key_is_set_by_the_documents_statement(example, tidb_engine, sent, capsys):
    with pytest.raises(DBAPIError) as caught:
        example.set_api_key(tidb_engine, KEY)
    assert plain(SET_KEY.replace("{your-jina-api-key}", KEY)) in sent
    assert capsys.readouterr().err == SETTING and KEY not in str(caught.value)


@pytest.mark.parametrize("option", CREATE)
def test_the_table_is_the_documents(example, tidb_engine, sent, option):
    table = example.TABLES[option]
    with pytest.raises(DBAPIError):
        example.create_table(tidb_engine, table)
    create, = (statement for statement in sent if statement.startswith("CREATE"))
    # Each has a name of its own, and a primary key, without which ids could repeat.
    create = create.replace("id INTEGER NOT NULL,", "id INT PRIMARY KEY,").replace(
        ",PRIMARY KEY(id)", "")
    expected = re.sub(r"sample\b", table.name, CREATE[option]).replace(" INT,", " INT PRIMARY KEY,")
    assert create == plain(expected).replace("TABLE ", "TABLE IF NOT EXISTS ")


def test_the_texts_go_in_by_the_documents_one_insert_and_are_found_by_its_search(
        example, tidb_engine, sent, tidb_table):
    example.store_texts(tidb_engine, example.TABLES["none"], example.TEXTS)
    assert [statement for statement in sent if "INSERT" in statement] == [plain(INSERT)]
    with pytest.raises(DBAPIError):
        example.find_documents(tidb_engine, example.TABLES["none"], QUESTION, 2)
    assert plain(SEARCH) in sent


# With nothing configured.

@pytest.mark.parametrize("option", [[], ["--option", "task"], ["--option", "dimensions"]])
def test_with_nothing_configured_it_stores_the_five_texts_and_finds_two(run_example, option):
    done = run_example(*option)
    assert done.returncode == 0
    assert re.sub(r"0\.\d+", "DISTANCE", done.stdout) == """\
- Inserting Data to In-Memory SQLite...
  - Inserting: 1. Java: Object-oriented language for cross-platform development.
  - Inserting: 2. Java coffee: Bold Indonesian beans with low acidity.
  - Inserting: 3. Java island: Densely populated, home to Jakarta.
  - Inserting: 4. Java's syntax is used in Android apps.
  - Inserting: 5. Dark roast Java beans enhance espresso blends.
- The 2 Most Relevant Documents and Their Distances to the Query:
  - distance: DISTANCE
    content: 3. Java island: Densely populated, home to Jakarta.
  - distance: DISTANCE
    content: 5. Dark roast Java beans enhance espresso blends.
"""
    line, = done.stderr.splitlines()
    for words in "no TIDB_DATABASE_URL", "SQLite", "a simple hash of the words", "Jina AI":
        assert words in line


def test_a_key_without_a_tidb_url_goes_nowhere(run_example, jina):
    done = run_example(JINAAI_API_KEY=jina.key, JINAAI_API_URL=jina.url)
    assert done.returncode == 0 and done.stderr.startswith("no TIDB_DATABASE_URL")
    assert jina.requests == [] and jina.key not in done.stdout + done.stderr


def test_wrong_options_are_one_line_and_status_2(run_example):
    for arguments in ["--nonsense"], ["argument"], ["--option", "other"]:
        assert_one_line_error(run_example(*arguments), status=2)


# Each step, on the stand-in.

@pytest.mark.parametrize("option, dimensions", [
    ("none", 2048), ("task", 2048), ("dimensions", 768)])
def test_texts_alone_are_stored_once_with_embeddings_of_the_tables_dimensions(
        example, option, dimensions):
    table, stand_in = example.TABLES[option], example.create_stand_in_engine()
    for new in [1, 2, 3, 4, 5], []:
        example.create_table(stand_in, table)
        assert example.store_texts(stand_in, table, example.TEXTS) == new
    assert example.store_texts(stand_in, table, {5: "another text", 6: "a new one"}) == [6]
    texts = {**example.TEXTS, 6: "a new one"}
    with stand_in.connect() as connection:
        rows = connection.execute(text(f"SELECT * FROM {table.name} ORDER BY id")).all()
    assert [row[:2] for row in rows] == list(texts.items())
    hashes = example.demo.stand_in_embeddings(list(texts.values()))
    assert [json.loads(row.embedding) for row in rows] == [
        embedding + [0] * (dimensions - 768) for embedding in hashes]


def test_documents_come_with_id_and_cosine_distance_nearest_first(example):
    table, stand_in = example.TABLES["none"], example.create_stand_in_engine()
    example.create_table(stand_in, table)
    example.store_texts(stand_in, table, example.TEXTS)
    # Of the question's 6 words, the text of 7 shares "java" and "to", the other one "java".
    assert example.find_documents(stand_in, table, QUESTION, 2) == [
        (3, example.TEXTS[3], pytest.approx(1 - 2 / math.sqrt(6 * 7))),
        (5, example.TEXTS[5], pytest.approx(1 - 1 / math.sqrt(6 * 7)))]
    for limit, count in (1, 1), (4, 4), (9, 5):
        assert len(example.find_documents(stand_in, table, QUESTION, limit)) == count


# On a TiDB that is not TiDB Cloud Starter on AWS.

@pytest.mark.parametrize("key, note, code", [
    (KEY, SETTING, "1193"),  # no variable for it
    ("", "no JINAAI_API_KEY: TiDB uses the key that was set before\n", "3102")])  # no EMBED_TEXT
def test_tidb_without_it_is_an_error_that_says_where_it_works(run_example, tidb, key, note, code):
    done = run_example(TIDB_DATABASE_URL=tidb, JINAAI_API_KEY=key)
    note_shown, done.stderr = done.stderr[:len(note)], done.stderr[len(note):]
    assert note_shown == note and KEY not in done.stdout + done.stderr
    assert_one_line_error(done, code, ELSEWHERE)
    assert sql(tidb, "SHOW TABLES") == []


def test_tidb_without_the_distance_stores_once_and_says_where_it_works(
        run_example, tidb, tidb_table):
    for stored in "  - Inserting: ", "  - Already stored: ":
        done = run_example(TIDB_DATABASE_URL=tidb)
        assert_one_line_error(done, "1305", "does not exist", ELSEWHERE)
        assert done.stdout.startswith("- Inserting Data to TiDB...\n")
        assert done.stdout.count(stored) == 5
    # No vector of the stand-in's, but those that TiDB generates.
    assert sql(tidb, "SELECT VEC_AS_TEXT(embedding), COUNT(*) FROM sample_documents GROUP BY 1"
               ) == [("[1,2]", 5)]


@pytest.mark.parametrize("embedding", ["", ", embedding VECTOR(2048)", (
    ", embedding VECTOR(2) GENERATED ALWAYS AS (VEC_FROM_TEXT("
    "REPLACE('[1,2]', 'openai/text-embedding-3-small', content))) STORED")])
def test_a_table_with_other_embeddings_is_an_error_and_stays_as_it_is(run_example, tidb, embedding):
    sql(tidb, f"CREATE TABLE sample_documents (id INT, content TEXT{embedding})")
    done = run_example(TIDB_DATABASE_URL=tidb)
    assert_one_line_error(done, "sample_documents", "jina_ai/jina-embeddings-v4", "drop")
    assert sql(tidb, "SELECT COUNT(*) FROM sample_documents") == [(0,)]


def test_an_answer_that_repeats_the_key_is_shown_without_it(run_example, tidb):
    done = run_example(TIDB_DATABASE_URL=tidb, JINAAI_API_KEY="tidb_exp_embed_jina_ai_api_key")
    assert "'***'" in done.stderr and "tidb_exp_embed" not in done.stderr


def test_a_user_who_may_not_set_the_key_is_told_what_to_do(run_example, tidb, request):
    url = make_url(tidb)
    name = url.database[:32]
    sql(tidb, f"CREATE USER '{name}' IDENTIFIED BY 'secret'")
    request.addfinalizer(lambda: sql(tidb, f"DROP USER '{name}'"))
    sql(tidb, f"GRANT ALL ON {url.database}.* TO '{name}'")
    url = url.set(username=name, password="secret").render_as_string(hide_password=False)
    done = run_example(TIDB_DATABASE_URL=url, JINAAI_API_KEY=KEY)
    done.stderr = done.stderr.replace(SETTING, "", 1)
    assert_one_line_error(done, "1227", "leave JINAAI_API_KEY blank")
    assert KEY not in done.stderr and "secret" not in done.stderr


# Settings and errors.

@pytest.mark.parametrize("name, value, words", [
    ("TIDB_DATABASE_URL", "nonsense", "TIDB_DATABASE_URL cannot be used"),
    ("TIDB_DATABASE_URL", "mysql+pymysql://root:secret@127.0.0.1:9/t", "check TIDB_DATABASE_URL"),
    ("JINAAI_API_KEY", "jina key", "JINAAI_API_KEY has a character that no key has; copy it again"),
    ("JINAAI_API_KEY", "jina_k\u00e9y", "copy it again"),
    ("JINAAI_API_KEY", "jina'; DROP", "copy it again"),
    ("JINAAI_API_KEY", "jina\\", "copy it again")])
def test_a_wrong_setting_is_one_line_that_does_not_show_it(run_example, tidb, name, value, words):
    done = run_example(**{"TIDB_DATABASE_URL": tidb, "JINAAI_API_KEY": KEY, name: value})
    assert_one_line_error(done, words)  # and no line that says that a key is set
    for secret in KEY, value, "secret":
        assert secret not in done.stderr


def test_it_ends_as_the_demo_does(example, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name])
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 26, 0))
    with pytest.raises(SystemExit) as caught:
        example.main()
    line, = capsys.readouterr().err.splitlines()[1:]
    assert caught.value.code == 1 and line.startswith("error: SQLite") and "3.31" in line
    monkeypatch.setattr(example, "run", lambda table: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit) as caught:
        example.main()
    assert caught.value.code == 130


@pytest.mark.parametrize("content, words", [
    ("TIDB_DATABASE_URL=nonsense\n".encode("utf-8-sig"), "TIDB_DATABASE_URL cannot be used"),
    ("TIDB_DATABASE_URL=nonsense\n".encode("utf-16"), "utf-8")])
def test_the_env_file_is_the_demos(tmp_path, content, words):
    shutil.copytree(EXAMPLE.parent, tmp_path / "examples")
    shutil.copy(ROOT / "jina_ai_embeddings_demo.py", tmp_path)
    (tmp_path / ".env").write_bytes(content)
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run([sys.executable, str(tmp_path / "examples" / EXAMPLE.name)], env=clean,
                          capture_output=True, text=True)
    assert_one_line_error(done, words)


# The example as a file.

def test_importing_the_example_does_not_connect(tidb_server):
    code = ("import socket; socket.socket.connect = None; "
            "import tidb_auto_embedding as example; print(example.TABLES['none'].name)")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=str(EXAMPLE.parent), capture_output=True, text=True,
        env=demo_environment({"TIDB_DATABASE_URL": tidb_server, "JINAAI_API_KEY": KEY}))
    assert done.stdout == "sample_documents\n" and done.stderr == ""


def test_the_inline_metadata_equals_the_demos_requirements():
    block = re.search(r"(?ms)^# /// script$(.*?)^# ///$", EXAMPLE.read_text(encoding="utf-8"))
    dependencies = re.findall(r'"(\S+)"', block.group(1).partition("dependencies")[2])
    assert dependencies == (ROOT / "requirements.txt").read_text().split()
