# /// script
# requires-python = ">=3.9"
# dependencies = ["requests>=2.32.4", "python-dotenv>=1.0.1", "SQLAlchemy>=2.0.30,<3",
#                 "PyMySQL>=1.2.0", "tidb-vector>=0.0.14"]
# ///
"""Semantic search with TiDB's Auto Embedding: TiDB itself gets the embeddings from Jina AI.

It works on TiDB Cloud Starter on AWS only. The environment or the demo's file .env sets:
  TIDB_DATABASE_URL  mysql+pymysql://USER:PASSWORD@HOST:PORT/DATABASE; without it SQLite stands in
  JINAAI_API_KEY     a key from https://jina.ai/embeddings/, which is set for the whole cluster
                     and all of its users; without it TiDB uses the one that was set before
"""

import argparse
import json
import math
import re
import sqlite3
import sys
from pathlib import Path

from command_line import Parser
from sqlalchemy import Engine, Integer, Text, column, exc, func, insert, select, text
from sqlalchemy.schema import Column, Computed, CreateTable, MetaData, Table
from tidb_vector.sqlalchemy import VectorType  # type: ignore[import-untyped]

sys.path.append(str(Path(__file__).resolve().parents[1]))
import jina_ai_embeddings_demo as demo


# %% Step 1. Connect to the database
def connect() -> Engine:
    """Return an engine for TiDB or its stand-in. Raises ValueError."""
    if demo.TIDB_DATABASE_URL:
        return demo.create_tidb_engine(demo.TIDB_DATABASE_URL)
    print("no TIDB_DATABASE_URL: SQLite in memory replaces TiDB, and a simple hash of the words "
          "the embeddings of Jina AI", file=sys.stderr)
    return create_stand_in_engine()

# %% Step 2. Configure the API key
def set_api_key(engine: Engine, key: str) -> None:
    """Have the cluster use *key*. Raises ValueError for what is no key, and DBAPIError."""
    # A wrong key would be set for all users, and run() might not find it in TiDB's words.
    if not re.fullmatch(r"[\w.~+/=-]+", key, re.ASCII):
        raise ValueError("JINAAI_API_KEY has a character that no key has; copy it again")
    with engine.begin() as connection:
        print("setting JINAAI_API_KEY for the whole TiDB cluster and all of its users",
              file=sys.stderr)
        connection.execute(text("SET @@GLOBAL.TIDB_EXP_EMBED_JINA_AI_API_KEY = :key"), {"key": key})

# %% Step 3. Create a vector table
def define_table(name: str, dimensions: int, model: str, *options: str) -> Table:
    """Return a table whose embeddings TiDB generates; the *options* are Jina AI's, as JSON."""
    embedding = func.EMBED_TEXT(model, column("content"), *options)
    vector = Column("embedding", VectorType(dim=dimensions), Computed(embedding, persisted=True))
    return Table(name, MetaData(), Column("id", Integer, primary_key=True, autoincrement=False),
                 Column("content", Text), vector, info={"model": model})


TABLES = {  # by Jina AI's option that each is an example of
    "none": define_table("sample_documents", 2048, "jina_ai/jina-embeddings-v4"),
    # Texts are embedded as passages and, by "task@search", questions as queries.
    "task": define_table("sample_documents_task", 2048, "jina_ai/jina-embeddings-v4",
                         '{"task": "retrieval.passage", "task@search": "retrieval.query"}'),
    # The model gives 1024 dimensions by itself.
    "dimensions": define_table("sample_documents_768", 768, "jina_ai/jina-embeddings-v3",
                               '{"dimensions":768}'),
}


def create_table(engine: Engine, table: Table) -> None:
    """Create *table* unless it exists. Raises ValueError if it has embeddings of another model."""
    query = text("SELECT GROUP_CONCAT(generation_expression) FROM information_schema.columns "
                 "WHERE table_schema = DATABASE() AND table_name = :name")
    with engine.begin() as connection:
        expression = None
        if engine.dialect.name == "mysql":  # the stand-in is new, and has no such schema
            expression = connection.scalar(query, {"name": table.name})
        if expression is None:
            connection.execute(CreateTable(table, if_not_exists=True))
        elif table.info["model"] not in expression:  # many a tutorial has a table of this name
            raise ValueError(f"table {table.name} exists and its embeddings are not "
                             f"those of {table.info['model']}; rename or drop it")

# %% Step 4. Insert data into the table
TEXTS = {
    1: "Java: Object-oriented language for cross-platform development.",
    2: "Java coffee: Bold Indonesian beans with low acidity.",
    3: "Java island: Densely populated, home to Jakarta.",
    4: "Java's syntax is used in Android apps.",
    5: "Dark roast Java beans enhance espresso blends.",
}


def store_texts(engine: Engine, table: Table, texts: dict[int, str]) -> list[int]:
    """Store those of *texts* whose ids are new, by one insert; return these ids."""
    with engine.begin() as connection:
        stored = set(connection.scalars(select(table.c.id).where(table.c.id.in_(list(texts)))))
        new = [id for id in texts if id not in stored]
        if new:
            connection.execute(insert(table), [{"id": id, "content": texts[id]} for id in new])
    return new

# %% Step 5. Search for similar documents
def find_documents(engine: Engine, table: Table, question: str,
                   limit: int) -> list[tuple[int, str, float]]:
    """Return id, text and cosine distance (0 to 2) of the *limit* texts nearest to *question*."""
    distance = func.VEC_EMBED_COSINE_DISTANCE(table.c.embedding, question).label("_distance")
    query = select(table.c.id, table.c.content, distance).order_by(distance.asc()).limit(limit)
    with engine.connect() as connection:
        return [(row.id, row.content, row._distance) for row in connection.execute(query)]

# %% Without an account: stand-ins for TiDB's functions
def embed_text(model: str, content: str, options: str = "{}") -> str:
    """Return the demo's stand-in embedding with zeros up to the dimensions of the table."""
    [embedding] = demo.stand_in_embeddings([content])
    dimensions = json.loads(options).get("dimensions", 2048)
    return json.dumps(embedding + [0.0] * (dimensions - len(embedding)))


def embed_cosine_distance(vector: str, question: str) -> float:
    """Return the cosine distance between a vector of embed_text and a question."""
    stored, [asked] = json.loads(vector), demo.stand_in_embeddings([question])
    product = sum(a * b for a, b in zip(stored, asked))
    return 1 - product / (math.hypot(*stored) * math.hypot(*asked))


def create_stand_in_engine() -> Engine:
    """Return the demo's, with these two functions. Raises ValueError for an old SQLite."""
    if sqlite3.sqlite_version_info < (3, 31):  # which has no generated columns
        raise ValueError(f"SQLite {sqlite3.sqlite_version} is too old to replace TiDB; set "
                         "TIDB_DATABASE_URL or use a Python with SQLite 3.31 or later")
    engine = demo.create_stand_in_engine()
    connection = engine.raw_connection()  # the only one
    connection.create_function("EMBED_TEXT", -1, embed_text, deterministic=True)
    connection.create_function("VEC_EMBED_COSINE_DISTANCE", 2, embed_cosine_distance)
    connection.close()
    return engine

# %% Run it
def store_and_search(table: Table) -> None:
    """Run the five steps, which raise ValueError and DBAPIError."""
    engine = connect()
    if demo.TIDB_DATABASE_URL and demo.JINAAI_API_KEY:
        set_api_key(engine, demo.JINAAI_API_KEY)
    elif demo.TIDB_DATABASE_URL:
        print("no JINAAI_API_KEY: TiDB uses the key that was set before", file=sys.stderr)
    create_table(engine, table)
    print(f"- Inserting Data to {'TiDB' if demo.TIDB_DATABASE_URL else 'In-Memory SQLite'}...")
    new = store_texts(engine, table, TEXTS)
    for id, content in TEXTS.items():
        print(f"  - Inserting: {id}. {content}" if id in new else f"  - Already stored: {id}.")
    print("- The 2 Most Relevant Documents and Their Distances to the Query:")
    found = find_documents(engine, table, "How to start learning Java programming?", 2)
    for id, content, distance in found:
        print(f"  - distance: {distance}\n    content: {id}. {content}")


def run() -> None:
    """Do all this with the table that the command line asks for. Raises ValueError."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--option", choices=TABLES, default="none", help="the option of Jina AI's "
                        "to use: a task for texts and one for questions, or 768 dimensions")
    try:
        store_and_search(TABLES[parser.parse_args().option])
    except exc.DBAPIError as error:
        words = str(error.orig).replace(demo.JINAAI_API_KEY or "\0", "***")
        number = error.orig.args[0] if error.orig else 0
        # A syntax, variable, function or type that is not known, or not in a generated column.
        if number in (1064, 1193, 1305, 1901, 3102, 3763, 4161):
            words = (f"TiDB: {words[:200]}; Auto Embedding works on TiDB Cloud Starter on AWS "
                     "only; anywhere else, embed the texts as jina_ai_embeddings_demo.py does")
        elif number == 1227:
            words = (f"TiDB: {words[:200]}; leave JINAAI_API_KEY blank and have the cluster's "
                     "administrator set the key")
        raise ValueError(words) from error  # demo.main has advice for other numbers


if __name__ == "__main__":
    demo.main(run)
