# /// script
# requires-python = ">=3.8.1"
# dependencies = ["requests>=2.32.4", "python-dotenv>=1.0.1", "SQLAlchemy>=2.0.30,<3",
#                 "PyMySQL>=1.1.1", "tidb-vector>=0.0.14"]
# ///
"""Semantic search with the Jina AI embeddings API and TiDB Vector Search, in five steps.

Settings come from the environment or, where it has none, from the file .env beside this script:
  JINAAI_API_KEY     a key from https://jina.ai/embeddings/; without it hashed words stand in
                     (also read: JINA_API_KEY, JINA_AI_API_KEY, JINAAI_APIKEY)
  TIDB_DATABASE_URL  mysql+pymysql://USER:PASSWORD@HOST:PORT/DATABASE; without it SQLite stands in
  JINAAI_MODEL       a model that gives 768 dimensions [jina-embeddings-v2-base-en]
  JINAAI_API_URL     an endpoint with the same interface [https://api.jina.ai/v1/embeddings]

Examples:
  python jina_ai_embeddings_demo.py
  python jina_ai_embeddings_demo.py --texts notes.txt --query "Where is the key?" --limit 3
"""

# ---- Step 1. Get embeddings from Jina AI --------------------------------------------------------
import logging
import operator
import os
import random
import re
import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import dotenv
import requests

try:
    dotenv.load_dotenv(Path(__file__).with_name(".env"), encoding="utf-8-sig")
except (OSError, ValueError) as error:
    raise SystemExit(f"error: cannot read .env: {error}; save it as UTF-8") from None
KEY_NAMES = ("JINAAI_API_KEY", "JINA_API_KEY", "JINA_AI_API_KEY", "JINAAI_APIKEY")
JINAAI_API_KEY = next(filter(None, (os.getenv(name, "").strip() for name in KEY_NAMES)), "")
JINAAI_API_URL = os.getenv("JINAAI_API_URL", "").strip() or "https://api.jina.ai/v1/embeddings"
JINAAI_MODEL = os.getenv("JINAAI_MODEL", "").strip() or "jina-embeddings-v2-base-en"
DIMENSIONS = 768  # of an embedding, and of the table's column
# Texts a request: measured at 100 ms a request, 128 cost 1.7 ms a text and 512, the smallest limit
# that Jina AI documents, 1.1; but a longer request is slower to answer and dearer to repeat.
BATCH_SIZE = 128
CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60  # seconds
MAX_TRIES = 5  # of a request that got no whole answer, or one of these statuses
RETRY_STATUSES = (408, 409, 425, 429, 500, 502, 503, 504)
RETRY_WAIT = 1.0  # seconds before the second try, doubled before each further one
MAX_RETRY_AFTER = 90  # seconds; rate limits are by the minute (https://api.jina.ai/openapi.json)
ADVICE = {401: "check JINAAI_API_KEY", 403: "check the balance of JINAAI_API_KEY"}


class EmbeddingError(Exception):
    """Why there is no embedding. `status` and `detail` are the answer's, if there was one;
    `retry_after` is the seconds to wait before another try, None where it cannot help."""

    def __init__(self, message: str, status: Optional[int] = None, detail: str = "",
                 retry_after: Optional[float] = None) -> None:
        super().__init__(message)
        self.status, self.detail, self.retry_after = status, detail, retry_after


def generate_embeddings(text: str, task: str = "retrieval.query") -> List[float]:
    """Return the embedding of a question, a list of 768 floats. Raises EmbeddingError.

    For what gets stored take embed_texts: models from v3 on embed the two differently.
    """
    return embed_texts([text], task)[0]


def embed_texts(texts: Sequence[str], task: str = "retrieval.passage") -> List[List[float]]:
    """Return the embedding of each text, a list of 768 floats, in the order of *texts*.

    Sends BATCH_SIZE texts a request, a repeated text once. Models from v3 on are told the *task*:
    passages to store, or a query. Raises EmbeddingError when refused or after MAX_TRIES tries.
    """
    unique = list(dict.fromkeys(texts))
    embeddings: Dict[str, List[float]] = {}
    for start in range(0, len(unique), BATCH_SIZE):
        batch = unique[start:start + BATCH_SIZE]
        for retry in range(MAX_TRIES):
            try:
                embeddings.update(zip(batch, request_embeddings(batch, task)))
                break
            except EmbeddingError as error:
                if error.retry_after is None or retry == MAX_TRIES - 1:
                    raise
                # The jitter keeps clients that failed together from coming back together.
                wait = max(error.retry_after, RETRY_WAIT * 2 ** retry * random.uniform(0.5, 1))
                if wait >= 1:
                    logging.getLogger(__name__).warning("%s (next try in %.0f s)", error, wait)
                time.sleep(wait)
    return [embeddings[text] for text in texts]


def request_embeddings(texts: List[str], task: str) -> List[List[float]]:
    """Return the embeddings of *texts* from a single request. Raises EmbeddingError."""
    if not (JINAAI_API_KEY.isascii() and JINAAI_API_KEY.isprintable()):  # requests would show it
        raise EmbeddingError("JINAAI_API_KEY has a character that no key has; copy it again")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {JINAAI_API_KEY}"}
    data = {"input": texts, "model": JINAAI_MODEL}
    if re.match("jina-embeddings-v[3-9]", JINAAI_MODEL):  # v2 takes neither of these
        data["task"] = task
        if not JINAAI_MODEL.endswith("-nano"):  # which gives 768 dimensions by itself
            data["dimensions"] = DIMENSIONS
    try:
        response = requests.post(
            JINAAI_API_URL, headers=headers, json=data, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            allow_redirects=False,  # the key is for this host alone
            auth=lambda request: request)  # or a password in ~/.netrc would replace the key
    except (requests.RequestException, ValueError) as error:
        passing = isinstance(error, (requests.ConnectionError, requests.Timeout,
                                     requests.exceptions.ChunkedEncodingError))
        raise EmbeddingError(f"no answer from JINAAI_API_URL ({type(error).__name__}); check it "
                             "and the network", retry_after=0 if passing else None) from error
    return read_embeddings(response, len(texts))


def read_embeddings(response: requests.Response, count: int) -> List[List[float]]:
    """Return the *count* embeddings of an answer in the order of `index`. Raises EmbeddingError."""
    status = response.status_code
    passing = status in RETRY_STATUSES
    try:
        body = response.json()
        if status != 200 or "data" not in body:
            detail = body["detail"]
        else:
            embeddings = {item["index"]: item["embedding"] for item in body["data"]}
            if len(body["data"]) != count or set(embeddings) != set(range(count)):
                raise ValueError(f"{len(body['data'])} embeddings, not one each for {count} texts")
            for embedding in embeddings.values():
                if len(embedding) != DIMENSIONS:
                    raise ValueError(f"{len(embedding)} dimensions, the table has {DIMENSIONS}")
                # TiDB keeps float32; out of these bounds, a distance is NULL and sorts first.
                if not (set(map(type, embedding)) <= {int, float}
                        and 1e-18 < sum(map(operator.mul, embedding, embedding)) < 1e18):
                    raise ValueError("an embedding of zeros or not of finite numbers")
            return [embeddings[index] for index in range(count)]
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        detail = error if type(error) is ValueError else f"{response.reason}, no embeddings"
        if status == 200 and isinstance(error, requests.exceptions.JSONDecodeError):
            passing = True  # an answer cut off, where no Content-Length gave that away
    detail = " ".join(str(detail).replace(JINAAI_API_KEY or " ", "***").split())[:200]
    advice, retry_after = ADVICE.get(status, "check JINAAI_API_URL and JINAAI_MODEL"), None
    if passing:
        retry_after = seconds_to_wait(response.headers.get("Retry-After", ""))
        advice = f"run again in {max(retry_after, 60):.0f} s"
        if retry_after > MAX_RETRY_AFTER:
            retry_after = None
    raise EmbeddingError(f"Jina AI answered {status}: {detail}; {advice}", status, detail,
                         retry_after)


def seconds_to_wait(retry_after: str) -> float:
    """Return the seconds that a Retry-After header asks for, 0 if it has neither form."""
    try:
        if re.fullmatch(r"\s*[\d.]+\s*", retry_after):
            return float(retry_after)
        return (parsedate_to_datetime(retry_after) - datetime.now(timezone.utc)).total_seconds()
    except (TypeError, ValueError):
        return 0


# ---- Step 2. Connect to TiDB --------------------------------------------------------------------
import os

import pymysql
import requests
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError

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


# ---- Step 3. Define the table -------------------------------------------------------------------
from sqlalchemy import Column, Integer, String, column, func, select, table
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Engine
from sqlalchemy.orm import declarative_base
from sqlalchemy.schema import CreateTable
from tidb_vector.sqlalchemy import VectorType

Base = declarative_base()


class Document(Base):
    """A text, stored once, and its embedding."""

    __tablename__ = "jinaai_tidb_demo_documents"

    id = Column(Integer, primary_key=True)
    # Unique byte by byte: TiDB's other collations take "a " or "A" for "a".
    content = Column(String(255).with_variant(
        mysql.VARCHAR(255, collation="utf8mb4_0900_bin"), "mysql"), nullable=False, unique=True)
    # The tutorial's comment; TiDB 8.4 and later index by create_vector_index (step 5) instead.
    content_vec = Column(VectorType(dim=768), comment="hnsw(distance=cosine)")


def create_table(engine: Engine) -> None:
    """Create the table unless it exists. Raises ValueError if its comment names another model."""
    Document.__table__.comment = JINAAI_MODEL
    tables = table("tables", column("table_schema"), column("table_name"),
                   column("table_comment"), schema="information_schema")
    query = select(tables.c.table_comment).where(tables.c.table_schema == func.database(),
                                                 tables.c.table_name == Document.__tablename__)
    with engine.begin() as connection:
        connection.execute(CreateTable(Document.__table__, if_not_exists=True))
        if engine.dialect.supports_comments:  # SQLite does not, but is new and in memory
            model = connection.scalar(query) or "jina-embeddings-v2-base-en"
            if model != JINAAI_MODEL:
                raise ValueError(f"table {Document.__tablename__} holds embeddings of {model}, not "
                                 f"of {JINAAI_MODEL}: set JINAAI_MODEL={model} or drop the table")


# ---- Step 4. Create embeddings and store them in TiDB -------------------------------------------
import re
from typing import Callable, Iterator, List, Sequence

from sqlalchemy import insert, select
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

TEXTS = [
    "Jina AI offers best-in-class embeddings, reranker and prompt optimizer, "
    "enabling advanced multimodal AI.",
    "TiDB is an open-source MySQL-compatible database that supports "
    "Hybrid Transactional and Analytical Processing (HTAP) workloads.",
]


def store_texts(engine: Engine, texts: Sequence[str], embed: Callable = embed_texts) -> List[str]:
    """Embed and store those of *texts*, a batch, that are not stored yet; return them.

    Raises what *embed* raises, and sqlalchemy.exc.DBAPIError; either way it stores all or none.
    """
    with Session(engine) as session:
        stored = set(session.scalars(select(Document.content).where(Document.content.in_(texts))))
    new = [text for text in dict.fromkeys(texts) if text not in stored]
    rows = [{"content": text, "content_vec": embedding}
            for text, embedding in zip(new, embed(new))]
    statement = insert(Document)
    if engine.dialect.name == "mysql":  # where another run may store the same text meanwhile
        statement = mysql.insert(Document).on_duplicate_key_update(id=Document.id)
    if rows:
        with Session(engine) as session, session.begin():
            session.execute(statement, rows)
    return new


def read_batches(path: str) -> Iterator[List[str]]:
    """Yield the lines of a file ("-": standard input) that are not blank, BATCH_SIZE at a time.

    Raises OSError for the file, ValueError for a line that cannot be stored.
    """
    batch: List[str] = []
    # surrogateescape leaves bytes that are not UTF-8 to the check of their line.
    with open(0 if path == "-" else path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            text = line.rstrip("\n")
            if re.search("[\0\ud800-\udfff]", text):
                raise ValueError(f"line {number} is not UTF-8 text; convert the file to UTF-8")
            if len(text) > 255:
                raise ValueError(f"line {number} has {len(text)} characters; shorten it to 255")
            if text.strip():
                batch.append(text)
            if len(batch) == BATCH_SIZE:
                yield batch
                batch = []
    if batch:
        yield batch


# ---- Step 5. Search by cosine distance ----------------------------------------------------------
from typing import List, Tuple

from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
from tidb_vector import DistanceMetric
from tidb_vector.sqlalchemy import VectorAdaptor


def find_documents(engine: Engine, embedding: List[float], limit: int,
                   nearest: bool = True) -> List[Tuple[str, float]]:
    """Return up to *limit* texts and their cosine distances (0 to 2), *nearest* or oldest first."""
    distance = Document.content_vec.cosine_distance(embedding)
    # A vector index serves ORDER BY this function with LIMIT; a WHERE or DESC would undo it.
    order = distance.element if nearest else Document.id
    with Session(engine) as session:
        rows = session.execute(select(Document.content, distance).order_by(order).limit(limit))
        return [(content, distance) for content, distance in rows]


def create_vector_index(engine: Engine) -> None:
    """Build an HNSW index: a fast, approximate search. Raises DBAPIError without TiFlash."""
    VectorAdaptor(engine).create_vector_index(
        Document.content_vec, DistanceMetric.COSINE, skip_existing=True)


# ---- Without an account: stand-ins for Jina AI and TiDB -----------------------------------------
import math
import zlib
from collections import Counter

from sqlalchemy import event
from tidb_vector.utils import decode_vector


def stand_in_embeddings(texts: Sequence[str], task: str = "") -> List[List[float]]:
    """Return 768 floats of length 1 for each text, which count its words by their hashes."""
    vectors = []
    for text in texts:
        # Words of ASCII letters, and any other letter alone: Chinese and Japanese have no spaces.
        words = re.findall(rb"[a-z0-9]+|[\xc2-\xf4][\x80-\xbf]+", text.encode().lower())
        counts = Counter(zlib.crc32(word) % DIMENSIONS for word in words or [b""])
        length = math.sqrt(sum(count ** 2 for count in counts.values()))
        vectors.append([counts[index] / length for index in range(DIMENSIONS)])
    return vectors


def cosine_distance(left: Optional[str], right: Optional[str]) -> Optional[float]:
    """Return what TiDB's VEC_COSINE_DISTANCE does: None for a NULL or a vector of zeros."""
    if left is None or right is None:
        return None
    a, b = decode_vector(left).astype(float), decode_vector(right).astype(float)
    lengths = math.sqrt(a.dot(a) * b.dot(b))
    return 1 - float(a.dot(b)) / lengths if lengths else None


def create_stand_in_engine() -> Engine:
    """Return an engine for an in-memory SQLite database with VEC_COSINE_DISTANCE."""
    engine = create_engine("sqlite://", hide_parameters=True)
    event.listen(engine, "connect", lambda connection, record: connection.create_function(
        "VEC_COSINE_DISTANCE", 2, cosine_distance, deterministic=True))
    return engine


# ---- The demo -----------------------------------------------------------------------------------
import argparse
import sys

from sqlalchemy.exc import DBAPIError, SQLAlchemyError


def run(options: argparse.Namespace) -> None:
    """Store the texts and answer the question. Raises what the five steps raise."""
    if TIDB_DATABASE_URL and not JINAAI_API_KEY:
        raise ValueError("TIDB_DATABASE_URL is set, JINAAI_API_KEY is not, and no stand-in goes "
                         "into TiDB; get a key at https://jina.ai/embeddings/")
    embed, database = embed_texts, "TiDB"
    if not JINAAI_API_KEY:
        embed = stand_in_embeddings
        print("no JINAAI_API_KEY: hashed words stand in for the embeddings of Jina AI; get a key "
              "at https://jina.ai/embeddings/", file=sys.stderr)
    if TIDB_DATABASE_URL:
        engine = create_tidb_engine(TIDB_DATABASE_URL)
    else:
        engine, database = create_stand_in_engine(), "In-Memory SQLite"
        print("no TIDB_DATABASE_URL: SQLite in memory stands in for TiDB", file=sys.stderr)
    create_table(engine)
    print(f"- Inserting Data to {database}...")
    if options.texts is None:
        new = store_texts(engine, TEXTS, embed)
        for text in TEXTS:
            print(f"  - {'Inserting' if text in new else 'Already stored'}: {text}")
    else:
        stored = known = 0
        for batch in read_batches(options.texts):
            new = store_texts(engine, batch, embed)
            stored, known = stored + len(new), known + len(batch) - len(new)
            print(f"  - Stored: {stored}, already stored: {known}")
    if options.vector_index:
        try:
            create_vector_index(engine)
        except DBAPIError as error:
            if TIDB_DATABASE_URL and "tiflash replica count" not in str(error.orig):
                raise
            print("no vector index without TiDB's TiFlash: search stays exact", file=sys.stderr)

    [embedding] = embed([options.query or "What is TiDB?"], "retrieval.query")
    if options.texts is options.query is options.limit is None:
        print("- List All Documents and Their Distances to the Query:")
        show(find_documents(engine, embedding, 20, nearest=False))
        with Session(engine) as session:
            more = session.scalar(select(func.count(Document.id))) - 20
        if more > 0:
            print(f"  ... and {more} more")
    limit = options.limit or 1
    print("- The Most Relevant Document and Its Distance to the Query:" if limit == 1 else
          f"- The {limit} Most Relevant Documents and Their Distances to the Query:")
    documents = find_documents(engine, embedding, limit)
    if not documents:
        raise ValueError("no text is stored; give --texts a file with a text a line")
    show(documents)


def show(documents: List[Tuple[str, float]]) -> None:
    """Print each text and its distance."""
    for content, distance in documents:
        print(f"  - distance: {distance}\n    content: {content}")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the demo with the command line *argv*; return the exit status."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # some consoles lack some characters
        stream.reconfigure(errors="backslashreplace", line_buffering=True)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: parser.exit(2, f"error: {message}; see --help\n")
    parser.add_argument("--texts", metavar="FILE", help="store the lines of FILE (- for standard "
                        "input), each a text of up to 255 characters, instead of TEXTS")
    parser.add_argument("--query", metavar="TEXT", help="the question [What is TiDB?]")
    parser.add_argument("--limit", metavar="N", type=int, help="find the N nearest [1]")
    parser.add_argument("--vector-index", action="store_true",
                        help="build an HNSW index (TiDB with TiFlash)")
    try:
        options = parser.parse_args(argv)
        if options.limit is not None and not 0 < options.limit < 2 ** 31:
            parser.error("--limit takes a whole number from 1 up")
        if options.query is not None and (
                not options.query.strip() or re.search("[\ud800-\udfff]", options.query)):
            parser.error("--query takes a text, in UTF-8")
        run(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, head for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (EmbeddingError, SQLAlchemyError, OSError, RuntimeError, ValueError) as error:
        message = str(error)
        if isinstance(error, DBAPIError):
            code, message = error.orig.args[0], error.orig.args[-1]
            advice = "check TIDB_DATABASE_URL and run again to go on"
            if code in (1064, 1273, 1305, 4161):  # VECTOR, its function or its collation unknown
                advice = "this is not TiDB, or older than 8.4"
            message = f"TiDB: {message} ({code}); {advice}"
        print("error:", " ".join(message.split())[:500], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
