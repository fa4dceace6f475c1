"""Auto Embedding: the document's SQL, a run on the stand-in, and what a TiDB without it answers."""

import inspect
import json
import math
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import zlib

import pytest
from conftest import ROOT, SETTINGS, assert_one_line_error, demo_environment, sql
from sqlalchemy import event, text
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateTable

EXAMPLE = ROOT / "examples" / "tidb_auto_embedding.py"
KEY = "jina_0123456789abcdef_test"
QUERY = "How to start learning Java programming?"

# The document's SQL, word for word.
SET_KEY = 'SET @@GLOBAL.TIDB_EXP_EMBED_JINA_AI_API_KEY = "{your-jina-api-key}";'
CREATE = """
CREATE TABLE sample_documents (
    `id`        INT PRIMARY KEY,
    `content`   TEXT,
    `embedding` VECTOR(2048) GENERATED ALWAYS AS (EMBED_TEXT(
        "jina_ai/jina-embeddings-v4",
        `content`
    )) STORED
);"""
CREATE_WITH_TASK = """
CREATE TABLE sample (
  `id`        INT,
  `content`   TEXT,
  `embedding` VECTOR(2048) GENERATED ALWAYS AS (EMBED_TEXT(
                "jina_ai/jina-embeddings-v4",
                `content`,
                '{"task": "retrieval.passage", "task@search": "retrieval.query"}'
              )) STORED
);"""
CREATE_WITH_DIMENSIONS = """
CREATE TABLE sample (
  `id`        INT,
  `content`   TEXT,
  `embedding` VECTOR(768) GENERATED ALWAYS AS (EMBED_TEXT(
                "jina_ai/jina-embeddings-v3",
                `content`,
                '{"dimensions":768}'
              )) STORED
);"""
INSERT = """
INSERT INTO sample_documents (id, content)
VALUES
    (1, "Java: Object-oriented language for cross-platform development."),
    (2, "Java coffee: Bold Indonesian beans with low acidity."),
    (3, "Java island: Densely populated, home to Jakarta."),
    (4, "Java's syntax is used in Android apps."),
    (5, "Dark roast Java beans enhance espresso blends.");"""
SEARCH = """
SELECT
    `id`,
    `content`,
    VEC_EMBED_COSINE_DISTANCE(embedding, "How to start learning Java programming?") AS _distance
FROM sample_documents
ORDER BY _distance ASC
LIMIT 2;"""


def tokens(statement):
    """Return the words, strings and signs of *statement*, however it quotes them."""
    found = []
    for double, single, word, sign in re.findall(
            r"""(?x) "([^"]*)" | '((?:[^'\\]|\\.|'')*)' | `?([\w.@{}-]+)`? | ([(),=])""",
            statement.replace("sample_documents.", "")):
        string = double or re.sub(r"\\(.)|'(')", r"\1\2", single)
        found.append(("string", string) if string else (word or sign).upper())
    return found


def created(document):
    """Return the CREATE TABLE of *document* for TiDB, with the key where the document has it."""
    statement = str(CreateTable(document.__table__).compile(dialect=mysql.dialect()))
    assert "id INTEGER NOT NULL, " in statement and ", \n\tPRIMARY KEY (id)\n" in statement
    return statement.replace("id INTEGER NOT NULL", "id INT PRIMARY KEY").replace(
        ", \n\tPRIMARY KEY (id)", "")


@pytest.fixture
def example(monkeypatch):
    """The example as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    import tidb_auto_embedding
    return tidb_auto_embedding


@pytest.fixture
def run_example(run_demo):
    """Run the example as a user does: run_example(*arguments, env=settings)."""
    def run(*arguments, **options):
        return run_demo(*arguments, script=EXAMPLE, **options)
    return run


@pytest.fixture
def stand_in(example):
    """An engine for the stand-in of TiDB."""
    engine = example.create_stand_in_engine()
    yield engine
    engine.dispose()


@pytest.fixture
def engine(example, tidb):
    """An engine for TiDB."""
    engine = example.create_tidb_engine(tidb)
    yield engine
    engine.dispose()


@pytest.fixture
def sent(engine):
    """The statements that TiDB is sent, whether it takes them or not."""
    statements = []

    @event.listens_for(engine, "before_cursor_execute")
    def one(connection, cursor, statement, parameters, context, many):
        if not many:
            statements.append(cursor.mogrify(statement, parameters))

    @event.listens_for(engine, "after_cursor_execute")
    def several(connection, cursor, statement, parameters, context, many):
        if many:
            executed = cursor._executed
            statements.append(executed if isinstance(executed, str) else bytes(executed).decode())
    return statements


@pytest.fixture
def table(tidb):
    """The example's table as far as TiDB can have it without EMBED_TEXT."""
    sql(tidb, "CREATE TABLE sample_documents (id INT PRIMARY KEY, content TEXT, embedding "
              "VECTOR(2) GENERATED ALWAYS AS (VEC_FROM_TEXT("
              "REPLACE('[1,2]', 'jina_ai/jina-embeddings-v4', content))) STORED)")


# What is sent is the document's SQL.

def test_the_key_is_set_by_the_documents_statement(example, engine, sent):
    with pytest.raises(DBAPIError):
        example.set_api_key(engine, KEY)
    assert tokens(sent[-1]) == tokens(SET_KEY.replace("{your-jina-api-key}", KEY))


def test_the_key_is_a_bound_parameter(example, engine):
    statements = []
    event.listen(engine, "before_cursor_execute", lambda connection, cursor, *rest:
                 statements.append(rest[:2]))
    with pytest.raises(DBAPIError) as caught:
        example.set_api_key(engine, KEY)
    statement, parameters = statements[-1]
    assert statement == "SET @@GLOBAL.TIDB_EXP_EMBED_JINA_AI_API_KEY = %(key)s"
    assert parameters == {"key": KEY}
    assert KEY not in str(caught.value)


def test_the_table_is_the_documents(example):
    assert tokens(created(example.Document)) == tokens(CREATE)


def test_the_task_and_its_search_time_twin_are_the_documents_option(example):
    statement = created(example.TaskDocument).replace("sample_documents_task", "sample")
    assert tokens(statement.replace(" PRIMARY KEY", "")) == tokens(CREATE_WITH_TASK)


def test_the_other_dimension_is_the_documents_option(example):
    statement = created(example.SmallDocument).replace("sample_documents_768", "sample")
    assert tokens(statement.replace(" PRIMARY KEY", "")) == tokens(CREATE_WITH_DIMENSIONS)


def test_tidb_is_sent_the_table_as_it_compiles_but_for_if_not_exists(example, engine, sent):
    for document in example.Document, example.TaskDocument, example.SmallDocument:
        with pytest.raises(DBAPIError):
            example.create_table(engine, document)
        expected = str(CreateTable(document.__table__).compile(dialect=mysql.dialect()))
        assert tokens(sent[-1].replace("IF NOT EXISTS ", "")) == tokens(expected)


def test_the_texts_are_the_documents_and_go_in_by_its_one_insert(example, engine, sent, table):
    example.store_texts(engine, example.TEXTS)
    assert [tokens(statement) for statement in sent if "INSERT" in statement] == [tokens(INSERT)]


def test_the_search_is_the_documents(example, engine, sent, table):
    with pytest.raises(DBAPIError):
        example.find_documents(engine, QUERY)
    assert tokens(sent[-1]) == tokens(SEARCH)


# With nothing configured.

def test_with_nothing_configured_it_stores_the_five_texts_and_finds_two(run_example):
    done = run_example()
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


def test_with_nothing_configured_one_line_on_stderr_says_what_stands_in(run_example):
    line, = run_example().stderr.splitlines()
    for words in "no TIDB_DATABASE_URL", "SQLite", "hashed words", "Jina AI":
        assert words in line


def test_a_key_without_a_tidb_url_goes_nowhere(run_example, jina):
    done = run_example(env={"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url})
    assert done.returncode == 0 and "no TIDB_DATABASE_URL" in done.stderr
    assert jina.requests == [] and jina.key not in done.stdout + done.stderr


def test_another_question_finds_others(run_example):
    done = run_example("--query", "Which coffee has low acidity?")
    first, second = re.findall(r"content: (\d)", done.stdout)
    assert first == "2" and second != "2"


@pytest.mark.parametrize("option", ["task", "dimensions"])
def test_each_of_the_documents_options_runs(run_example, option):
    done = run_example("--option", option)
    assert done.returncode == 0 and done.stdout.count("content: ") == 2


# Each step, on the stand-in.

def rows(engine, statement):
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


@pytest.mark.parametrize("name, dimensions", [
    ("Document", 2048), ("TaskDocument", 2048), ("SmallDocument", 768)])
def test_an_insert_of_texts_alone_stores_embeddings_of_the_tables_dimensions(
        example, stand_in, name, dimensions):
    document = getattr(example, name)
    example.create_table(stand_in, document)
    assert example.store_texts(stand_in, example.TEXTS, document) == [1, 2, 3, 4, 5]
    for embedding, in rows(stand_in, f"SELECT embedding FROM {document.__tablename__}"):
        vector = json.loads(embedding)
        assert len(vector) == dimensions == document.__table__.c.embedding.type.dim
        assert math.sqrt(sum(number ** 2 for number in vector)) == pytest.approx(1)


def test_running_again_stores_nothing_twice_and_changes_nothing(example, stand_in):
    for new in [1, 2, 3, 4, 5], []:
        example.create_table(stand_in)
        assert example.store_texts(stand_in, example.TEXTS) == new
    assert example.store_texts(stand_in, {5: "another text", 6: "a new one"}) == [6]
    assert rows(stand_in, "SELECT id, content FROM sample_documents ORDER BY id") == [
        *example.TEXTS.items(), (6, "a new one")]


def test_documents_come_with_id_and_cosine_distance_nearest_first(example, stand_in):
    example.create_table(stand_in)
    example.store_texts(stand_in, example.TEXTS)
    # Of the query's 6 words, the text of 7 shares "java" and "to", the other one "java".
    assert example.find_documents(stand_in, QUERY) == [
        (3, example.TEXTS[3], pytest.approx(1 - 2 / math.sqrt(6 * 7))),
        (5, example.TEXTS[5], pytest.approx(1 - 1 / math.sqrt(6 * 7)))]


def test_the_limit_is_the_callers(example, stand_in):
    example.create_table(stand_in)
    example.store_texts(stand_in, example.TEXTS)
    assert [len(example.find_documents(stand_in, QUERY, limit)) for limit in (1, 4, 9)] == [1, 4, 5]


def test_the_search_reads_no_vector_back(example, stand_in):
    example.create_table(stand_in)
    statements = []
    event.listen(stand_in, "before_cursor_execute",
                 lambda connection, cursor, statement, *rest: statements.append(statement))
    example.find_documents(stand_in, QUERY)
    selected = statements[-1].split("FROM")[0]
    assert selected.count("embedding") == 1
    assert "VEC_EMBED_COSINE_DISTANCE(sample_documents.embedding, ?)" in selected


def test_the_stand_in_vectors_are_the_same_in_every_run_and_version(example):
    vector = example.hash_words("How? How?! To", 768)
    how, to = zlib.crc32(b"how") % 768, zlib.crc32(b"to") % 768
    assert {index: number for index, number in enumerate(vector) if number} == {
        how: pytest.approx(2 / math.sqrt(5)), to: pytest.approx(1 / math.sqrt(5))}


@pytest.mark.parametrize("words", ["", "?!", "\U0001f600", "\u6570\u636e", "a " * 99])
def test_a_stand_in_vector_has_length_1_whatever_the_text(example, words):
    assert sum(number ** 2 for number in example.hash_words(words, 768)) == pytest.approx(1)


def test_an_sqlite_without_generated_columns_is_an_error(example, monkeypatch, capsys):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 26, 0))
    assert example.main([]) == 1
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1 and "too old" in errors and "3.31" in errors


# On a TiDB that is not TiDB Cloud Starter on AWS.

def test_tidb_without_the_variable_is_an_error_that_says_where_it_works(run_example, tidb):
    done = run_example(env={"TIDB_DATABASE_URL": tidb, "JINAAI_API_KEY": KEY})
    assert_one_line_error(done, "1193", "TiDB Cloud Starter on AWS only")
    assert KEY not in done.stdout + done.stderr
    assert sql(tidb, "SHOW TABLES") == []


def test_tidb_without_embed_text_is_an_error_that_says_where_it_works(run_example, tidb):
    done = run_example(env={"TIDB_DATABASE_URL": tidb})
    assert_one_line_error(done, "3102", "TiDB Cloud Starter on AWS only")
    assert sql(tidb, "SHOW TABLES") == []


def test_tidb_without_the_distance_is_an_error_that_says_where_it_works(run_example, tidb, table):
    done = run_example(env={"TIDB_DATABASE_URL": tidb})
    assert_one_line_error(done, "1305", "does not exist", "TiDB Cloud Starter on AWS only")


def test_without_a_key_stderr_says_that_the_clusters_own_is_used(run_example, tidb):
    lines = run_example(env={"TIDB_DATABASE_URL": tidb}).stderr.splitlines()
    assert lines[0].startswith("no JINAAI_API_KEY") and "set for its cluster" in lines[0]


def test_tidb_gets_no_stand_in_vector(run_example, tidb, table):
    run_example(env={"TIDB_DATABASE_URL": tidb})
    assert sql(tidb, "SELECT DISTINCT VEC_AS_TEXT(embedding) FROM sample_documents") == [("[1,2]",)]


def test_running_again_on_tidb_stores_nothing_twice(run_example, tidb, table):
    first, second = (run_example(env={"TIDB_DATABASE_URL": tidb}).stdout for _ in range(2))
    assert first.count("  - Inserting: ") == second.count("  - Already stored: ") == 5
    assert sql(tidb, "SELECT COUNT(*) FROM sample_documents") == [(5,)]


@pytest.mark.parametrize("embedding", [
    "VECTOR(2048)", "VECTOR(2) GENERATED ALWAYS AS (VEC_FROM_TEXT("
    "REPLACE('[1,2]', 'openai/text-embedding-3-small', content))) STORED"])
def test_a_table_with_other_embeddings_is_an_error_and_stays_as_it_is(run_example, tidb, embedding):
    sql(tidb, f"CREATE TABLE sample_documents (id INT, content TEXT, embedding {embedding})")
    done = run_example(env={"TIDB_DATABASE_URL": tidb})
    assert_one_line_error(done, "sample_documents", "jina_ai/jina-embeddings-v4", "drop")
    assert sql(tidb, "SELECT COUNT(*) FROM sample_documents") == [(0,)]


# Settings and errors.

@pytest.mark.parametrize("name", SETTINGS[:4])
def test_the_key_is_read_under_each_of_its_names(run_example, tidb, name):
    done = run_example(env={"TIDB_DATABASE_URL": tidb, name: f" {KEY}\n"})
    assert_one_line_error(done, "1193")
    assert "no JINAAI_API_KEY" not in done.stderr


@pytest.mark.parametrize("key", ["jina key", "jina_k\u00e9y", "jina'; DROP", "jina\\"])
def test_what_is_no_key_is_an_error_that_does_not_show_it(run_example, tidb, key):
    done = run_example(env={"TIDB_DATABASE_URL": tidb, "JINAAI_API_KEY": key})
    assert_one_line_error(done, "JINAAI_API_KEY", "copy it again")
    assert key not in done.stderr


def test_an_answer_that_repeats_the_key_is_shown_without_it(run_example, tidb):
    done = run_example(env={"TIDB_DATABASE_URL": tidb,
                            "JINAAI_API_KEY": "tidb_exp_embed_jina_ai_api_key"})
    assert_one_line_error(done, "'***'")
    assert "tidb_exp_embed" not in done.stderr


def test_a_user_who_may_not_set_the_key_is_told_what_to_do(run_example, tidb, request):
    url = make_url(tidb)
    name = url.database[:32]
    sql(tidb, f"CREATE USER '{name}' IDENTIFIED BY 'secret'")
    request.addfinalizer(lambda: sql(tidb, f"DROP USER '{name}'"))
    sql(tidb, f"GRANT ALL ON {url.database}.* TO '{name}'")
    url = url.set(username=name, password="secret").render_as_string(hide_password=False)
    done = run_example(env={"TIDB_DATABASE_URL": url, "JINAAI_API_KEY": KEY})
    assert_one_line_error(done, "1227", "leave JINAAI_API_KEY blank")
    assert KEY not in done.stderr and "secret" not in done.stderr


def run_copy(folder, *arguments, **environment):
    """Run a copy of the example in *folder*, with no settings but *environment*."""
    folder.mkdir(exist_ok=True)
    shutil.copy(str(EXAMPLE), str(folder))
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run([sys.executable, EXAMPLE.name], env=dict(clean, **environment),
                          cwd=str(folder), capture_output=True, text=True)


def test_it_runs_alone_wherever_it_is_copied(tmp_path):
    done = run_copy(tmp_path / "elsewhere")
    assert done.returncode == 0 and done.stdout.count("content: ") == 2


def test_settings_come_from_the_env_file_beside_it_or_in_the_folder_above(tmp_path):
    for folder in tmp_path, tmp_path / "examples":
        (tmp_path / "examples").mkdir(exist_ok=True)
        (folder / ".env").write_text("TIDB_DATABASE_URL=nonsense\n", encoding="utf-8-sig")
        assert_one_line_error(run_copy(tmp_path / "examples"), "TIDB_DATABASE_URL must be")
        (folder / ".env").unlink()


def test_the_env_file_beside_it_wins_and_the_environment_wins_over_both(tmp_path):
    (tmp_path / "examples").mkdir()
    (tmp_path / ".env").write_text("TIDB_DATABASE_URL=nonsense\n")
    near = tmp_path / "examples" / ".env"
    near.write_text("TIDB_DATABASE_URL=mysql+pymysql://root@127.0.0.1:9/test\n")
    assert_one_line_error(run_copy(near.parent), "2003", "check TIDB_DATABASE_URL")
    assert run_copy(near.parent, TIDB_DATABASE_URL="").returncode == 0


def test_an_env_file_that_is_not_utf8_is_an_error(tmp_path):
    (tmp_path / ".env").write_bytes("JINAAI_API_KEY=key".encode("utf-16"))
    assert_one_line_error(run_copy(tmp_path / "examples"), ".env", "UTF-8")


@pytest.mark.parametrize("url", ["nonsense", "sqlite://", "mysql+pymysql://u:sec@ret@127.0.0.1/t",
                                 "mysql+pymysql://root:secret@127.0.0.1:9/test?charset=x"])
def test_a_url_that_cannot_be_used_is_an_error_that_hides_the_password(run_example, url):
    done = run_example(env={"TIDB_DATABASE_URL": url, "JINAAI_API_KEY": KEY})
    assert_one_line_error(done, "TIDB_DATABASE_URL")
    assert "sec" not in done.stderr and KEY not in done.stderr


def test_the_engine_verifies_and_renews_its_connections_as_the_demos_does(example, demo):
    assert inspect.getsource(example.create_tidb_engine) == inspect.getsource(
        demo.create_tidb_engine)
    url = "mysql+pymysql://root@127.0.0.1:9/test?ssl_verify_cert=true"
    engine = example.create_tidb_engine(url)
    assert engine.pool._recycle == 300 and engine.pool._pre_ping and engine.hide_parameters


def test_wrong_options_are_one_line_and_status_2(run_example):
    for arguments in (["--nonsense"], ["argument"], ["--option", "other"], ["--query", " "]):
        assert_one_line_error(run_example(*arguments), status=2)


def test_ctrl_c_ends_with_status_130_and_no_traceback():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mysql+pymysql://root@127.0.0.1:{silent.getsockname()[1]}/test"
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLE)], env=demo_environment({"TIDB_DATABASE_URL": url}),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        silent.settimeout(60)
        connection, _ = silent.accept()
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=30)[1].decode()
        connection.close()
    assert process.returncode == 130
    assert "Traceback" not in errors and "error" not in errors


def test_a_closed_pipe_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, str(EXAMPLE)], env=demo_environment(), stdout=writer,
                          stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 141
    assert [line for line in done.stderr.splitlines() if not line.startswith("no ")] == []


# The example as a file.

def test_importing_the_example_does_not_connect(tidb_server):
    code = ("import socket; socket.socket.connect = None; "
            "import tidb_auto_embedding as example; print(example.Document.__tablename__)")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=str(EXAMPLE.parent), capture_output=True, text=True,
        env=demo_environment({"TIDB_DATABASE_URL": tidb_server, "JINAAI_API_KEY": KEY}))
    assert done.stdout == "sample_documents\n" and done.stderr == ""


def test_the_inline_metadata_equals_the_demos_requirements():
    block = re.search(r"(?ms)^# /// script$(.*?)^# ///$", EXAMPLE.read_text(encoding="utf-8"))
    dependencies = re.findall(r'"(\S+)"', block.group(1).partition("dependencies")[2])
    assert dependencies == (ROOT / "requirements.txt").read_text().split()
