# /// script
# requires-python = ">=3.8.1"
# dependencies = [
#     "requests>=2.32.4",
#     "python-dotenv>=1.0.1",
#     "SQLAlchemy>=2.0.30,<3",
#     "PyMySQL>=1.1.1",
#     "tidb-vector>=0.0.14",
# ]
# ///
"""Semantic search with TiDB's Auto Embedding: TiDB itself gets the embeddings from Jina AI.

It works on TiDB Cloud Starter on AWS only. Settings come from the environment or, where it has
none, from the file .env beside this script or else in the folder above:
  TIDB_DATABASE_URL  mysql+pymysql://USER:PASSWORD@HOST:PORT/DATABASE; without it SQLite stands in
  JINAAI_API_KEY     a key from https://jina.ai/embeddings/, which is set for the whole cluster;
                     without it TiDB uses the one that was set before
                     (also read: JINA_API_KEY, JINA_AI_API_KEY, JINAAI_APIKEY)

Examples:
  uv run examples/tidb_auto_embedding.py
  uv run examples/tidb_auto_embedding.py --option task --query "Which coffee is not sour?"
"""

# ---- Step 1. Connect to the database ------------------------------------------------------------
import os
from pathlib import Path

import dotenv
import pymysql
import requests
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError

HERE = Path(__file__).resolve().parent
try:
    for folder in (HERE, HERE.parent):  # the first to have a setting wins
        dotenv.load_dotenv(folder / ".env", encoding="utf-8-sig")
except (OSError, ValueError) as error:
    raise SystemExit(f"error: cannot read .env: {error}; save it as UTF-8") from None
TIDB_DATABASE_URL = os.getenv("TIDB_DATABASE_URL", "").strip()


def create_tidb_engine(database_url: str) -> Engine:
    """Return an engine for *database_url*, which connects when it is first used.

    With ssl_verify_cert or ssl_verify_identity in the URL, TLS verifies the server against its
    ssl_ca or, without one, certifi's. Raises ValueError for a URL that cannot be used.
    """
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):  # whose text may show the password
        url = None
    if url is None or url.drivername != "mysql+pymysql" or "@" in str(url.host):
        raise ValueError("TIDB_DATABASE_URL must be mysql+pymysql://USER:PASSWORD@HOST:PORT/"
                         "DATABASE, with %40 for an @ in the password")
    # In seconds: PyMySQL alone would wait for a silent server for ever. The URL may set others.
    url = url.set(query={"read_timeout": "60", "write_timeout": "60", **url.query})
    ca_file, tls = url.query.get("ssl_ca", requests.certs.where()), {}
    asked = [url.query.get("ssl_verify_cert"), url.query.get("ssl_verify_identity")]
    if {"true", "1", "yes"} & {str(value).lower() for value in asked}:
        # From the URL alone, ssl_ca would get lost between SQLAlchemy and PyMySQL.
        tls = {"ssl_ca": ca_file, "ssl_verify_cert": True}
    try:
        open(ca_file).close()
        engine = create_engine(url, pool_recycle=300, pool_pre_ping=True, hide_parameters=True,
                               connect_args=tls)
        options = {**engine.dialect.create_connect_args(url)[1], **tls}
        pymysql.connect(**options, defer_connect=True)  # looks at them, does not connect
    except Exception as error:
        raise ValueError(
            f"an option in TIDB_DATABASE_URL cannot be used: {error}; correct it (ssl_ca is mostly "
            "/etc/ssl/cert.pem on macOS and Alpine, /etc/ssl/certs/ca-certificates.crt on Debian, "
            "Ubuntu and Arch, /etc/pki/tls/certs/ca-bundle.crt on Fedora and RHEL)") from error
    return engine

# ---- Step 2. Configure the API key --------------------------------------------------------------
import re

from sqlalchemy import text

KEY_NAMES = ("JINAAI_API_KEY", "JINA_API_KEY", "JINA_AI_API_KEY", "JINAAI_APIKEY")
JINAAI_API_KEY = next(filter(None, (os.getenv(name, "").strip() for name in KEY_NAMES)), "")


def set_api_key(engine: Engine, key: str) -> None:
    """Let TiDB use *key* for Jina AI: the whole cluster, for all of its users, from now on.

    Raises ValueError for what is no key, and sqlalchemy.exc.DBAPIError where TiDB refuses.
    """
    if not re.fullmatch(r"[\w.~+/=-]+", key, re.ASCII):
        raise ValueError("JINAAI_API_KEY has a character that no key has; copy it again")
    with engine.begin() as connection:
        connection.execute(text("SET @@GLOBAL.TIDB_EXP_EMBED_JINA_AI_API_KEY = :key"), {"key": key})


# ---- Step 3. Create a vector table --------------------------------------------------------------
from typing import Optional

from sqlalchemy import Column, Computed, Integer, Text, column, func, select, table
from sqlalchemy.orm import declarative_base
from sqlalchemy.schema import CreateTable
from tidb_vector.sqlalchemy import VectorType

Base = declarative_base()


def embedding_column(model: str, dimensions: int, options: Optional[str] = None) -> Column:
    """Return a column in which TiDB stores *model*'s embedding of the column `content`.

    The *options* are Jina AI's, as JSON. Such a column is never written: TiDB generates it.
    """
    embedding = func.EMBED_TEXT(model, column("content"), *filter(None, [options]))
    return Column(VectorType(dim=dimensions), Computed(embedding, persisted=True),
                  info={"model": model})


class Document(Base):
    """A text, and its embedding of 2048 dimensions."""

    __tablename__ = "sample_documents"

    id = Column(Integer, primary_key=True, autoincrement=False)
    content = Column(Text)
    embedding = embedding_column("jina_ai/jina-embeddings-v4", 2048)


def create_table(engine: Engine, document: type = Document) -> None:
    """Create the table of *document* if it does not exist.

    Raises ValueError if it exists and its embeddings are not those of the same model.
    """
    model = document.__table__.c.embedding.info["model"]
    columns = table("columns", schema="information_schema")
    query = select(column("generation_expression")).select_from(columns).where(
        column("table_schema") == func.database(), column("column_name") == "embedding",
        column("table_name") == document.__tablename__)
    with engine.begin() as connection:
        # SQLite, whose table is always new, has no such schema to look at.
        expression = connection.scalar(query) if engine.dialect.name == "mysql" else None
        if expression is None:
            connection.execute(CreateTable(document.__table__, if_not_exists=True))
        elif model not in expression:  # many a tutorial has a table of this name
            raise ValueError(f"table {document.__tablename__} exists and its embeddings are not "
                             f"those of {model}; rename or drop it")


# ---- Step 4. Insert data into the table ---------------------------------------------------------
from typing import Dict, List

from sqlalchemy import insert
from sqlalchemy.orm import Session

TEXTS = {
    1: "Java: Object-oriented language for cross-platform development.",
    2: "Java coffee: Bold Indonesian beans with low acidity.",
    3: "Java island: Densely populated, home to Jakarta.",
    4: "Java's syntax is used in Android apps.",
    5: "Dark roast Java beans enhance espresso blends.",
}


def store_texts(engine: Engine, texts: Dict[int, str], document: type = Document) -> List[int]:
    """Store, by one insert, those of *texts* whose ids are not stored yet; return their ids.

    TiDB embeds them meanwhile. What is stored stays as it is, and is not embedded again.
    """
    with Session(engine) as session, session.begin():
        stored = set(session.scalars(select(document.id).where(document.id.in_(list(texts)))))
        rows = [{"id": id, "content": texts[id]} for id in texts if id not in stored]
        if rows:
            session.execute(insert(document), rows)
    return [row["id"] for row in rows]


# ---- Step 5. Search for similar documents -------------------------------------------------------
from typing import Tuple


def find_documents(engine: Engine, query: str, limit: int = 2,
                   document: type = Document) -> List[Tuple[int, str, float]]:
    """Return id, text and cosine distance (0 to 2) of the *limit* texts nearest to *query*.

    TiDB embeds the query; no vector passes through here.
    """
    distance = func.VEC_EMBED_COSINE_DISTANCE(document.embedding, query).label("_distance")
    statement = select(document.id, document.content, distance)
    with Session(engine) as session:
        rows = session.execute(statement.order_by(distance.asc()).limit(limit))
        return [(id, content, distance) for id, content, distance in rows]


# ---- Options ------------------------------------------------------------------------------------
class TaskDocument(Base):
    """A text embedded as a passage; "task@search" has the queries embedded as queries."""

    __tablename__ = "sample_documents_task"

    id = Column(Integer, primary_key=True, autoincrement=False)
    content = Column(Text)
    embedding = embedding_column(
        "jina_ai/jina-embeddings-v4", 2048,
        '{"task": "retrieval.passage", "task@search": "retrieval.query"}')


class SmallDocument(Base):
    """A text, and its embedding of 768 dimensions from a model that gives 1024 by itself."""

    __tablename__ = "sample_documents_768"

    id = Column(Integer, primary_key=True, autoincrement=False)
    content = Column(Text)
    embedding = embedding_column("jina_ai/jina-embeddings-v3", 768, '{"dimensions":768}')


# ---- Without an account: stand-ins for TiDB and its functions -----------------------------------
import json
import math
import sqlite3
import zlib
from collections import Counter

from sqlalchemy import event


def hash_words(text: str, dimensions: int) -> List[float]:
    """Return a vector of length 1, which counts the words of *text* by their hashes."""
    words = re.findall(r"\w+", text.lower()) or [""]
    counts = Counter(zlib.crc32(word.encode()) % dimensions for word in words)
    length = math.sqrt(sum(count ** 2 for count in counts.values()))
    return [counts[index] / length for index in range(dimensions)]


def embed_text(model: str, text: str, options: str = "{}") -> str:
    """Stand in for EMBED_TEXT: return a vector, as TiDB writes it, of 2048 dimensions or others."""
    return json.dumps(hash_words(text, json.loads(options).get("dimensions", 2048)))


def embed_cosine_distance(vector: str, query: str) -> float:
    """Stand in for VEC_EMBED_COSINE_DISTANCE."""
    passage = json.loads(vector)
    return 1 - sum(a * b for a, b in zip(passage, hash_words(query, len(passage))))


def create_stand_in_engine() -> Engine:
    """Return an engine for an in-memory SQLite database with the two functions.

    Raises ValueError where SQLite has no generated columns.
    """
    if sqlite3.sqlite_version_info < (3, 31):
        raise ValueError(f"SQLite {sqlite3.sqlite_version} is too old to stand in for TiDB; set "
                         "TIDB_DATABASE_URL or use a Python with SQLite 3.31 or later")
    engine = create_engine("sqlite://", hide_parameters=True)

    @event.listens_for(engine, "connect")
    def add_functions(connection, record):  # a generated column takes deterministic ones alone
        connection.create_function("EMBED_TEXT", -1, embed_text, deterministic=True)
        connection.create_function(
            "VEC_EMBED_COSINE_DISTANCE", 2, embed_cosine_distance, deterministic=True)
    return engine


# ---- The example --------------------------------------------------------------------------------
import argparse
import sys
from typing import Sequence

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

OPTIONS = {"task": TaskDocument, "dimensions": SmallDocument}
ELSEWHERE = ("Auto Embedding works on TiDB Cloud Starter on AWS only; anywhere else, embed the "
             "texts as jina_ai_embeddings_demo.py does")
# A syntax, variable, function or type that is not known, or not in a generated column.
ADVICE = dict.fromkeys((1064, 1193, 1305, 1901, 3102, 3763, 4161), ELSEWHERE)
ADVICE[1227] = "leave JINAAI_API_KEY blank and have the cluster's administrator set the key"


def run(options: argparse.Namespace) -> None:
    """Store the texts and answer the question. Raises what the five steps raise."""
    document = OPTIONS.get(options.option, Document)
    if TIDB_DATABASE_URL:
        engine, database = create_tidb_engine(TIDB_DATABASE_URL), "TiDB"
        if JINAAI_API_KEY:
            set_api_key(engine, JINAAI_API_KEY)
        else:
            print("no JINAAI_API_KEY: TiDB uses the key that was set for its cluster before",
                  file=sys.stderr)
    else:
        engine, database = create_stand_in_engine(), "In-Memory SQLite"
        print("no TIDB_DATABASE_URL: SQLite in memory stands in for TiDB, and hashed words, which "
              "find shared words and no meaning, for the embeddings of Jina AI", file=sys.stderr)
    create_table(engine, document)
    print(f"- Inserting Data to {database}...")
    new = store_texts(engine, TEXTS, document)
    for id, content in TEXTS.items():
        print(f"  - Inserting: {id}. {content}" if id in new else f"  - Already stored: {id}.")
    print("- The 2 Most Relevant Documents and Their Distances to the Query:")
    for id, content, distance in find_documents(engine, options.query, 2, document):
        print(f"  - distance: {distance}\n    content: {id}. {content}")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the example with the command line *argv*; return the exit status."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # some consoles lack some characters
        stream.reconfigure(errors="backslashreplace", line_buffering=True)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: parser.exit(2, f"error: {message}; see --help\n")
    parser.add_argument("--query", metavar="TEXT", help="the question [%(default)s]",
                        default="How to start learning Java programming?")
    parser.add_argument("--option", choices=list(OPTIONS), help="use a table with one of Jina AI's "
                        "options: a task for passages and one for queries, or 768 dimensions")
    try:
        options = parser.parse_args(argv)
        if not options.query.strip() or re.search("[\ud800-\udfff]", options.query):
            parser.error("--query takes a text, in UTF-8")
        run(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, head for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (SQLAlchemyError, OSError, RuntimeError, ValueError) as error:
        message = str(error)
        if isinstance(error, DBAPIError):
            code, message = error.orig.args[0], error.orig.args[-1]
            advice = ADVICE.get(code, "check TIDB_DATABASE_URL and JINAAI_API_KEY and run again")
            message = f"TiDB: {message} ({code}); {advice}"
        message = " ".join(message.replace(JINAAI_API_KEY or "\n", "***").split())
        print("error:", message[:500], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
