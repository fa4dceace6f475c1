"""Auto Embedding: the document's SQL, a run on the stand-in, and what a TiDB without it answers."""

import json
import math
import re
import sqlite3
import sys

import pymysql
import pytest
import tidb_auto_embedding as example
from helpers import ROOT, assert_one_line_error, sql
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

EXAMPLE = ROOT / "examples" / "tidb_auto_embedding.py"
KEY = "jina_0123456789abcdef_test"
QUESTION = "How to start learning Java programming?"
ELSEWHERE = "Auto Embedding works on TiDB Cloud Starter on AWS only"
SETTING = "setting JINAAI_API_KEY for the whole TiDB cluster and all of its users\n"
TABLE = "CREATE TABLE sample_documents (id INT PRIMARY KEY, content TEXT"
GENERATED = (", embedding VECTOR(2) GENERATED ALWAYS AS (VEC_FROM_TEXT(REPLACE('[1,2]', '{}', "
             "content))) STORED)")

# The document's SQL, word for word, on fewer lines.
SET_KEY = 'SET @@GLOBAL.TIDB_EXP_EMBED_JINA_AI_API_KEY = "{your-jina-api-key}";'
CREATE = {"none": """
CREATE TABLE sample_documents (`id` INT PRIMARY KEY, `content` TEXT, `embedding` VECTOR(2048)
    GENERATED ALWAYS AS (EMBED_TEXT("jina_ai/jina-embeddings-v4", `content`)) STORED
);""", "task": """
CREATE TABLE sample (`id` INT, `content` TEXT, `embedding` VECTOR(2048) GENERATED ALWAYS AS (
    EMBED_TEXT("jina_ai/jina-embeddings-v4", `content`,
        '{"task": "retrieval.passage", "task@search": "retrieval.query"}')) STORED
);""", "dimensions": """
CREATE TABLE sample (`id` INT, `content` TEXT, `embedding` VECTOR(768) GENERATED ALWAYS AS (
    EMBED_TEXT("jina_ai/jina-embeddings-v3", `content`, '{"dimensions":768}')) STORED
);"""}
INSERT = """
INSERT INTO sample_documents (id, content) VALUES
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
def run_example(run_demo):
    """Run the example as a user does: run_example(*arguments, NAME=setting)."""
    return lambda *arguments, **env: run_demo(*arguments, env=env, script=EXAMPLE)


@pytest.fixture
def tidb_engine(tidb):
    engine = example.demo.create_tidb_engine(tidb)
    yield engine
    engine.dispose()


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
    sql(tidb, TABLE + GENERATED.format("jina_ai/jina-embeddings-v4"))


def test_the_key_is_set_by_the_documents_statement(tidb_engine, sent, capsys):
    with pytest.raises(DBAPIError) as caught:
        example.set_api_key(tidb_engine, KEY)
    assert plain(SET_KEY.replace("{your-jina-api-key}", KEY)) in sent
    assert capsys.readouterr().err == SETTING and KEY not in str(caught.value)


@pytest.mark.parametrize("option", CREATE)
def test_the_table_is_the_documents(tidb_engine, sent, option):
    table = example.TABLES[option]
    with pytest.raises(DBAPIError):
        example.create_table(tidb_engine, table)
    create, = (statement for statement in sent if statement.startswith("CREATE"))
    # Each has a name of its own, and a primary key, without which ids could repeat.
    create = create.replace("id INTEGER NOT NULL,", "id INT PRIMARY KEY,").replace(
        ",PRIMARY KEY(id)", "")
    expected = re.sub(r"sample\b", table.name, CREATE[option]).replace(" INT,", " INT PRIMARY KEY,")
    assert create == plain(expected).replace("TABLE ", "TABLE IF NOT EXISTS ")


def test_the_only_insert_and_the_search_are_the_documents(tidb_engine, sent, tidb_table):
    example.store_texts(tidb_engine, example.TABLES["none"], example.TEXTS)
    assert [statement for statement in sent if "INSERT" in statement] == [plain(INSERT)]
    with pytest.raises(DBAPIError):
        example.find_documents(tidb_engine, example.TABLES["none"], QUESTION, 2)
    assert plain(SEARCH) in sent


@pytest.mark.parametrize("key, options", [
    ("", []), ("", ["--option", "task"]), (KEY, ["--option", "dimensions"])])
def test_without_a_tidb_url_it_stores_the_five_texts_and_finds_two(run_example, jina, key, options):
    done = run_example(*options, JINAAI_API_KEY=key, JINAAI_API_URL=key and jina.url)
    assert done.returncode == 0 and jina.requests == []
    numbered = [f"{id}. {content}\n" for id, content in example.TEXTS.items()]
    assert re.sub(r"0\.\d+", "DISTANCE", done.stdout) == "".join([
        "- Inserting Data to In-Memory SQLite...\n", *("  - Inserting: " + n for n in numbered),
        "- The 2 Most Relevant Documents and Their Distances to the Query:\n",
        *("  - distance: DISTANCE\n    content: " + numbered[index] for index in (2, 4))])
    assert done.stderr == ("no TIDB_DATABASE_URL: SQLite in memory replaces TiDB, and a simple "
                           "hash of the words the embeddings of Jina AI\n")


@pytest.mark.parametrize("option, size", [("none", 2048), ("task", 2048), ("dimensions", 768)])
def test_texts_alone_are_stored_once_with_embeddings_of_the_tables_dimensions(option, size):
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
        embedding + [0] * (size - 768) for embedding in hashes]


def test_documents_come_with_id_and_cosine_distance_nearest_first():
    table, stand_in = example.TABLES["none"], example.create_stand_in_engine()
    example.create_table(stand_in, table)
    example.store_texts(stand_in, table, example.TEXTS)
    # Of the question's 6 words, the text of 7 shares "java" and "to", the other one "java".
    assert example.find_documents(stand_in, table, QUESTION, 2) == [
        (3, example.TEXTS[3], pytest.approx(1 - 2 / math.sqrt(6 * 7))),
        (5, example.TEXTS[5], pytest.approx(1 - 1 / math.sqrt(6 * 7)))]
    for limit, count in (1, 1), (4, 4), (9, 5):
        assert len(example.find_documents(stand_in, table, QUESTION, limit)) == count


@pytest.mark.parametrize("key, note, words", [
    (KEY, SETTING, "(1193, "),  # no variable for it
    ("tidb_exp_embed_jina_ai_api_key", SETTING, "Unknown system variable '***'"),
    ("", "no JINAAI_API_KEY: TiDB uses the key that was set before\n", "(3102, ")])  # no function
def test_tidb_without_it_is_an_error_that_says_where_it_works(run_example, tidb, key, note, words):
    done = run_example(TIDB_DATABASE_URL=tidb, JINAAI_API_KEY=key)
    assert done.stderr.startswith(note) and KEY not in done.stdout + done.stderr
    done.stderr = done.stderr[len(note):]
    assert_one_line_error(done, "error: TiDB: (", words, ELSEWHERE)
    assert sql(tidb, "SHOW TABLES") == []


def test_tidb_without_the_distance_stores_once_and_says_so(run_example, tidb, tidb_table):
    for stored in "  - Inserting: ", "  - Already stored: ":
        done = run_example(TIDB_DATABASE_URL=tidb)
        assert_one_line_error(done, "1305", "does not exist", ELSEWHERE)
        assert done.stdout.startswith("- Inserting Data to TiDB...\n")
        assert done.stdout.count(stored) == 5
    # No vector of the stand-in's, but those that TiDB generates.
    assert sql(tidb, "SELECT VEC_AS_TEXT(embedding), COUNT(*) FROM sample_documents GROUP BY 1"
               ) == [("[1,2]", 5)]


@pytest.mark.parametrize("embedding", [
    ")", ", embedding VECTOR(2048))", GENERATED.format("openai/text-embedding-3-small")])
def test_a_table_with_other_embeddings_is_an_error_and_stays_as_it_is(run_example, tidb, embedding):
    sql(tidb, TABLE + embedding)
    done = run_example(TIDB_DATABASE_URL=tidb)
    assert_one_line_error(done, "sample_documents", "jina_ai/jina-embeddings-v4", "drop")
    assert sql(tidb, "SELECT COUNT(*) FROM sample_documents") == [(0,)]


def test_a_user_who_may_not_set_the_key_is_told_what_to_do(run_example, tidb, request):
    url = make_url(tidb)
    name = url.database[:32]
    sql(tidb, f"CREATE USER '{name}' IDENTIFIED BY 'secret'")
    request.addfinalizer(lambda: sql(tidb, f"DROP USER '{name}'"))
    sql(tidb, f"GRANT ALL ON {url.database}.* TO '{name}'")
    url = url.set(username=name, password="secret").render_as_string(hide_password=False)
    done = run_example(TIDB_DATABASE_URL=url, JINAAI_API_KEY=KEY)
    done.stderr = done.stderr.replace(SETTING, "", 1)
    assert_one_line_error(done, "error: TiDB: (1227, ", "leave JINAAI_API_KEY blank")
    assert KEY not in done.stderr and "secret" not in done.stderr


@pytest.mark.parametrize("name, value, words", [
    ("TIDB_DATABASE_URL", "nonsense", "TIDB_DATABASE_URL must be"),
    ("TIDB_DATABASE_URL", "mysql+pymysql://root:secret@127.0.0.1:9/t", "check TIDB_DATABASE_URL"),
    *(("JINAAI_API_KEY", key, "JINAAI_API_KEY has a character that no key has; copy it again")
      for key in ("jina key", "jina_k\u00e9y", "jina'; DROP", "jina\\"))])
def test_a_wrong_setting_is_one_line_that_does_not_show_it(run_example, tidb, name, value, words):
    done = run_example(**{"TIDB_DATABASE_URL": tidb, "JINAAI_API_KEY": KEY, name: value})
    assert_one_line_error(done, words)  # and no line that says that a key is set
    for secret in KEY, value, "secret":
        assert secret not in done.stderr


def test_an_old_sqlite_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name])
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 26, 0))
    with pytest.raises(SystemExit, match="^error: SQLite .* is too old .* SQLite 3.31 or later$"):
        example.demo.main(example.run)
