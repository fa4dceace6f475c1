"""Auto Embedding: the document's SQL, a run on the stand-in, and what a TiDB without it answers."""

import math
import re

import pytest
from helpers import ROOT, assert_one_line_error, sql
from jina_server import JinaServer
from sqlalchemy import event, make_url, select
from sqlalchemy.exc import DBAPIError

from examples import tidb_auto_embedding as example
from examples.stand_ins import stand_in_embeddings

SCRIPT = ROOT / "examples" / "tidb_auto_embedding.py"
KEY = JinaServer.key
QUESTION = "How to start learning Java programming?"
TABLE = example.TABLES["none"]
DIMENSIONS = {"none": 2048, "task": 2048, "dimensions": 768}

ELSEWHERE = "Auto Embedding works on TiDB Cloud Starter on AWS only"
KEY_IS_SET = "setting JINAAI_API_KEY for the whole TiDB cluster and all of its users\n"
KEY_IS_KEPT = "no JINAAI_API_KEY: TiDB uses the key that was set before\n"

OUTPUT = """\
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


@pytest.fixture
def run_example(run_demo):
    """Run the example as a user does: run_example(*arguments, NAME=setting)."""

    def run(*arguments, **settings):
        return run_demo(*arguments, env=settings, script=SCRIPT)

    return run


def without_first(done, line):
    """The completed process without the first line on stderr, which has to be *line*."""
    assert done.stderr.startswith(line)
    done.stderr = done.stderr[len(line):]
    return done


# %% The document's SQL
SET_KEY = f'SET @@GLOBAL.TIDB_EXP_EMBED_JINA_AI_API_KEY = "{KEY}";'
COLUMNS = {
    "none": """
        `embedding` VECTOR(2048) GENERATED ALWAYS AS (
            EMBED_TEXT("jina_ai/jina-embeddings-v4", `content`)
        ) STORED""",
    "task": """
        `embedding` VECTOR(2048) GENERATED ALWAYS AS (
            EMBED_TEXT("jina_ai/jina-embeddings-v4", `content`,
                '{"task": "retrieval.passage", "task@search": "retrieval.query"}')
        ) STORED""",
    "dimensions": """
        `embedding` VECTOR(768) GENERATED ALWAYS AS (
            EMBED_TEXT("jina_ai/jina-embeddings-v3", `content`, '{"dimensions":768}')
        ) STORED""",
}
SEARCH = """
    SELECT `id`, `content`,
        VEC_EMBED_COSINE_DISTANCE(
            embedding, "How to start learning Java programming?") AS _distance
    FROM sample_documents ORDER BY _distance ASC LIMIT 2;"""


def plain(statement):
    """The statement in one line, with one kind of quotes and names without their table's."""
    words = re.sub(r"`|;|\\|sample_documents\.", "", statement)
    one_line = " ".join(words.replace('"', "'").split())
    return re.sub(r" ?([(),]) ?", r"\1", one_line)


@pytest.fixture
def tidb_engine(tidb):
    """The demo's engine for a TiDB without Auto Embedding."""
    engine = example.demo.create_tidb_engine(tidb)
    yield engine
    engine.dispose()


@pytest.fixture
def sent(tidb_engine):
    """The statements that TiDB is sent, whether it takes them or not."""
    statements = []

    @event.listens_for(tidb_engine, "before_cursor_execute")
    def record(connection, cursor, statement, parameters, context, many):
        if not many:
            statements.append(plain(cursor.mogrify(statement, parameters)))

    return statements


def test_the_key_is_set_by_the_documents_statement(tidb_engine, sent, capsys):
    with pytest.raises(DBAPIError) as caught:
        example.set_api_key(tidb_engine, KEY)

    assert plain(SET_KEY) in sent
    assert capsys.readouterr().err == KEY_IS_SET
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("option", COLUMNS)
def test_the_table_has_the_documents_column(tidb_engine, sent, option):
    table = example.TABLES[option]

    with pytest.raises(DBAPIError):
        example.create_table(tidb_engine, table)

    [create] = [statement for statement in sent if statement.startswith("CREATE")]
    assert create.startswith(f"CREATE TABLE IF NOT EXISTS {table.name}(")
    assert plain(COLUMNS[option]) in create
    # Without it, which the document leaves out twice, ids could repeat.
    assert "PRIMARY KEY(id)" in create


def test_the_search_is_the_documents(tidb_engine, sent):
    with pytest.raises(DBAPIError):
        example.find_documents(tidb_engine, TABLE, QUESTION, 2)

    assert plain(SEARCH) in sent


# %% On the stand-in
RUNS = {
    "nothing is set": ([], ""),
    "a key": ([], KEY),
    "an option": (["--option", "task"], ""),
    "another option": (["--option", "dimensions"], ""),
}


@pytest.mark.parametrize("options, key", RUNS.values(), ids=RUNS)
def test_without_a_database_it_stores_five_texts_and_finds_two(run_example, jina, options, key):
    done = run_example(*options, JINAAI_API_KEY=key, JINAAI_API_URL=jina.url)

    assert done.returncode == 0
    assert re.sub(r"0\.\d+", "DISTANCE", done.stdout) == OUTPUT
    assert re.fullmatch("no TIDB_DATABASE_URL: .*\n", done.stderr)
    assert jina.requests == []


@pytest.fixture
def stand_in():
    """An engine for SQLite with the tables."""
    engine = example.create_sqlite_engine()
    for table in example.TABLES.values():
        example.create_table(engine, table)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("option, dimensions", DIMENSIONS.items())
def test_embeddings_have_the_tables_dimensions(stand_in, option, dimensions):
    table = example.TABLES[option]

    example.store_texts(stand_in, table, {1: "Java", 2: "coffee"})

    with stand_in.connect() as connection:
        stored = connection.scalars(select(table.c.embedding).order_by(table.c.id)).all()
    expected = stand_in_embeddings(["Java", "coffee"], dimensions=dimensions)
    assert [list(embedding) for embedding in stored] == expected


def test_texts_are_stored_once_by_their_ids(stand_in):
    first = example.store_texts(stand_in, TABLE, {1: "Java", 2: "coffee"})
    second = example.store_texts(stand_in, TABLE, {2: "another text", 3: "island"})
    third = example.store_texts(stand_in, TABLE, {3: "island"})

    assert (first, second, third) == ([1, 2], [3], [])
    with stand_in.connect() as connection:
        stored = connection.execute(select(TABLE.c.id, TABLE.c.content)).all()
    assert stored == [(1, "Java"), (2, "coffee"), (3, "island")]


def test_documents_come_with_id_and_distance_the_nearest_first(stand_in):
    example.store_texts(stand_in, TABLE, example.TEXTS)

    found = example.find_documents(stand_in, TABLE, QUESTION, 2)

    # Of the question's 6 words, one text of 7 words has "java" and "to", another one "java".
    assert found == [
        (3, example.TEXTS[3], pytest.approx(1 - 2 / math.sqrt(6 * 7))),
        (5, example.TEXTS[5], pytest.approx(1 - 1 / math.sqrt(6 * 7))),
    ]


@pytest.mark.parametrize("limit, count", [(1, 1), (4, 4), (9, 5)])
def test_the_limit_is_how_many_documents_come(stand_in, limit, count):
    example.store_texts(stand_in, TABLE, example.TEXTS)

    assert len(example.find_documents(stand_in, TABLE, QUESTION, limit)) == count


# %% On a TiDB without Auto Embedding
KEYS = {
    "TiDB has no variable for a key": (KEY, KEY_IS_SET, "(1193, "),
    "TiDB has no such function": ("", KEY_IS_KEPT, "(3102, "),
    # A key with the variable's name is the one that TiDB shows in its error.
    "TiDB's words show the key": (
        "tidb_exp_embed_jina_ai_api_key", KEY_IS_SET, "variable '***'"),
}


@pytest.mark.parametrize("key, line, words", KEYS.values(), ids=KEYS)
def test_tidb_without_it_is_one_line_that_says_where_it_works(run_example, tidb, key, line, words):
    done = run_example(TIDB_DATABASE_URL=tidb, JINAAI_API_KEY=key)

    assert_one_line_error(without_first(done, line), "error: TiDB: ", words, ELSEWHERE)
    assert KEY not in done.stderr
    assert sql(tidb, "SHOW TABLES") == []


def generated_by(model):
    """A column in which TiDB has [1,2] for each text, and which names a model."""
    return f"""
        embedding VECTOR(2) GENERATED ALWAYS AS (
            VEC_FROM_TEXT(REPLACE('[1,2]', '{model}', content))) STORED"""


@pytest.fixture
def create_sample(tidb):
    """create_sample(column, ...): create the example's table with these columns, too."""

    def create(*columns):
        definition = ", ".join(["id INT PRIMARY KEY", "content TEXT", *columns])
        sql(tidb, f"CREATE TABLE sample_documents ({definition})")

    return create


@pytest.fixture
def run_without_the_distance(run_example, tidb, create_sample):
    """Run the example on a TiDB in which it lacks the distance alone."""
    create_sample(generated_by("jina_ai/jina-embeddings-v4"))
    return lambda: run_example(TIDB_DATABASE_URL=tidb)


def test_tidb_without_the_distance_stores_the_texts(run_without_the_distance, tidb):
    done = run_without_the_distance()

    assert_one_line_error(done, "1305", "does not exist", ELSEWHERE)
    assert done.stdout.count("  - Inserting: ") == 5
    # The embeddings are TiDB's, not the stand-in's.
    stored = sql(tidb, "SELECT id, content, VEC_AS_TEXT(embedding) FROM sample_documents")
    assert stored == [(id, text, "[1,2]") for id, text in example.TEXTS.items()]


def test_a_second_run_says_that_the_texts_are_stored(run_without_the_distance):
    run_without_the_distance()

    done = run_without_the_distance()

    assert_one_line_error(done, "1305", ELSEWHERE)
    assert done.stdout.count("  - Already stored: ") == 5


OTHER_COLUMNS = {
    "no embeddings": [],
    "embeddings that a program stores": ["embedding VECTOR(2048)"],
    "embeddings of another model": [generated_by("openai/text-embedding-3-small")],
}


@pytest.mark.parametrize("columns", OTHER_COLUMNS.values(), ids=OTHER_COLUMNS)
def test_a_table_with_other_embeddings_is_left_alone(run_example, tidb, create_sample, columns):
    create_sample(*columns)

    done = run_example(TIDB_DATABASE_URL=tidb)

    assert_one_line_error(done, "sample_documents", "jina_ai/jina-embeddings-v4", "drop")
    assert sql(tidb, "SELECT COUNT(*) FROM sample_documents") == [(0,)]


@pytest.fixture
def simple_user(tidb):
    """The URL for a user who may do everything in the database, and nothing beside it."""
    url = make_url(tidb)
    name = url.database[:32]
    sql(tidb, f"CREATE USER '{name}' IDENTIFIED BY 'secret'")
    sql(tidb, f"GRANT ALL ON {url.database}.* TO '{name}'")
    yield url.set(username=name, password="secret").render_as_string(hide_password=False)
    sql(tidb, f"DROP USER '{name}'")


def test_a_user_who_may_not_set_the_key_is_told_what_to_do(run_example, simple_user):
    done = run_example(TIDB_DATABASE_URL=simple_user, JINAAI_API_KEY=KEY)

    assert_one_line_error(
        without_first(done, KEY_IS_SET), "error: TiDB: (1227, ", "leave JINAAI_API_KEY blank")
    assert KEY not in done.stderr
    assert "secret" not in done.stderr


WRONG_SETTINGS = {
    "no URL": ({"TIDB_DATABASE_URL": "nonsense"}, "TIDB_DATABASE_URL must be"),
    "no server": (
        {"TIDB_DATABASE_URL": "mysql+pymysql://root:secret@127.0.0.1:9/test"}, "(2003, "),
    "no key": ({"JINAAI_API_KEY": "Bearer secret"}, "copy it again"),
}


@pytest.mark.parametrize("wrong, words", WRONG_SETTINGS.values(), ids=WRONG_SETTINGS)
def test_a_wrong_setting_is_one_line(run_example, tidb, wrong, words):
    done = run_example(**{"TIDB_DATABASE_URL": tidb, "JINAAI_API_KEY": KEY, **wrong})

    # The one line is the error's, so there is none that says that a key is set.
    assert_one_line_error(done, words)
    assert KEY not in done.stderr
    assert "secret" not in done.stderr


WRONG_KEYS = {
    "a blank": "Bearer jina_key",
    "another letter": "jina_k\u00e9y",
    "a quote": "jina_key'",
    "a backslash": "jina_key\\",
    "an end of the line": "jina_key\n",
}


@pytest.mark.parametrize("key", WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_a_key_that_was_copied_with_something_else_is_not_set(tidb_engine, sent, key):
    with pytest.raises(ValueError, match="copy it again") as caught:
        example.set_api_key(tidb_engine, key)

    assert sent == []
    assert key not in str(caught.value)


def test_a_wrong_option_is_one_line(run_example):
    done = run_example("--option", "nonsense")

    assert_one_line_error(done, "nonsense", "see --help", status=2)
