"""examples/stand_ins.py: what stands in for a key and for TiDB, without an account."""

import functools
from multiprocessing.pool import ThreadPool

import pytest
from helpers import sql
from jina_server import embedding_of
from sqlalchemy import String, select
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from examples import stand_ins

embed = functools.partial(stand_ins.stand_in_embeddings, dimensions=768)


@pytest.fixture
def engine():
    engine = stand_ins.create_stand_in_engine()
    yield engine
    engine.dispose()


# %% Which account is missing
def test_without_a_key_a_line_says_so_and_words_are_counted(demo, capsys):
    _, chosen = demo.connect()

    assert chosen(["a b"], "retrieval.query", 75) == embed(["a b"])
    no_url, no_key = capsys.readouterr().err.splitlines()
    assert no_url.startswith("no TIDB_DATABASE_URL: SQLite")
    assert no_key.startswith("no JINAAI_API_KEY: ")
    assert "https://jina.ai/embeddings/" in no_key


def test_with_a_key_only_tidb_has_a_stand_in(jina_demo, capsys):
    engine, chosen = jina_demo.connect()

    assert chosen(["a b"]) == [embedding_of("a b")]
    assert engine.dialect.name == "sqlite"
    [no_url] = capsys.readouterr().err.splitlines()
    assert no_url.startswith("no TIDB_DATABASE_URL: SQLite")


def test_on_tidb_nothing_stands_in_for_a_missing_key(demo, tidb, monkeypatch, capsys):
    monkeypatch.setattr(demo, "TIDB_DATABASE_URL", tidb)

    engine, chosen = demo.connect()

    assert engine.dialect.name == "mysql"
    with pytest.raises(demo.EmbeddingError, match="JINAAI_API_KEY is not set"):
        chosen(["a b"])
    assert capsys.readouterr().err == ""


# %% Embeddings
COUNTED = {  # a text, and where its vector has which number
    "What is TiDB? TiDB!": {175: 2, 354: 1, 407: 1},
    "WHAT IS tidb? tidb?": {175: 2, 354: 1, 407: 1},
    "a " * 99: {579: 99},
    "\u6570\u636e": {233: 1, 467: 1},
    "\U0001f600": {580: 1},
    "": {0: 1},
    "?! \0": {0: 1},
}


@pytest.mark.parametrize("text", COUNTED)
def test_a_vector_counts_the_words_and_is_the_same_everywhere(text):
    [vector] = embed([text])

    assert len(vector) == 768
    assert all(isinstance(number, float) for number in vector)
    assert {place: number for place, number in enumerate(vector) if number} == COUNTED[text]


@pytest.mark.parametrize("dimensions", [3, 1024])
def test_a_vector_has_as_many_dimensions_as_asked_for(dimensions):
    [vector] = stand_ins.stand_in_embeddings(["one two"], dimensions=dimensions)

    assert len(vector) == dimensions
    assert sum(vector) == 2


def test_a_task_and_a_patience_are_ignored():
    assert embed(["a"], "retrieval.query", 75) == embed(["a"])


def test_a_generator_gives_a_vector_for_each_text_in_their_order():
    assert embed(text for text in "abc") == [*embed(["a"]), *embed(["b"]), *embed(["c"])]


def test_the_text_that_shares_most_words_is_found(demo, engine):
    texts = ["The key is under the mat.", "Lunch is at noon.", "Call a plumber."]
    demo.create_table(engine)
    demo.insert_documents(engine, texts, embed(texts))

    [question] = embed(["Where is the key?"])

    [(nearest, _)] = demo.find_documents(engine, question, 1)
    assert nearest == texts[0]


# %% The database
def test_threads_share_the_database(demo, engine):
    demo.create_table(engine)
    texts = [str(number) for number in range(100)]

    with ThreadPool(4) as threads:
        threads.map(lambda text: demo.insert_documents(engine, [text], embed([text])), texts)
        stored = threads.map(lambda text: demo.new_texts(engine, [text]) == [], texts)

    assert all(stored)


def test_each_engine_has_a_database_of_its_own(demo, engine):
    other = stand_ins.create_stand_in_engine()
    for database in engine, other:
        demo.create_table(database)

    demo.insert_documents(engine, ["a"], embed(["a"]))

    assert demo.new_texts(engine, ["a"]) == []
    assert demo.new_texts(other, ["a"]) == ["a"]


def test_an_error_shows_no_text_and_no_vector(demo, engine):
    with pytest.raises(SQLAlchemyError, match="no such table") as caught:
        demo.insert_documents(engine, ["secret"], [[0.125] * 768])

    assert "secret" not in str(caught.value)
    assert "0.125" not in str(caught.value)


VECTORS = {
    "the same": ("[1,0]", "[1,0]"),
    "another length": ("[1,0.5]", "[2,1]"),
    "the opposite": ("[1,0]", "[-2,0]"),
    "at a right angle": ("[1,0]", "[0,3]"),
    "at any angle": ("[1,2,3]", "[4,5,6.5]"),
}


@pytest.mark.parametrize(("left", "right"), VECTORS.values(), ids=VECTORS)
def test_its_distance_is_tidbs(engine, tidb_server, left, right):
    statement = f"SELECT VEC_COSINE_DISTANCE('{left}', '{right}')"

    with engine.connect() as connection:
        distance = connection.exec_driver_sql(statement).scalar()

    assert sql(tidb_server, statement) == [(pytest.approx(distance, abs=1e-7),)]


# %% MySQL's ON DUPLICATE KEY UPDATE, for a table of one's own
class Base(DeclarativeBase):
    pass


class Page(Base):
    __tablename__ = "pages"

    url: Mapped[str] = mapped_column(String(255), primary_key=True)
    title: Mapped[str] = mapped_column(String(255))
    text: Mapped[str] = mapped_column(String(255))


class Tag(Base):
    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True)
    word: Mapped[str] = mapped_column(String(255), unique=True)
    color: Mapped[str] = mapped_column(String(255))


@pytest.fixture(params=["in-memory", "tidb"])
def session(request, demo):
    """A session on the stand-in, and one on TiDB, each with both tables."""
    if request.param == "tidb":
        engine = demo.create_tidb_engine(request.getfixturevalue("tidb"))
    else:
        engine = request.getfixturevalue("engine")

    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


def test_an_upsert_changes_the_columns_that_it_names(session):
    session.execute(mysql.insert(Page), [{"url": "/faq", "title": "FAQ", "text": "old"}])

    statement = mysql.insert(Page)
    new = statement.inserted
    session.execute(statement.on_duplicate_key_update(title=new.title, text=new.text), [
        {"url": "/faq", "title": "Questions", "text": "new"},
        {"url": "/home", "title": "Home", "text": "welcome"},
    ])

    pages = session.execute(select(Page.url, Page.title, Page.text).order_by(Page.url))
    assert [tuple(page) for page in pages] == [
        ("/faq", "Questions", "new"),
        ("/home", "Home", "welcome"),
    ]


def test_an_upsert_leaves_other_columns_as_they_are(session):
    session.execute(mysql.insert(Page), [{"url": "/faq", "title": "FAQ", "text": "old"}])

    statement = mysql.insert(Page)
    upsert = statement.on_duplicate_key_update(title=statement.inserted.title)
    session.execute(upsert, [{"url": "/faq", "title": "Questions", "text": "new"}])

    assert session.execute(select(Page.title, Page.text)).all() == [("Questions", "old")]


def test_an_upsert_goes_by_a_unique_column_beside_an_id(session):
    session.execute(mysql.insert(Tag), [{"word": "sky", "color": "blue"}])

    statement = mysql.insert(Tag)
    upsert = statement.on_duplicate_key_update(color=statement.inserted.color)
    session.execute(upsert, [{"word": "sky", "color": "grey"}, {"word": "sun", "color": "red"}])

    tags = session.execute(select(Tag.word, Tag.color).order_by(Tag.word))
    assert [tuple(tag) for tag in tags] == [("sky", "grey"), ("sun", "red")]


def test_an_upsert_names_the_key_for_sqlite_before_3_35():
    statement = mysql.insert(Page)
    upsert = statement.on_duplicate_key_update(title=statement.inserted.title)

    assert "ON CONFLICT (url) DO UPDATE" in str(upsert.compile(dialect=sqlite.dialect()))
