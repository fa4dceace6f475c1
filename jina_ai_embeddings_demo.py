# /// script
# requires-python = ">=3.9"
# dependencies = ["requests>=2.32.4", "python-dotenv>=1.0.1", "SQLAlchemy>=2.0.30,<3",
#                 "PyMySQL>=1.2.0", "tidb-vector>=0.0.14"]
# ///
"""Semantic search with the Jina AI embeddings API and TiDB Vector Search, in five steps.

It takes no options; the environment or a file .env sets JINAAI_API_KEY, TIDB_DATABASE_URL,
JINAAI_MODEL and JINAAI_API_URL (see .env.example). For your own texts: examples/own_texts.py
"""

import argparse
import contextlib
import json
import logging
import math
import os
import random
import re
import sqlite3
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import dotenv
import requests
import urllib3
from sqlalchemy import Column, Engine, Integer, String, create_engine, exc, make_url, select, text
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import QueuePool
from sqlalchemy.schema import CreateTable
from tidb_vector import DistanceMetric  # type: ignore[import-untyped]
from tidb_vector.sqlalchemy import VectorAdaptor, VectorType  # type: ignore[import-untyped]

# %% Step 1. Get embeddings from Jina AI
with contextlib.suppress(OSError, ValueError):  # which connect() raises again
    dotenv.load_dotenv(encoding="utf-8-sig")
JINAAI_API_KEY = (os.getenv("JINAAI_API_KEY") or os.getenv("JINA_API_KEY")
                  or os.getenv("JINA_AI_API_KEY") or os.getenv("JINAAI_APIKEY") or "").strip()
JINAAI_API_URL = os.getenv("JINAAI_API_URL", "").strip() or "https://api.jina.ai/v1/embeddings"
JINAAI_MODEL = os.getenv("JINAAI_MODEL", "").strip() or "jina-embeddings-v2-base-en"
CONTROL = r"[\s\0-\x1f\x7f-\x9f]+"  # characters that have no place in a line of a log
DIMENSIONS = 768  # of an embedding, and of the table's column
BATCH_SIZE = 512  # texts a request: the smallest limit in https://api.jina.ai/openapi.json


class EmbeddingError(Exception):
    """Why there is no embedding: the answer's *status*, 0 for none, and the *retries* worth it."""
    def __init__(self, message: str, status: int = 0, retries: float = 0, retry_after: float = 0):
        super().__init__(message)
        self.status, self.retries, self.retry_after = status, retries, retry_after


def generate_embeddings(text: str, patience: float = 120) -> list[float]:
    """Return the embedding of a question, a list of 768 floats; see embed_texts."""
    return embed_texts([text], "retrieval.query", patience)[0]


def embed_texts(texts: Sequence[str], task: str = "retrieval.passage",
                patience: float = 120) -> list[list[float]]:
    """Return the embedding of each text, a list of 768 floats, in the order of *texts*.
    Models from v3 on are told the *task*. Raises EmbeddingError when refused, or when retries with
    up to *patience* seconds between them in all did not help; the answers' own time comes on top.
    """
    unique = list(dict.fromkeys(texts))
    embeddings: dict[str, list[float]] = {}
    retries = 0
    while len(embeddings) < len(unique):
        batch = unique[len(embeddings):len(embeddings) + BATCH_SIZE]
        try:
            embeddings.update(zip(batch, request_embeddings(batch, task)))
            retries = 0
        except EmbeddingError as error:
            if retries >= error.retries or patience <= 0 or error.retry_after > min(patience, 90):
                raise
            wait = min(patience, min(2 ** retries, 8) * random.uniform(0.5, 1))  # not all at once
            wait = max(wait, error.retry_after)
            logging.getLogger(__name__).warning("%s (next try in %.0f s)", error, wait)
            time.sleep(wait)
            retries, patience = retries + 1, patience - wait
    return [embeddings[text] for text in texts]


def request_embeddings(texts: list[str], task: str) -> list[list[float]]:
    """Return the embeddings of *texts* from a single request. Raises EmbeddingError."""
    headers = {"Content-Type": "application/json"}
    if JINAAI_API_KEY:
        headers["Authorization"] = f"Bearer {JINAAI_API_KEY}"
    elif "//api.jina.ai/" in JINAAI_API_URL:
        raise EmbeddingError("JINAAI_API_KEY is not set; get one at https://jina.ai/embeddings/")
    if not (JINAAI_API_KEY.isascii() and JINAAI_API_KEY.isprintable()):  # requests would show it
        raise EmbeddingError("JINAAI_API_KEY has a character that no key has; copy it again")
    data: dict[str, Any] = {"input": texts, "model": JINAAI_MODEL}
    if re.match("jina-embeddings-v[3-9]", JINAAI_MODEL):  # v2 takes neither of these
        data.update(task=task, dimensions=DIMENSIONS)
    try:
        response = requests.post(
            JINAAI_API_URL, headers=headers, json=data, timeout=(10, 60),  # connect, read: seconds
            allow_redirects=False,  # the key is for this host alone
            auth=lambda request: request)  # or a password in ~/.netrc would replace the key
    except (OSError, ValueError) as error:  # those of requests, and a CA file that is missing
        retries = 0 if isinstance(error, ValueError) or type(error) is OSError else 4
        raise EmbeddingError(f"no answer ({type(error).__name__})", retries=retries) from error
    return read_embeddings(response, len(texts))


def read_embeddings(response: requests.Response, count: int) -> list[list[float]]:
    """Return the *count* embeddings of an answer in the order of `index`. Raises EmbeddingError."""
    if response.status_code != 200:
        raise refusal(response)
    try:
        data = sorted(response.json()["data"], key=lambda item: item["index"])
        embeddings = [item["embedding"] for item in data]
        lengths = [math.hypot(*embedding) for embedding in embeddings]
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise refusal(response) from error
    if [item["index"] for item in data] != list(range(count)):
        raise EmbeddingError(f"{len(data)} embeddings, not one each for {count} texts", 200)
    for embedding in embeddings:
        if len(embedding) != DIMENSIONS:
            raise EmbeddingError(f"{len(embedding)} dimensions, the table has {DIMENSIONS}", 200)
    # TiDB computes in float32: beyond these bounds a distance is NULL, and sorts first.
    if not all(1e-9 < length < 1e9 for length in lengths):
        raise EmbeddingError("an embedding of zeros or not of finite numbers", 200)
    return embeddings


def refusal(response: requests.Response) -> EmbeddingError:
    """Return the error for an answer without embeddings, in the service's own words."""
    status, words, asks, retry_after = response.status_code, "no embeddings", "", None
    retries: float = 4 if status in (200, 408, 429, 500, 502, 503, 504) else 0
    with contextlib.suppress(OverflowError, ValueError, urllib3.exceptions.InvalidHeader):
        retry_after = urllib3.Retry().get_retry_after(response.raw)
        asks = f" (Retry-After: {retry_after:.0f} s)" if retry_after else ""
    with contextlib.suppress(AttributeError, ValueError):
        body = response.json()  # which fails for a proxy's page, and an answer that was cut off
        retries = 0 if status == 200 else retries
        words = body.get("detail") or body.get("message") or words
    if status == 429 and retry_after is None:
        retries = math.inf  # limits are by the minute, and do not say how long they last
    words = f"{status} {response.reason}: {words}".replace(JINAAI_API_KEY or "\0", "***")
    words = "the service answered " + re.sub(CONTROL, " ", words)[:200] + asks
    return EmbeddingError(words, status, retries, retry_after or 0)

# %% Step 2. Connect to TiDB
TIDB_DATABASE_URL = os.getenv("TIDB_DATABASE_URL", "").strip()


def create_tidb_engine(url: str) -> Engine:
    """Return an engine, which connects when it is first used. Raises ValueError for a wrong URL.
    After a fork, the child needs an engine of its own, or engine.dispose(close=False) at first."""
    if not re.fullmatch(r"mysql\+pymysql://([^@]*@)?(\[.+]|[\w.-]*)(:\d+)?(/[^@;]*)?", url):
        raise ValueError("it must be mysql+pymysql://USER:PASSWORD@HOST:PORT/DATABASE, "
                         "with %40 for an @ in the password and & between options")
    # In seconds, unless the URL has others: PyMySQL alone would wait for a silent server for ever.
    query = {"read_timeout": "60", "write_timeout": "60", **make_url(url).query}
    # From the URL alone, ssl_ca would get lost, "on" be a no, and ssl_disabled=false a yes.
    asked = {name for name in query if str(query[name]).lower() not in ("false", "0", "no")}
    identity = not asked.isdisjoint(("ssl_verify_identity", "ssl_check_hostname"))
    tls: dict[str, Any] = {"ssl_verify_identity": identity or None,
                           "ssl_disabled": query.get("ssl_disabled") in ("true", "1", "yes")}
    if identity or "ssl_verify_cert" in asked:
        tls.update(ssl_ca=query.get("ssl_ca", requests.utils.DEFAULT_CA_BUNDLE_PATH),
                   ssl_cert=query.get("ssl_cert"), ssl_key=query.get("ssl_key"),
                   ssl_verify_cert=True, ssl_disabled=False)
    open(str(query.get("ssl_ca", os.devnull))).close()  # TLS would not name a missing file
    return create_engine(make_url(url).set(query=query), connect_args=tls, hide_parameters=True,
                         pool_recycle=300, pool_pre_ping=True)

# %% Step 3. Define the table
class Base(DeclarativeBase):
    """The base of Document: a text, stored once, and its embedding."""


class Document(Base):
    __tablename__ = "jinaai_tidb_demo_documents"
    __table_args__ = {"comment": JINAAI_MODEL}
    id = Column(Integer, primary_key=True)
    # Unique byte by byte: TiDB's other collations take "a " or "A" for "a".
    content = Column(String(255, collation="utf8mb4_0900_bin"), nullable=False, unique=True)
    # The tutorial's comment has no effect any more: create_vector_index makes the index.
    content_vec: Column[Any] = Column(VectorType(dim=DIMENSIONS), comment="hnsw(distance=cosine)")


def create_table(engine: Engine) -> None:
    """Create the table unless it exists. Raises ValueError if its comment names another model."""
    table = Base.metadata.tables[Document.__tablename__]
    comment = text("SELECT table_comment FROM information_schema.tables "
                   f"WHERE table_schema = DATABASE() AND table_name = '{table.name}'")
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":  # the stand-in, which is new
            connection.execute(CreateTable(table))
            return
        if connection.scalar(comment) is None:  # who may not CREATE can use a table that exists
            connection.execute(CreateTable(table, if_not_exists=True))
        model = connection.scalar(comment) or "jina-embeddings-v2-base-en"
    if model != JINAAI_MODEL:
        raise ValueError(f"table {table.name} holds embeddings of {model}, not of {JINAAI_MODEL}: "
                         f"set JINAAI_MODEL={model} or drop the table")

# %% Step 4. Create embeddings and store them in TiDB
TEXTS = [
    "Jina AI offers best-in-class embeddings, reranker and prompt optimizer, "
    "enabling advanced multimodal AI.",
    "TiDB is an open-source MySQL-compatible database that supports "
    "Hybrid Transactional and Analytical Processing (HTAP) workloads.",
]


def new_texts(engine: Engine, texts: Sequence[str]) -> list[str]:
    """Return those of *texts* that are not stored yet, each once, in their order."""
    with Session(engine) as session:
        query: Any = select(Document.content).where(Document.content.in_(texts))
        stored = set(session.scalars(query))
    return [text for text in dict.fromkeys(texts) if text not in stored]


def insert_documents(engine: Engine, texts: Sequence[str], embeddings: list[list[float]]) -> None:
    """Store *texts* and their *embeddings*, 768 floats each, by one statement: all or none."""
    rows = [{"content": text, "content_vec": embeddings[index]} for index, text in enumerate(texts)]
    statement = mysql.insert(Document).values(rows)
    if engine.dialect.name == "mysql":  # where another run may store the same text meanwhile
        statement = statement.on_duplicate_key_update(id=Document.id)
    if rows:
        with Session(engine) as session, session.begin():
            session.execute(statement)

# %% Step 5. Search by cosine distance
def find_documents(engine: Engine, embedding: list[float], limit: int) -> list[tuple[str, float]]:
    """Return the *limit* texts nearest to *embedding* and their cosine distances, 0 to 2."""
    distance: Any = Document.content_vec.cosine_distance(embedding)
    # A vector index serves ORDER BY distance with LIMIT; a WHERE or DESC would undo it.
    query = select(Document.content, distance).order_by(distance).limit(limit)
    with Session(engine) as session:
        return [(content, distance) for content, distance in session.execute(query)]


def create_vector_index(engine: Engine) -> None:
    """Build an HNSW index; the URL's read_timeout has to outlast it. Raises DBAPIError."""
    VectorAdaptor(engine).create_vector_index(
        Document.content_vec, DistanceMetric.COSINE, skip_existing=True)

# %% Without an account: stand-ins for Jina AI and TiDB
def stand_in_embeddings(texts: Sequence[str], task: str = "") -> list[list[float]]:
    """Return 768 floats of length 1 for each text, which count its words by their hashes."""
    embeddings = []
    for content in texts:
        # ASCII words, and any other character alone: Chinese and Japanese have no spaces.
        words = re.findall(r"[a-z0-9]+|[^\x00-\x7f]", content.lower()) or [""]
        counts = Counter(zlib.crc32(word.encode()) % DIMENSIONS for word in words)
        length = math.hypot(*counts.values())
        embeddings.append([counts[index] / length for index in range(DIMENSIONS)])
    return embeddings


def create_stand_in_engine() -> Engine:
    """Return an engine for an SQLite database in memory, which all threads share."""
    def cosine_distance(left: str, right: str) -> float:
        a, b = json.loads(left), json.loads(right)
        return 1 - sum(x * y for x, y in zip(a, b)) / (math.hypot(*a) * math.hypot(*b))
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.create_function("VEC_COSINE_DISTANCE", 2, cosine_distance)
    connection.create_collation("utf8mb4_0900_bin", lambda a, b: (a > b) - (a < b))
    return create_engine("sqlite://", creator=lambda: connection, poolclass=QueuePool,
                         pool_size=1, max_overflow=0)  # one thread at a time


def connect() -> tuple[Engine, Callable[..., list[list[float]]]]:
    """Return an engine and a function that embeds, or stand-ins for them, named on stderr."""
    dotenv.load_dotenv(encoding="utf-8-sig")
    embed: Callable[..., list[list[float]]] = embed_texts
    if not (JINAAI_API_KEY or TIDB_DATABASE_URL) and "//api.jina.ai/" in JINAAI_API_URL:
        embed = stand_in_embeddings
        print("no JINAAI_API_KEY: a simple hash of the words replaces the embeddings; get a key "
              "at https://jina.ai/embeddings/", file=sys.stderr)
    if not TIDB_DATABASE_URL:
        print("no TIDB_DATABASE_URL: SQLite in memory replaces TiDB", file=sys.stderr)
        return create_stand_in_engine(), embed
    try:
        engine = create_tidb_engine(TIDB_DATABASE_URL)
        engine.connect().close()
    except (AttributeError, OSError, TypeError, ValueError) as error:  # PyMySQL's, of options
        raise ValueError(f"TIDB_DATABASE_URL cannot be used: {error}") from error
    return engine, embed

# %% Run it
def run_demo() -> None:
    """Print what the tutorial prints. Raises what the five steps raise."""
    engine, embed = connect()
    [question] = embed(["What is TiDB?"], "retrieval.query")  # before a table is for this model
    create_table(engine)
    print(f"- Inserting Data to {'TiDB' if TIDB_DATABASE_URL else 'In-Memory SQLite'}...")
    new = new_texts(engine, TEXTS)
    insert_documents(engine, new, embed(new, "retrieval.passage"))
    for content in TEXTS:
        print(f"  - {'Inserting' if content in new else 'Already stored'}: {content}")
    print("- List All Documents and Their Distances to the Query:")
    with Session(engine) as session:
        rows: Any = session.query(Document.content, Document.content_vec.cosine_distance(question))
        for content, distance in rows.order_by(Document.id).limit(20):
            print(f"  - distance: {distance}\n    content: {content}")
        if (more := rows.count() - 20) > 0:
            print(f"  ... and {more} more")
    print("- The Most Relevant Document and Its Distance to the Query:")
    for content, distance in find_documents(engine, question, 1):
        print(f"  - distance: {distance}\n    content: {content}")


ADVICE = {  # by what an error says; the first that fits
    r"^\((1044|1142),": "the user needs SELECT, INSERT, UPDATE and, for a new table, CREATE",
    r"^\((1064|1273|1305|4161),": "this is not TiDB, or older than 8.4",
    r"^\(\d+,": "check TIDB_DATABASE_URL and run again to go on",
    "^'utf-8' codec": "save .env as UTF-8",
    "^TIDB_DATABASE_URL cannot": "correct it; ssl_ca is mostly /etc/ssl/cert.pem, "
        "/etc/ssl/certs/ca-certificates.crt or /etc/pki/tls/certs/ca-bundle.crt",
    "answered 40[123]": "check JINAAI_API_KEY and its balance",
    "answered (408|429|5..)": "run again in 60 s, or when Retry-After is over",
    "^the service|^an embedding|^\\d+ (dim|emb)": "check JINAAI_API_URL and JINAAI_MODEL",
    "^no answer": "check the network, JINAAI_API_URL and, if set, HTTPS_PROXY, REQUESTS_CA_BUNDLE",
}


def main(run: Callable[[], None] = run_demo) -> None:
    """Run the demo, or *run*; an error ends in one line on stderr and SystemExit."""
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # no traceback after Ctrl-C
    if hasattr(sys.stdout, "reconfigure"):  # not a notebook's; some consoles lack some characters
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, head for example, has seen enough
        os._exit(141)
    except (EmbeddingError, exc.SQLAlchemyError, OSError, RuntimeError, ValueError) as error:
        message = str(getattr(error, "orig", error))
        advice = [f"; {ADVICE[words]}" for words in ADVICE if re.search(words, message)]
        print("error:", re.sub(CONTROL, " ", message[:400] + "".join(advice[:1])), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    if sys.argv[0].endswith("jina_ai_embeddings_demo.py"):  # a kernel's arguments are its own
        parser = argparse.ArgumentParser(description=__doc__)
        if parser.parse_known_args()[1]:
            parser.exit(2, "error: the demo takes no arguments; see examples/own_texts.py\n")
    main()
