# /// script
# requires-python = ">=3.9"
# dependencies = ["requests>=2.32.4", "python-dotenv>=1.0.1", "SQLAlchemy>=2.0.30,<3",
#                 "PyMySQL>=1.2.0", "tidb-vector>=0.0.14"]
# ///
"""Semantic search with Jina AI embeddings and TiDB Vector Search, in five steps.

A file .env, or the environment, sets JINAAI_API_KEY, TIDB_DATABASE_URL, JINAAI_MODEL
and JINAAI_API_URL, as in .env.example. For your own texts: examples/own_texts.py
"""

import argparse
import logging
import math
import os
import random
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Optional
from urllib.parse import urlsplit

import dotenv
import requests
from sqlalchemy import URL, Engine, String, create_engine, inspect, make_url, select
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import ArgumentError, StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.schema import CreateTable
from tidb_vector.sqlalchemy import VectorType

logger = logging.getLogger(__name__)

try:
    # On Windows, a file may begin with a mark (BOM), which "utf-8-sig" skips.
    dotenv.load_dotenv(encoding="utf-8-sig")
except Exception as error:
    # This is no reason to stop: all settings may be in the environment.
    logger.warning("cannot read .env (%s); is it UTF-8?", type(error).__name__)


def read_setting(name: str, default: str = "") -> str:
    """Return an environment variable, or *default* if it is not set or blank."""
    # `docker run --env-file` keeps the quotes of a file .env.
    return os.getenv(name, "").strip(" \t\r\n'\"") or default


# %% Step 1. Get embeddings from Jina AI
# Get a key at https://jina.ai/embeddings/. Other programs know it by other names.
JINAAI_API_KEY = (
    read_setting("JINAAI_API_KEY")  # the tutorial
    or read_setting("JINA_API_KEY")  # Jina AI
    or read_setting("JINA_AI_API_KEY")  # LiteLLM
    or read_setting("JINAAI_APIKEY")  # Weaviate
)
JINAAI_API_URL = read_setting("JINAAI_API_URL", "https://api.jina.ai/v1/embeddings")
JINAAI_MODEL = read_setting("JINAAI_MODEL", "jina-embeddings-v2-base-en")

# An embedding of this model is a list of 768 floats.
DIMENSIONS = 768

# The most texts in a request. 256 Chinese texts of 255 characters are about 65,000
# tokens, and a free key has 100,000 a minute.
BATCH_SIZE = 256

# A session keeps its connection open, so the next request is quicker.
HTTP = requests.Session()


def generate_embeddings(text: str, patience: float = 75) -> list[float]:
    """Return the embedding of a question, a list of 768 floats. Raises EmbeddingError."""
    return embed_texts([text], "retrieval.query", patience)[0]


def embed_texts(texts: Iterable[str], task: str = "retrieval.passage",
                patience: float = 75) -> list[list[float]]:
    """Return the embedding of each text, in the order of the texts.
    *task* is "retrieval.passage" for texts to store and "retrieval.query" for questions.
    Each request is tried again for *patience* seconds. 75 outlast a limit per minute.
    Raises EmbeddingError, and TypeError if these are no texts."""
    embeddings: list[list[float]] = []
    for batch in batches(list_texts(texts)):
        embeddings += embed_batch(batch, task, patience)
    return embeddings


def list_texts(texts: Iterable[str]) -> list[str]:
    """Return the texts as a list. Raises TypeError if these are no texts."""
    # Python would take one text for a list of its characters.
    if isinstance(texts, (str, bytes)):
        raise TypeError("expected a list of texts, not one text")
    listed = list(texts)
    if not all(isinstance(text, str) for text in listed):
        raise TypeError("expected a list of texts, each a str")
    return listed


def batches(items: list[Any]) -> Iterator[list[Any]]:
    """Yield the items in lists of up to BATCH_SIZE."""
    for start in range(0, len(items), BATCH_SIZE):
        yield items[start:start + BATCH_SIZE]


# %% Step 1 in detail: what can go wrong between you and Jina AI
# You can skip this cell at first.
class EmbeddingError(Exception):
    """Jina AI gave no embeddings."""

    def __init__(self, message: str, status: Optional[int] = None,
                 temporary: bool = False, retry_after: Optional[float] = None) -> None:
        super().__init__(message)
        self.status = status  # of the answer, or None without one
        self.temporary = temporary  # True if another try may help
        self.retry_after = retry_after  # seconds, if the service names them


def embed_batch(texts: list[str], task: str, patience: float) -> list[list[float]]:
    """Return the embeddings of a batch. Tries again while *patience* lasts."""
    deadline = time.monotonic() + patience
    backoff = 1.0
    while True:
        try:
            return request_embeddings(texts, task, deadline)
        except EmbeddingError as error:
            wait = seconds_to_wait(error, backoff)
            if not error.temporary or time.monotonic() + wait >= deadline:
                raise
            logger.warning("%s (next try in %.0f s)", error, wait)

        time.sleep(wait)
        backoff = min(2 * backoff, 15)


def seconds_to_wait(error: EmbeddingError, backoff: float) -> float:
    """Return the seconds that the service asks for, or else about *backoff*."""
    # A random number keeps many clients from coming back at the same moment.
    return error.retry_after or random.uniform(backoff / 2, backoff)


def request_embeddings(texts: list[str], task: str, deadline: float) -> list[list[float]]:
    """Send one request and return its embeddings."""
    check_key()
    data: dict[str, Any] = {"input": texts, "model": JINAAI_MODEL}
    # Older models refuse these two fields.
    if re.match("jina-embeddings-v[3-9]", JINAAI_MODEL):
        data["task"] = task
        data["dimensions"] = DIMENSIONS

    # requests refuses 0 seconds.
    read_timeout = max(1, deadline - time.monotonic())
    # A host can have other addresses to try.
    connect_timeout = min(10, read_timeout)
    # With a header instead, a password in ~/.netrc would win.
    auth = add_key if JINAAI_API_KEY else None
    try:
        # A redirect could take your texts to another host.
        response = HTTP.post(
            JINAAI_API_URL, json=data, auth=auth, allow_redirects=False,
            timeout=(connect_timeout, read_timeout))
    except Exception as error:
        # The error's words may show the password of a proxy.
        raise no_answer(error) from None

    if response.status_code != 200:
        raise refusal(response)
    return read_embeddings(response, len(texts))


def key_is_missing() -> bool:
    """Return True if Jina AI needs a key. An endpoint of your own may need none."""
    return not JINAAI_API_KEY and "//api.jina.ai/" in JINAAI_API_URL


def check_key() -> None:
    """Raise EmbeddingError for a key that cannot work."""
    if key_is_missing():
        raise EmbeddingError("JINAAI_API_KEY is not set; get one at https://jina.ai/embeddings/")
    if not (JINAAI_API_KEY.isascii() and JINAAI_API_KEY.isprintable()):
        raise EmbeddingError("JINAAI_API_KEY has a character that no key has; copy it again")


def add_key(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Add the key to a request."""
    request.headers["Authorization"] = f"Bearer {JINAAI_API_KEY}"
    return request


def no_answer(error: Exception) -> EmbeddingError:
    """Return the error for a request without an answer."""
    network_errors = (requests.ConnectionError, requests.Timeout,
                      requests.exceptions.ChunkedEncodingError)
    # Another try would meet the same certificate.
    wrong_certificate = "CERTIFICATE_VERIFY_FAILED" in str(error)
    return EmbeddingError(
        f"no answer from {urlsplit(JINAAI_API_URL).hostname} ({type(error).__name__}); "
        "check the network, JINAAI_API_URL, HTTPS_PROXY and REQUESTS_CA_BUNDLE",
        temporary=isinstance(error, network_errors) and not wrong_certificate)


def refusal(response: requests.Response) -> EmbeddingError:
    """Return the error for an answer with another status than 200."""
    status = response.status_code
    if status not in (408, 429) and status < 500:
        advice = "check JINAAI_API_KEY, its balance, JINAAI_API_URL and JINAAI_MODEL"
        return EmbeddingError(f"{describe(response)}; {advice}", status)

    seconds = response.headers.get("Retry-After", "").strip()
    return EmbeddingError(
        f"{describe(response)}; try again later", status, temporary=True,
        retry_after=float(seconds) if seconds.isdecimal() else None)


def describe(response: requests.Response) -> str:
    """Return the first words of an answer, without key and embeddings."""
    words = response.text.partition('"embedding":')[0]
    if JINAAI_API_KEY:
        words = words.replace(JINAAI_API_KEY, "***")
    return f"the service answered {response.status_code}: {words[:200]!r}"


def read_embeddings(response: requests.Response, count: int) -> list[list[float]]:
    """Return the embeddings of *count* texts from an answer."""
    try:
        embeddings = order_embeddings(response.json()["data"], count)
    except Exception as error:
        # An answer that was cut off is no JSON. The next one may be whole.
        cut_off = isinstance(error, requests.JSONDecodeError)
        raise EmbeddingError(
            f"{describe(response)}, not {count} embeddings of {DIMENSIONS} dimensions; "
            "check JINAAI_API_URL and JINAAI_MODEL", 200, temporary=cut_off) from None
    return embeddings


def order_embeddings(items: list[Any], count: int) -> list[list[float]]:
    """Return the embeddings in the order of the texts, one for each."""
    if len(items) != count:
        raise ValueError(f"{len(items)} embeddings for {count} texts")

    by_index = {}
    for place, item in enumerate(items):
        # Some servers leave the index out. Then the place in the answer counts.
        index = item.get("index", place)
        check_embedding(item["embedding"])
        by_index[index] = item["embedding"]
    return [by_index[index] for index in range(count)]


def check_embedding(embedding: list[float]) -> None:
    """Raise ValueError for an embedding that TiDB cannot compare."""
    # TiDB multiplies two squared lengths as 32-bit floats. Beyond these bounds, as with
    # zeros, the distance is NULL, and NULL comes first in a search.
    length = math.hypot(*embedding)
    if len(embedding) != DIMENSIONS or not 1e-9 < length < 1e9:
        raise ValueError(f"{len(embedding)} dimensions, length {length}")


# %% Step 2. Connect to TiDB
TIDB_DATABASE_URL = read_setting("TIDB_DATABASE_URL")


def create_tidb_engine(url: str) -> Engine:
    """Return an engine for TiDB. It connects when it is first used.
    With any ssl option in the URL, TLS verifies the server's certificate and host name.
    Raises ValueError for a URL that cannot be used."""
    parsed = parse_database_url(url)
    # Seconds to wait for an answer, unless the URL has its own.
    options = {"read_timeout": "60", "write_timeout": "60", **parsed.query}
    return create_engine(
        parsed.set(query=options),
        # PyMySQL takes these first. SQLAlchemy would lose the URL's ssl_ca.
        connect_args=tls_arguments(url),
        # A connection that broke while it was idle is replaced.
        pool_pre_ping=True,
        pool_recycle=300,
        # Errors and logs show no texts and no embeddings.
        hide_parameters=True)


# %% Step 2 in detail: the parts of the URL
# You can skip this cell at first.
def parse_database_url(url: str) -> URL:
    """Return the parts of the URL. Raises ValueError, which shows no password."""
    form = ("TIDB_DATABASE_URL must be mysql+pymysql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "with %40 for an @ in the password")
    try:
        parsed = make_url(url)
    except (ValueError, ArgumentError):
        raise ValueError(form) from None

    # With two @, SQLAlchemy would take a part of the password for the host.
    if parsed.drivername != "mysql+pymysql" or not parsed.database or url.count("@") > 1:
        raise ValueError(form)
    return parsed


def tls_arguments(url: str) -> dict[str, Any]:
    """Return PyMySQL's arguments for verified TLS, or none without an ssl option."""
    # SQLAlchemy drops an option without a value. TLS would be off without a word.
    if "ssl" not in url.partition("?")[2].lower():
        return {}

    # Some Pythons do not find the system's certificates.
    tls: dict[str, Any] = {"ssl_ca": requests.utils.DEFAULT_CA_BUNDLE_PATH}
    query = make_url(url).query
    tls.update((name, query[name]) for name in query if "ssl" in name)
    tls.update(ssl_disabled=False, ssl_verify_cert=True, ssl_verify_identity=True)
    if not os.path.exists(tls["ssl_ca"]):
        raise ValueError(f"there is no file {tls['ssl_ca']}; leave ssl_ca out of "
                         "TIDB_DATABASE_URL to use requests' certificates")
    return tls


# %% Step 3. Define the table
def name_table(name: str) -> str:
    """Return *name* for the tutorial's model, and *name*_MODEL for another model."""
    # Embeddings of two models cannot be compared, so each model has its own table.
    if JINAAI_MODEL == "jina-embeddings-v2-base-en":
        return name
    return name + "_" + re.sub(r"\W", "_", JINAAI_MODEL)


class Base(DeclarativeBase):
    pass


class Document(Base):
    """A text, which is stored once, and its embedding."""

    __tablename__ = name_table("jinaai_tidb_demo_documents")
    id: Mapped[int] = mapped_column(primary_key=True)
    # TiDB's default collation takes "A" for "a". This one does not. It is for the dialect
    # "mysql" alone, because other databases do not know it.
    content: Mapped[str] = mapped_column(
        String(255).with_variant(String(255, collation="utf8mb4_0900_bin"), "mysql"),
        unique=True)
    content_vec: Mapped[list[float]] = mapped_column(VectorType(dim=DIMENSIONS))


def create_table(engine: Engine, model: type[Base] = Document) -> None:
    """Create the table of *model* unless it exists. Raises SQLAlchemyError."""
    table = Base.metadata.tables[model.__tablename__]
    # A user who may not create tables can use one that exists.
    if not inspect(engine).has_table(table.name):
        with engine.begin() as connection:
            # If another program creates it now, Base.metadata.create_all() fails.
            connection.execute(CreateTable(table, if_not_exists=True))


# %% Step 4. Create embeddings and store them in TiDB
TEXTS = [
    "Jina AI offers best-in-class embeddings, reranker and prompt optimizer, "
    "enabling advanced multimodal AI.",
    "TiDB is an open-source MySQL-compatible database that supports "
    "Hybrid Transactional and Analytical Processing (HTAP) workloads.",
]


def new_texts(engine: Engine, texts: Iterable[str]) -> list[str]:
    """Return the texts that are not stored yet, each once and in their order.
    Raises SQLAlchemyError, and TypeError if these are no texts."""
    # The keys of a dict are unique and keep their order.
    unique = list(dict.fromkeys(list_texts(texts)))
    stored: set[str] = set()
    with Session(engine) as session:
        for batch in batches(unique):
            query = select(Document.content).where(Document.content.in_(batch))
            stored.update(session.scalars(query))
    return [text for text in unique if text not in stored]


def insert_documents(engine: Engine, texts: Iterable[str],
                     embeddings: Iterable[list[float]]) -> None:
    """Store each text with its embedding. What is stored already stays as it is.
    A transaction has up to 256 rows, because TiDB Cloud limits its size. After an error,
    earlier transactions stay, and new_texts returns the texts that are left.
    Raises TypeError, ValueError and SQLAlchemyError."""
    texts = list_texts(texts)
    embeddings = list(embeddings)
    # Without an embedding, a text could be stored but never be found.
    if len(texts) != len(embeddings) or any(item is None for item in embeddings):
        raise ValueError("each text needs one embedding")

    rows = [{"content": text, "content_vec": embedding}
            for text, embedding in zip(texts, embeddings)]
    statement = mysql.insert(Document)
    # A stored text gets the content that it has, so nothing changes. INSERT IGNORE does
    # the same, but hides other errors.
    upsert = statement.on_duplicate_key_update(content=statement.inserted.content)
    for batch in batches(rows):
        with Session(engine) as session, session.begin():
            session.execute(upsert, batch)


# %% Step 5. Search by cosine distance
def find_documents(engine: Engine, embedding: list[float], limit: int) -> list[tuple[str, float]]:
    """Return the *limit* nearest texts and their cosine distances, which go from 0 to 2.
    Raises SQLAlchemyError."""
    distance = Document.content_vec.cosine_distance(embedding).label("distance")
    # If your table gets a vector index, this query uses it. With a WHERE, it would not.
    query = select(Document.content, distance).order_by(distance).limit(limit)
    with Session(engine) as session:
        return [(row.content, row.distance) for row in session.execute(query)]


# %% Run it
def run_demo() -> None:
    """Print what the tutorial prints."""
    engine, embed = connect()

    # A wrong key ends the run here, before there is a table.
    question = embed(["What is TiDB?"], "retrieval.query")[0]
    create_table(engine)

    names = {"mysql": "TiDB", "sqlite": "In-Memory SQLite"}
    print(f"- Inserting Data to {names[engine.dialect.name]}...")
    new = new_texts(engine, TEXTS)
    for text in TEXTS:
        state = "Inserting" if text in new else "Already stored"
        print(f"  - {state}: {text}")
    insert_documents(engine, new, embed(new))

    print("- List All Documents and Their Distances to the Query:")
    distance = Document.content_vec.cosine_distance(question)
    # There may be millions.
    listing = select(Document.content, distance).order_by(Document.id).limit(20)
    with Session(engine) as session:
        documents = session.execute(listing).all()
    print_documents(documents)
    if len(documents) == 20:
        print("  ...")

    print("- The Most Relevant Document and Its Distance to the Query:")
    print_documents(find_documents(engine, question, limit=1))


def connect() -> tuple[Engine, Callable[..., list[list[float]]]]:
    """Return an engine and `embed_texts`, or stand-ins for what has no account."""
    if TIDB_DATABASE_URL:
        return create_tidb_engine(TIDB_DATABASE_URL), embed_texts

    try:
        from examples.stand_ins import replace_accounts
    except ImportError:
        raise ValueError("set TIDB_DATABASE_URL; examples/ has stand-ins") from None
    return replace_accounts(embed_texts, key_is_missing(), DIMENSIONS)


def print_documents(documents: Iterable[Any]) -> None:
    """Print texts and their distances in the tutorial's form."""
    for content, distance in documents:
        print(f"  - distance: {distance}\n    content: {content}")


def one_line(error: Exception) -> str:
    """Return the words of an error in one line."""
    words = str(error)
    if isinstance(error, StatementError):
        # The database's own words are in `orig`.
        words = f"{error.orig}; see Troubleshooting in README.md"
    elif not isinstance(error, (EmbeddingError, ValueError)):
        words = f"{type(error).__name__}: {error}"
    return textwrap.shorten(words, 500, placeholder="...")


def main() -> None:
    """Run the demo. An error ends in one line on stderr and exit status 1."""
    try:
        run_demo()
    except KeyboardInterrupt:
        sys.exit(130)  # as shells expect after Ctrl-C
    except Exception as error:
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    # --help prints what this is. The arguments of a notebook's kernel are ignored.
    argparse.ArgumentParser(description=__doc__).parse_known_args()
    main()
