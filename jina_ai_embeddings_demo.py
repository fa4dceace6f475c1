# /// script
# requires-python = ">=3.9"
# dependencies = ["requests>=2.32.4", "python-dotenv>=1.0.1", "SQLAlchemy>=2.0.30,<3",
#                 "PyMySQL>=1.2.0", "tidb-vector>=0.0.14"]
# ///
"""Semantic search with Jina AI embeddings and TiDB Vector Search, in five steps.

Settings, from the environment or .env: JINAAI_API_KEY, TIDB_DATABASE_URL, JINAAI_MODEL and
JINAAI_API_URL (see .env.example). For texts of your own: examples/own_texts.py
"""

import argparse
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
from collections.abc import Callable
from typing import Any

import dotenv
import requests
from sqlalchemy import Engine, String, create_engine, exc, func, inspect, make_url, select
from sqlalchemy.dialects.mysql import dml
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import QueuePool
from sqlalchemy.schema import CreateTable
from tidb_vector import DistanceMetric  # type: ignore[import-untyped]
from tidb_vector.sqlalchemy import VectorAdaptor, VectorType  # type: ignore[import-untyped]

logger = logging.getLogger(__name__)
try:
    dotenv.load_dotenv(encoding="utf-8-sig")
except (OSError, ValueError) as problem:
    logger.warning("cannot read .env: %s; save it as UTF-8", problem)

# %% Step 1. Get embeddings from Jina AI
JINAAI_API_KEY = (os.getenv("JINAAI_API_KEY") or os.getenv("JINA_API_KEY")
                  or os.getenv("JINA_AI_API_KEY") or os.getenv("JINAAI_APIKEY") or "").strip()
JINAAI_API_URL = os.getenv("JINAAI_API_URL", "").strip() or "https://api.jina.ai/v1/embeddings"
JINAAI_MODEL = os.getenv("JINAAI_MODEL", "").strip() or "jina-embeddings-v2-base-en"
DIMENSIONS = 768  # of every embedding
BATCH_SIZE = 512  # texts in a request, see https://api.jina.ai/openapi.json
HTTP = requests.Session()  # keeps connections open; like an engine, one per process


class EmbeddingError(Exception):
    """The same request may work after *retry_after* seconds: 0 is now, inf is never."""
    def __init__(self, message: str, status: int = 0, retry_after: float = math.inf):
        super().__init__(message)
        self.status, self.retry_after = status, retry_after  # status 0: no answer


def generate_embeddings(text: str, patience: float = 75) -> list[float]:
    """Return the embedding of a question, a list of 768 floats; see embed_texts."""
    return embed_texts([text], "retrieval.query", patience)[0]


def embed_texts(texts: list[str], task: str = "retrieval.passage",
                patience: float = 75) -> list[list[float]]:
    """Return the embedding of each text, a list of 768 floats, in the order of *texts*.
    A request of up to 512 texts may take *patience* seconds with all its tries and waits; only
    an answer that drips in takes longer. Models from v3 on use *task*. Raises EmbeddingError."""
    unique = list(dict.fromkeys(texts))
    embeddings: dict[str, list[float]] = {}
    deadline, pause = time.monotonic() + patience, 1
    while len(embeddings) < len(unique):
        batch = unique[len(embeddings):len(embeddings) + BATCH_SIZE]
        try:
            embeddings.update(zip(batch, request_embeddings(batch, task, deadline)))
            deadline, pause = time.monotonic() + patience, 1
        except EmbeddingError as error:
            wait = error.retry_after or pause * random.uniform(0.5, 1)  # not all at once
            if time.monotonic() + wait >= deadline:
                raise
            logger.warning("%s (next try in %.0f s)", error, wait)
            time.sleep(wait)
            pause = min(2 * pause, 15)
    return [embeddings[text] for text in texts]


def request_embeddings(texts: list[str], task: str, deadline: float) -> list[list[float]]:
    """Return the embeddings of *texts* by one request."""
    data: dict[str, Any] = {"input": texts, "model": JINAAI_MODEL}
    if re.match("jina-embeddings-v[3-9]", JINAAI_MODEL):  # v2 takes neither
        data.update(task=task, dimensions=DIMENSIONS)
    left = max(deadline - time.monotonic(), 1)
    try:
        response = HTTP.post(JINAAI_API_URL, json=data, timeout=(min(left, 10), min(left, 60)),
                             auth=add_key, allow_redirects=False)  # for this host alone
    except (OSError, TypeError, ValueError) as error:  # words may show the key
        may_pass = isinstance(error, requests.RequestException) and not isinstance(
            error, ValueError) and "CERTIFICATE_VERIFY_FAILED" not in str(error)
        raise EmbeddingError(
            f"no answer ({type(error).__name__}); check the network, JINAAI_API_KEY, JINAAI_API_URL"
            ", HTTPS_PROXY, REQUESTS_CA_BUNDLE", 0, 0 if may_pass else math.inf) from error
    return read_embeddings(response, len(texts))


def add_key(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send the key, and no password of ~/.netrc."""
    if JINAAI_API_KEY:
        request.headers["Authorization"] = f"Bearer {JINAAI_API_KEY}"
    elif "//api.jina.ai/" in JINAAI_API_URL:
        raise EmbeddingError("JINAAI_API_KEY is not set; get one at https://jina.ai/embeddings/")
    return request


def read_embeddings(response: requests.Response, count: int) -> list[list[float]]:
    """Return the *count* embeddings of an answer, in the order of `index`."""
    status, seconds = response.status_code, response.headers.get("Retry-After", "").strip()
    words, wait = f"not {count} embeddings of {DIMENSIONS} dimensions", math.inf
    advice = "check JINAAI_API_KEY, its balance, JINAAI_API_URL and JINAAI_MODEL"
    if status in (408, 429, 500, 502, 503, 504):
        wait = float(seconds) if seconds.isdecimal() else 0
        advice = f"wait {wait:.0f} s" if wait else "wait a minute"
    if status != 200:
        words = response.text.replace(JINAAI_API_KEY or "\0", "***")
    else:
        try:
            data = sorted(response.json()["data"], key=lambda item: item["index"])
            shape = [(item["index"], len(item["embedding"])) for item in data]
            # Beyond these, TiDB's float32 makes a distance NULL, which sorts first.
            finite = all(1e-9 < math.hypot(*item["embedding"]) < 1e9 for item in data)
            if finite and shape == [(i, DIMENSIONS) for i in range(count)]:
                return [item["embedding"] for item in data]
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            wait = 0 if isinstance(error, ValueError) else math.inf  # cut off
    raise EmbeddingError(f"the service answered {status}: {words[:200]!r}; {advice}", status, wait)

# %% Step 2. Connect to TiDB
TIDB_DATABASE_URL = os.getenv("TIDB_DATABASE_URL", "").strip()


def create_tidb_engine(url: str) -> Engine:
    """Return an engine, which connects when it is first used. Raises ValueError for a wrong URL.
    With any ssl_ option, TLS verifies certificate and host name; with none, it does not."""
    try:
        parsed = make_url(url)
        if parsed.drivername != "mysql+pymysql" or not parsed.database or url.count("@") > 1:
            raise ValueError
    except (ValueError, exc.ArgumentError):  # their words may show the password
        raise ValueError("TIDB_DATABASE_URL must be mysql+pymysql://USER:PASSWORD@HOST:PORT/"
                         "DATABASE, with %40 for an @ in the password") from None
    query = {"read_timeout": "60", "write_timeout": "60", **parsed.query}
    tls: dict[str, Any] = {name: query.pop(name) for name in parsed.query if "ssl" in name}
    if tls or "ssl" in url.partition("?")[2].lower():  # even without a value
        tls = {"ssl_ca": requests.utils.DEFAULT_CA_BUNDLE_PATH, **tls, "ssl_disabled": False,
               "ssl_verify_cert": True, "ssl_verify_identity": True}
        open(tls["ssl_ca"]).close()  # names a missing file
    return create_engine(parsed.set(query=query), connect_args=tls, hide_parameters=True,
                         pool_recycle=300, pool_pre_ping=True)

# %% Step 3. Define the table
class Base(DeclarativeBase):
    """The base of Document: a text, stored once, and its embedding."""


class Document(Base):
    __tablename__ = "jinaai_tidb_demo_documents"
    if JINAAI_MODEL != "jina-embeddings-v2-base-en":  # others do not compare
        __tablename__ += "_" + re.sub(r"\W", "_", JINAAI_MODEL)
    id: Mapped[int] = mapped_column(primary_key=True)
    # Unique byte by byte: TiDB's other collations take "a " or "A" for "a".
    content: Mapped[str] = mapped_column(String(255, collation="utf8mb4_0900_bin"), unique=True)
    content_vec: Mapped[list[float]] = mapped_column(
        VectorType(dim=DIMENSIONS), comment="hnsw(distance=cosine)")  # has no effect


def create_table(engine: Engine) -> None:
    """Create the table unless it exists. Raises DBAPIError."""
    table = Base.metadata.tables[Document.__tablename__]
    if not inspect(engine).has_table(table.name):  # needs no CREATE
        with engine.begin() as connection:
            connection.execute(CreateTable(table, if_not_exists=True))

# %% Step 4. Create embeddings and store them in TiDB
TEXTS = [
    "Jina AI offers best-in-class embeddings, reranker and prompt optimizer, "
    "enabling advanced multimodal AI.",
    "TiDB is an open-source MySQL-compatible database that supports "
    "Hybrid Transactional and Analytical Processing (HTAP) workloads.",
]


def new_texts(engine: Engine, texts: list[str]) -> list[str]:
    """Return each of *texts* that is not stored yet, once, in order."""
    with Session(engine) as session:
        stored = set(session.scalars(select(Document.content).where(Document.content.in_(texts))))
    return [text for text in dict.fromkeys(texts) if text not in stored]


def insert_documents(engine: Engine, texts: list[str], embeddings: list[list[float]]) -> None:
    """Store all *texts* with their *embeddings* or, on an error, none of them.
    A stored text is left alone. Raises ValueError and DBAPIError."""
    if [vector is not None for vector in embeddings] != [True] * len(texts):
        raise ValueError("each text needs one embedding")
    rows = [{"content": text, "content_vec": vector} for text, vector in zip(texts, embeddings)]
    rows.sort(key=lambda row: str(row["content"]))  # or runs could deadlock
    upsert = dml.insert(Document).on_duplicate_key_update(id=Document.id)
    if rows:
        with Session(engine) as session, session.begin():
            session.execute(upsert, rows)

# %% Step 5. Search by cosine distance
def find_documents(engine: Engine, embedding: list[float], limit: int) -> list[tuple[str, float]]:
    """Return the *limit* texts nearest to *embedding* and their cosine distances, 0 to 2."""
    distance = Document.content_vec.cosine_distance(embedding)
    # A vector index serves ORDER BY with LIMIT; a WHERE or DESC would undo it.
    query = select(Document.content, distance).order_by(distance).limit(limit)
    with Session(engine) as session:
        return [(content, distance) for content, distance in session.execute(query)]


def create_vector_index(engine: Engine) -> None:
    """Build an HNSW index; the URL's read_timeout must outlast it. Raises DBAPIError."""
    VectorAdaptor(engine).create_vector_index(
        Document.content_vec, DistanceMetric.COSINE, skip_existing=True)

# %% Without an account: stand-ins for Jina AI and TiDB
def stand_in_embeddings(texts: list[str], *ignored: object) -> list[list[float]]:
    """Return 768 floats for each text, which count its words by their hashes."""
    embeddings = []
    for content in texts:
        # Chinese and Japanese have no spaces: each character is a word.
        words = re.findall(r"[a-z0-9]+|[^\x00-\x7f]", content.lower()) or [""]
        counts = Counter(zlib.crc32(word.encode()) % DIMENSIONS for word in words)
        embeddings.append([float(counts[i]) for i in range(DIMENSIONS)])
    return embeddings


def create_stand_in_engine() -> Engine:
    """Return an engine for SQLite in memory, which threads share."""
    def cosine_distance(left: str, right: str) -> float:
        a, b = json.loads(left), json.loads(right)
        return 1 - sum(x * y for x, y in zip(a, b)) / (math.hypot(*a) * math.hypot(*b))
    compiles(dml.OnDuplicateClause, "sqlite")(lambda *_, **__: "ON CONFLICT DO NOTHING")
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.create_function("VEC_COSINE_DISTANCE", 2, cosine_distance)
    connection.create_collation("utf8mb4_0900_bin", lambda a, b: (a > b) - (a < b))
    return create_engine("sqlite://", creator=lambda: connection, poolclass=QueuePool,
                         pool_size=1, max_overflow=0)  # one thread at a time


def connect() -> tuple[Engine, Callable[..., list[list[float]]]]:
    """Return an engine and a function that embeds, or stand-ins for them."""
    if TIDB_DATABASE_URL:  # real embeddings only
        return create_tidb_engine(TIDB_DATABASE_URL), embed_texts
    print("no TIDB_DATABASE_URL: SQLite in memory replaces TiDB", file=sys.stderr)
    if JINAAI_API_KEY or "//api.jina.ai/" not in JINAAI_API_URL:
        return create_stand_in_engine(), embed_texts
    print("no JINAAI_API_KEY: a hash of the words replaces the embeddings; "
          "see https://jina.ai/embeddings/", file=sys.stderr)
    return create_stand_in_engine(), stand_in_embeddings

# %% Run it
def run_demo() -> None:
    """Print what the tutorial prints."""
    engine, embed = connect()
    [question] = embed(["What is TiDB?"], "retrieval.query")  # a wrong key leaves no table
    create_table(engine)
    print(f"- Inserting Data to {'TiDB' if TIDB_DATABASE_URL else 'In-Memory SQLite'}...")
    new = new_texts(engine, TEXTS)
    insert_documents(engine, new, embed(new))
    for content in TEXTS:
        print(f"  - {'Inserting' if content in new else 'Already stored'}: {content}")
    print("- List All Documents and Their Distances to the Query:")
    distance = Document.content_vec.cosine_distance(question)
    with Session(engine) as session:
        rows = session.execute(select(Document.content, distance).order_by(Document.id).limit(20))
        for content, distance in rows:
            print(f"  - distance: {distance}\n    content: {content}")
        more = session.scalars(select(func.count(Document.id))).one() - 20
    if more > 0:
        print(f"  ... and {more} more")
    print("- The Most Relevant Document and Its Distance to the Query:")
    for content, distance in find_documents(engine, question, 1):
        print(f"  - distance: {distance}\n    content: {content}")


ADVICE = {  # by how TiDB's error begins
    ("(1044,", "(1142,"): "the user needs SELECT, INSERT, UPDATE and, for a new table, CREATE",
    ("(1045,", "(1049,", "(2003,", "(2013,"): "check TIDB_DATABASE_URL and the network",
    ("(1064,", "(1273,", "(1305,", "(4161,"): "this is not TiDB, or older than 8.4",
    ("(1105, 'vector",): "take another table name or the old DIMENSIONS",
    ("(1836,",): "TiDB is read-only now; run again later",
}


def main(run: Callable[[], None] = run_demo) -> None:
    """Run the demo, or *run*; an error is one line and SystemExit."""
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # quiet after Ctrl-C
    if hasattr(sys.stdout, "reconfigure"):  # not a notebook's
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # of head, say
        os._exit(141)
    except Exception as error:
        words = " ".join(str(getattr(error, "orig", error)).split())[:400]
        if not isinstance(error, (EmbeddingError, ValueError, exc.DBAPIError)):
            words = f"{type(error).__name__}: {words}"
        advice = [ADVICE[start] for start in ADVICE if words.startswith(start)]
        raise SystemExit("; ".join([f"error: {words}", *advice])) from None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    if sys.argv[0].endswith("jina_ai_embeddings_demo.py") and parser.parse_known_args()[1]:
        parser.exit(2, "error: there are no arguments; see examples/own_texts.py\n")
    main()
