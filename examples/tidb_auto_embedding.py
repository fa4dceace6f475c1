# /// script
# requires-python = ">=3.9"
# dependencies = ["requests>=2.32.4", "python-dotenv>=1.0.1", "SQLAlchemy>=2.0.30,<3",
#                 "PyMySQL>=1.2.0", "tidb-vector>=0.0.14"]
# ///
"""Semantic search with TiDB's Auto Embedding: TiDB itself gets the embeddings from Jina AI.

Auto Embedding works on TiDB Cloud Starter on AWS only. The settings come from the
environment or from the file .env of jina_ai_embeddings_demo.py:
  TIDB_DATABASE_URL is mysql+pymysql://USER:PASSWORD@HOST:PORT/DATABASE.
      Without it, SQLite replaces TiDB.
  JINAAI_API_KEY is a key from https://jina.ai/embeddings/, which is set for the whole
      cluster and all of its users. Without it, TiDB uses the key that was set before.
"""

import argparse
import json
import re
import sqlite3
import sys
from pathlib import Path

from sqlalchemy import Engine, Integer, Text, column, event, func, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import Column, Computed, CreateTable, MetaData, Table
from tidb_vector.sqlalchemy import VectorType

# The demo is in the folder above this one.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import jina_ai_embeddings_demo as demo
from examples.command_line import Parser, error_number, main
from examples.stand_ins import cosine_distance, create_stand_in_engine, stand_in_embeddings


# %% Step 1. Connect to the database
def connect() -> Engine:
    """Return an engine for TiDB, or for SQLite in its place.

    Raises ValueError for a wrong URL, or if SQLite is too old.
    """
    if demo.TIDB_DATABASE_URL:
        return demo.create_tidb_engine(demo.TIDB_DATABASE_URL)

    print("no TIDB_DATABASE_URL: SQLite in memory replaces TiDB, "
          "and a hash of the words replaces the embeddings", file=sys.stderr)
    return create_sqlite_engine()


# %% Step 2. Configure the API key
def set_api_key(engine: Engine, key: str) -> None:
    """Have TiDB use *key* for all users. Raises ValueError and SQLAlchemyError."""
    # A key that was copied with a blank or a quote would fail for all users. So only the
    # characters that keys have are allowed.
    if not re.fullmatch(r"[\w.~+/=-]+", key, re.ASCII):
        raise ValueError("JINAAI_API_KEY has a character that no key has; copy it again")

    statement = text("SET @@GLOBAL.TIDB_EXP_EMBED_JINA_AI_API_KEY = :key")
    with engine.begin() as connection:
        print("setting JINAAI_API_KEY for the whole TiDB cluster and all of its users",
              file=sys.stderr)
        connection.execute(statement, {"key": key})


# %% Step 3. Create a vector table
def define_table(name: str, dimensions: int, model: str, *options: str) -> Table:
    """Return a table whose embeddings TiDB makes of the texts.

    The *options*, if there are any, are Jina AI's as JSON.
    """
    # column() names the column that follows below.
    embed = func.EMBED_TEXT(model, column("content"), *options)
    embedding = Column(
        "embedding", VectorType(dim=dimensions), Computed(embed, persisted=True))
    return Table(
        name,
        MetaData(),
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("content", Text),
        embedding,
        info={"model": model},
    )


# Each table but the first shows one of Jina AI's options.
TABLES = {
    "none": define_table("sample_documents", 2048, "jina_ai/jina-embeddings-v4"),
    # TiDB embeds texts as passages, and because of "task@search" questions as queries.
    "task": define_table(
        "sample_documents_task", 2048, "jina_ai/jina-embeddings-v4",
        '{"task": "retrieval.passage", "task@search": "retrieval.query"}'),
    # Without the option, this model gives 1024 dimensions.
    "dimensions": define_table(
        "sample_documents_768", 768, "jina_ai/jina-embeddings-v3", '{"dimensions":768}'),
}


def create_table(engine: Engine, table: Table) -> None:
    """Create the table unless it exists.

    Raises ValueError if it has no embeddings of the table's model, and SQLAlchemyError.
    """
    if inspect(engine).has_table(table.name):
        check_model(engine, table)
        return

    with engine.begin() as connection:
        connection.execute(CreateTable(table, if_not_exists=True))


def check_model(engine: Engine, table: Table) -> None:
    """Raise ValueError if TiDB's table of this name does not use the model.

    Another tutorial may have created a table of this name.
    """
    # SQLAlchemy cannot read the columns of a table that has a vector.
    with engine.connect() as connection:
        [row] = connection.execute(text(f"SHOW CREATE TABLE {table.name}"))

    model = table.info["model"]
    if model not in row[1]:
        raise ValueError(f"table {table.name} exists and its embeddings are not those of "
                         f"{model}; rename or drop it")


# %% Step 4. Insert data into the table
TEXTS = {
    1: "Java: Object-oriented language for cross-platform development.",
    2: "Java coffee: Bold Indonesian beans with low acidity.",
    3: "Java island: Densely populated, home to Jakarta.",
    4: "Java's syntax is used in Android apps.",
    5: "Dark roast Java beans enhance espresso blends.",
}


def store_texts(engine: Engine, table: Table, texts: dict[int, str]) -> list[int]:
    """Store the texts whose ids are new, and return these ids. Raises SQLAlchemyError."""
    query = select(table.c.id).where(table.c.id.in_(list(texts)))
    with engine.begin() as connection:
        stored = set(connection.scalars(query))
        new = [id for id in texts if id not in stored]
        rows = [{"id": id, "content": texts[id]} for id in new]
        # Without rows, SQLAlchemy would insert a row of NULLs.
        if rows:
            connection.execute(insert(table), rows)
    return new


# %% Step 5. Search for similar documents
def find_documents(engine: Engine, table: Table, question: str,
                   limit: int) -> list[tuple[int, str, float]]:
    """Return the *limit* nearest texts with their ids and cosine distances.

    The nearest comes first. A distance goes from 0 to 2. Raises SQLAlchemyError.
    """
    embedding, content = table.c.embedding, table.c.content
    distance = func.VEC_EMBED_COSINE_DISTANCE(embedding, question).label("_distance")
    query = select(table.c.id, content, distance).order_by(distance.asc()).limit(limit)
    with engine.connect() as connection:
        return [(row.id, row.content, row._distance) for row in connection.execute(query)]


# %% Run it
def run() -> None:
    """Run the five steps with the table that the command line asks for."""
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--option", choices=TABLES, default="none",
        help="which of Jina AI's options to use: a task for texts and one for questions, "
             "or 768 dimensions [none]")
    option = parser.parse_args().option

    try:
        store_and_search(TABLES[option])
    except DBAPIError as error:
        # The error may show the key. explain() hides it, and `from None` drops the error.
        raise ValueError(explain(error)) from None


def store_and_search(table: Table) -> None:
    """Print which texts are stored, and the two that are nearest to a question."""
    engine = connect()
    if demo.TIDB_DATABASE_URL:
        configure_key(engine)
    create_table(engine, table)

    database = "TiDB" if demo.TIDB_DATABASE_URL else "In-Memory SQLite"
    print(f"- Inserting Data to {database}...")
    new = store_texts(engine, table, TEXTS)
    for id, content in TEXTS.items():
        state = "Inserting" if id in new else "Already stored"
        print(f"  - {state}: {id}. {content}")

    print("- The 2 Most Relevant Documents and Their Distances to the Query:")
    question = "How to start learning Java programming?"
    for id, content, distance in find_documents(engine, table, question, limit=2):
        print(f"  - distance: {distance}")
        print(f"    content: {id}. {content}")


def configure_key(engine: Engine) -> None:
    """Have TiDB use JINAAI_API_KEY, or say that it uses another one."""
    if demo.JINAAI_API_KEY:
        set_api_key(engine, demo.JINAAI_API_KEY)
    else:
        print("no JINAAI_API_KEY: TiDB uses the key that was set before", file=sys.stderr)


# %% What an error of TiDB says
# Servers without Auto Embedding answer with these numbers, because they do not know its
# syntax, variable, function or type, or do not allow it in a generated column.
NO_AUTO_EMBEDDING = (1064, 1193, 1305, 1901, 3102, 3763, 4161)
NOT_ALLOWED = 1227


def explain(error: DBAPIError) -> str:
    """Return TiDB's own words without the key, and what to do."""
    words = str(error.orig)
    if demo.JINAAI_API_KEY:
        words = words.replace(demo.JINAAI_API_KEY, "***")

    number = error_number(error)
    advice = "see Troubleshooting in README.md"
    if number in NO_AUTO_EMBEDDING:
        advice = ("Auto Embedding works on TiDB Cloud Starter on AWS only; anywhere else, "
                  "embed the texts as jina_ai_embeddings_demo.py does")
    elif number == NOT_ALLOWED:
        advice = ("leave JINAAI_API_KEY blank and have the cluster's administrator set "
                  "the key")
    return f"TiDB: {words[:200]}; {advice}"


# %% Without an account: SQLite with TiDB's functions
def create_sqlite_engine() -> Engine:
    """Return the stand-in's engine with the functions below. Raises ValueError."""
    # The SQLite of RHEL 8 has no generated columns.
    if sqlite3.sqlite_version_info < (3, 31):
        raise ValueError(f"SQLite {sqlite3.sqlite_version} is too old to replace TiDB; set "
                         "TIDB_DATABASE_URL or use a Python with SQLite 3.31 or later")

    engine = create_stand_in_engine()
    event.listen(engine, "connect", add_functions)
    return engine


def add_functions(connection: sqlite3.Connection, record: object) -> None:
    """Teach a new connection TiDB's functions for Auto Embedding."""
    # SQLite generates a column by a deterministic function only.
    connection.create_function("EMBED_TEXT", -1, embed_text, deterministic=True)
    connection.create_function("VEC_EMBED_COSINE_DISTANCE", 2, embed_cosine_distance)


def embed_text(model: str, content: str, options: str = "{}") -> str:
    """Return the stand-in's embedding as JSON, in the dimensions of the table."""
    dimensions = json.loads(options).get("dimensions", 2048)
    [embedding] = stand_in_embeddings([content], dimensions=dimensions)
    return json.dumps(embedding)


def embed_cosine_distance(embedding: str, question: str) -> float:
    """Return the cosine distance of a stored embedding and a question."""
    dimensions = len(json.loads(embedding))
    [asked] = stand_in_embeddings([question], dimensions=dimensions)
    return cosine_distance(embedding, json.dumps(asked))


if __name__ == "__main__":
    main(run)
