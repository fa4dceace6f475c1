# /// script
# requires-python = ">=3.9"
# dependencies = ["requests>=2.32.4", "python-dotenv>=1.0.1", "SQLAlchemy>=2.0.30,<3",
#                 "PyMySQL>=1.2.0", "tidb-vector>=0.0.14"]
# ///
"""Semantic search with Jina AI embeddings and TiDB Vector Search, in five steps.

A file .env or the environment sets JINAAI_API_KEY and TIDB_DATABASE_URL. Without
them, the demo runs on stand-ins for Jina AI and TiDB. JINAAI_MODEL and JINAAI_API_URL
have defaults. For your own texts: examples/own_texts.py
"""

import argparse
import logging
import math
import os
import random
import re
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Optional
from urllib.parse import urlsplit

import dotenv
import requests
from requests.exceptions import ChunkedEncodingError
from sqlalchemy import Engine, String, create_engine, inspect, make_url, select
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.schema import CreateTable
from tidb_vector.sqlalchemy import VectorType

logger = logging.getLogger(__name__)
try:
    # A file from Windows may begin with a mark (BOM). "utf-8-sig" skips it.
    dotenv.load_dotenv(encoding="utf-8-sig")
except Exception as error:
    # The environment may have all settings, so this goes on.
    logger.warning("cannot read .env (%s); is it UTF-8?", type(error).__name__)


def read_setting(name: str, default: str = "") -> str:
    """Return an environment variable, or *default* if it is not set or blank."""
    # `docker run --env-file` keeps the quotes of a value.
    return os.getenv(name, "").strip(" \t\r\n'\"") or default


# %% Step 1. Get embeddings from Jina AI
# Get a key at https://jina.ai/embeddings/. Each of these names is in use.
JINAAI_API_KEY = (
    read_setting("JINAAI_API_KEY")  # by this tutorial
    or read_setting("JINA_API_KEY")  # by Jina AI
    or read_setting("JINA_AI_API_KEY")  # by LiteLLM
    or read_setting("JINAAI_APIKEY")  # by Weaviate
)
JINAAI_API_URL = read_setting("JINAAI_API_URL", "https://api.jina.ai/v1/embeddings")
JINAAI_MODEL = read_setting("JINAAI_MODEL", "jina-embeddings-v2-base-en")

# An embedding has 768 floats. Models that can give more are asked for 768.
DIMENSIONS = 768

# The most texts in a request. A text has up to 255 characters, and as many tokens.
# 256 * 255 are 65,280 tokens, and a free key has 100,000 a minute.
BATCH_SIZE = 256

# A session keeps its connection open.
HTTP = requests.Session()


def generate_embeddings(text: str, patience: float = 75) -> list[float]:
    """Return the embedding of a question. For texts to store, use embed_texts."""
    return embed_texts([text], "retrieval.query", patience)[0]


def embed_texts(texts: Iterable[str], task: str = "retrieval.passage",
                patience: float = 75) -> list[list[float]]:
    """Return the embedding of each text, in the order of the texts.
    *task* is "retrieval.passage" for texts and "retrieval.query" for questions.
    Each request is tried for *patience* seconds. 75 outlast a rate limit of a minute.
    Raises EmbeddingError, and TypeError for anything but texts."""
    embeddings: list[list[float]] = []
    for batch in batches(list_texts(texts)):
        embeddings += embed_batch(batch, task, patience)
    return embeddings


def list_texts(texts: Iterable[str]) -> list[str]:
    """Return the texts as a list. Raises TypeError for anything but texts."""
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
# You can skip this part at first.
class EmbeddingError(Exception):
    """Jina AI gave no embeddings."""
    def __init__(self, message: str, status: Optional[int] = None,
                 temporary: bool = False, retry_after: Optional[float] = None) -> None:
        super().__init__(message)
        self.status = status  # of the answer, if there was one
        self.temporary = temporary  # True if another try may work
        self.retry_after = retry_after  # seconds, if it says so


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
    # Random, so that many clients do not come back at once.
    return error.retry_after or random.uniform(backoff / 2, backoff)


def request_embeddings(
    texts: list[str], task: str, deadline: float
) -> list[list[float]]:
    """Send one request and return its embeddings."""
    check_key()
    data: dict[str, Any] = {"input": texts, "model": JINAAI_MODEL}
    # Models before v3 refuse these two fields.
    if re.match("jina-embeddings-v[3-9]", JINAAI_MODEL):
        data["task"] = task
        data["dimensions"] = DIMENSIONS

    # requests refuses a timeout of 0.
    seconds_left = max(1, deadline - time.monotonic())
    try:
        response = HTTP.post(
            JINAAI_API_URL, json=data,
            # A key in `headers` would be replaced by a password in ~/.netrc.
            auth=add_key if JINAAI_API_KEY else None,
            # 10 seconds to connect, then to another address. The rest is to read.
            timeout=(min(10, seconds_left), seconds_left),
            # A redirect could take your texts to another host.
            allow_redirects=False)
    except Exception as error:
        # `from None` hides this error, which may show a proxy's password.
        raise no_answer(error) from None

    if response.status_code != 200:
        raise refusal(response)
    return read_embeddings(response, len(texts))


def check_key() -> None:
    """Raise EmbeddingError for a key that cannot work."""
    if key_is_missing():
        raise EmbeddingError("JINAAI_API_KEY is not set; get one at https://jina.ai/embeddings/")
    if not (JINAAI_API_KEY.isascii() and JINAAI_API_KEY.isprintable()):
        raise EmbeddingError("JINAAI_API_KEY has a wrong character; copy it again")


def key_is_missing() -> bool:
    """Return True if there is no key, but Jina AI needs one."""
    return not JINAAI_API_KEY and "//api.jina.ai/" in JINAAI_API_URL


def add_key(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Add the key to a request."""
    request.headers["Authorization"] = f"Bearer {JINAAI_API_KEY}"
    return request


def no_answer(error: Exception) -> EmbeddingError:
    """Return the error for a request that got no answer."""
    host = urlsplit(JINAAI_API_URL).hostname
    network_errors = (requests.ConnectionError, requests.Timeout, ChunkedEncodingError)
    wrong_certificate = "CERTIFICATE_VERIFY_FAILED" in str(error)
    # The network may recover, but the certificate stays wrong.
    temporary = isinstance(error, network_errors) and not wrong_certificate
    return EmbeddingError(
        f"no answer from {host} ({type(error).__name__}); "
        "check the network, JINAAI_API_URL, HTTPS_PROXY and REQUESTS_CA_BUNDLE",
        temporary=temporary)


def refusal(response: requests.Response) -> EmbeddingError:
    """Return the error for an answer whose status is not 200."""
    status = response.status_code
    if status in (408, 429) or status >= 500:
        seconds = response.headers.get("Retry-After", "").strip()
        return EmbeddingError(
            f"{quote(response)}; try again later", status, temporary=True,
            retry_after=float(seconds) if seconds.isdecimal() else None)

    advice = "check JINAAI_API_KEY, its balance, JINAAI_API_URL, JINAAI_MODEL and the texts"
    return EmbeddingError(f"{quote(response)}; {advice}", status)


def quote(response: requests.Response) -> str:
    """Return the status and the first words of an answer."""
    # The floats of embeddings are cut off.
    words = response.text.partition('"embedding":')[0]
    if JINAAI_API_KEY:
        words = words.replace(JINAAI_API_KEY, "***")
    return f"the service answered {response.status_code}: {words[:200]!r}"


def read_embeddings(response: requests.Response, count: int) -> list[list[float]]:
    """Return the embeddings of *count* texts from an answer."""
    try:
        return order_embeddings(response.json()["data"], count)
    except Exception as error:
        # An answer that is no JSON may have been cut off.
        cut_off = isinstance(error, requests.JSONDecodeError)
        raise EmbeddingError(
            f"{quote(response)}, not {count} embeddings ({error!r}); "
            "check JINAAI_API_URL and JINAAI_MODEL", 200, temporary=cut_off) from None


def order_embeddings(items: list[Any], count: int) -> list[list[float]]:
    """Return the embeddings in the order of the texts."""
    if len(items) != count:
        raise ValueError(f"{len(items)} embeddings for {count} texts")
    by_index = {}
    for place, item in enumerate(items):
        check_embedding(item["embedding"])
        # Some servers leave the index out. Then the place in the answer counts.
        index = item.get("index", place)
        by_index[index] = item["embedding"]
    # A doubled index leaves another out: a KeyError.
    return [by_index[index] for index in range(count)]


def check_embedding(embedding: list[float]) -> None:
    """Raise ValueError for an embedding that TiDB cannot compare with others."""
    # TiDB multiplies squared norms as 32-bit floats. With zeros, or beyond these bounds,
    # the distance is NULL, and a search puts NULL first.
    norm = math.hypot(*embedding)
    if len(embedding) != DIMENSIONS or not 1e-9 < norm < 1e9:
        raise ValueError(f"{len(embedding)} dimensions, norm {norm}")


# %% Step 2. Connect to TiDB
TIDB_DATABASE_URL = read_setting("TIDB_DATABASE_URL")


def create_tidb_engine(url: str) -> Engine:
    """Return an engine for TiDB, which connects when it is first used.
    Any ssl option in the URL means TLS that verifies the server.
    Raises ValueError for a wrong URL."""
    check_database_url(url)
    # Seconds. The URL's own limits win.
    limits = {"read_timeout": "60", "write_timeout": "60"}
    parsed = make_url(url)
    return create_engine(
        parsed.set(query={**limits, **parsed.query}),
        # These win over the URL's, where SQLAlchemy passes ssl_ca on wrongly.
        connect_args=tls_arguments(url),
        # A broken connection is replaced.
        pool_pre_ping=True,
        pool_recycle=300,
        # Errors and logs show no texts or embeddings.
        hide_parameters=True)


# %% Step 2 in detail: the parts of the URL
# You can skip this part at first.
def check_database_url(url: str) -> None:
    """Raise ValueError, which shows no password, for a URL of another form."""
    # With an @ in the password, SQLAlchemy would connect elsewhere.
    host_and_port = r"(\[.+\]|[^@/:]+)(:\d+)?"
    if not re.fullmatch(rf"mysql\+pymysql://[^@]+@{host_and_port}/[^@]+", url):
        raise ValueError(
            "TIDB_DATABASE_URL must be mysql+pymysql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "with %40 for an @ in the password")


def tls_arguments(url: str) -> dict[str, Any]:
    """Return PyMySQL's arguments for verified TLS, or none without an ssl option."""
    # The text is searched, because make_url() drops an option without a value, such as
    # "?ssl_verify_cert". TLS would then be off.
    if "ssl" not in url.partition("?")[2].lower():
        return {}

    query = make_url(url).query
    tls: dict[str, Any] = {name: query[name] for name in query if "ssl" in name}
    # Some Pythons find no certificates, but requests has some.
    tls.setdefault("ssl_ca", requests.utils.DEFAULT_CA_BUNDLE_PATH)
    if not os.path.exists(tls["ssl_ca"]):
        raise ValueError(
            f"no file {tls['ssl_ca']}; leave ssl_ca out of TIDB_DATABASE_URL "
            "to use the certificates of requests")
    # No option of the URL turns this off.
    tls.update(ssl_disabled=False, ssl_verify_cert=True, ssl_verify_identity=True)
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
    # TiDB's default collation ignores blanks at the end, but Python does not.
    content: Mapped[str] = mapped_column(
        String(255, collation="utf8mb4_0900_bin"), unique=True)
    content_vec: Mapped[list[float]] = mapped_column(VectorType(dim=DIMENSIONS))


def create_table(engine: Engine, mapped: type[Base] = Document) -> None:
    """Create the table of a mapped class unless it exists. Raises SQLAlchemyError."""
    table: Any = mapped.__table__
    # A user may be allowed to use tables, but not to create them.
    if not inspect(engine).has_table(table.name):
        with engine.begin() as connection:
            # create_all() would fail if another program creates it now.
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
    Raises SQLAlchemyError, and TypeError for anything but texts."""
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
    A transaction has up to 256 rows, because TiDB Cloud limits its size. After an
    error, new_texts returns the texts that are left.
    Raises TypeError, ValueError and SQLAlchemyError."""
    texts = list_texts(texts)
    embeddings = list(embeddings)
    # As NULL, a missing embedding would come first in a search.
    if len(texts) != len(embeddings) or any(item is None for item in embeddings):
        raise ValueError("each text needs one embedding")

    rows = [
        {"content": text, "content_vec": embedding}
        for text, embedding in zip(texts, embeddings)]
    statement = mysql.insert(Document)
    # Another program may have stored a text since new_texts looked. Then this
    # sets the text to itself. INSERT IGNORE would hide other errors.
    upsert = statement.on_duplicate_key_update(content=statement.inserted.content)
    for batch in batches(rows):
        with Session(engine) as session, session.begin():
            session.execute(upsert, batch)


# %% Step 5. Search by cosine distance
def find_documents(engine: Engine, embedding: list[float],
                   limit: int) -> list[tuple[str, float]]:
    """Return the *limit* nearest texts, nearest first, with their cosine distances.
    Distances go from 0 to 2. Raises SQLAlchemyError."""
    distance = Document.content_vec.cosine_distance(embedding).label("distance")
    # If you add a WHERE, a vector index no longer serves this query.
    query = select(Document.content, distance).order_by(distance).limit(limit)
    with Session(engine) as session:
        return [(row.content, row.distance) for row in session.execute(query)]


# %% Run it
def run_demo(engine: Engine, embed: Callable[..., list[list[float]]]) -> None:
    """Print what the tutorial prints. *embed* is embed_texts or a stand-in."""
    # First, because a wrong key should leave no table.
    query_embedding = embed(["What is TiDB?"], "retrieval.query")[0]
    create_table(engine)

    names = {"mysql": "TiDB", "sqlite": "In-Memory SQLite"}
    print(f"- Inserting Data to {names[engine.dialect.name]}...")
    new = new_texts(engine, TEXTS)
    for text in TEXTS:
        state = "Inserting" if text in new else "Already stored"
        print(f"  - {state}: {text}")
    insert_documents(engine, new, embed(new))

    print("- List All Documents and Their Distances to the Query:")
    distance = Document.content_vec.cosine_distance(query_embedding)
    # A table may have millions, so this lists 20.
    query = select(Document.content, distance).order_by(Document.id).limit(20)
    with Session(engine) as session:
        documents = session.execute(query).all()
    print_documents(documents)
    if len(documents) == 20:
        print("  ...")

    print("- The Most Relevant Document and Its Distance to the Query:")
    print_documents(find_documents(engine, query_embedding, limit=1))


def print_documents(documents: Iterable[Any]) -> None:
    """Print texts and their distances in the tutorial's form."""
    for content, distance in documents:
        print(f"  - distance: {distance}\n    content: {content}")


def connect() -> tuple[Engine, Callable[..., list[list[float]]]]:
    """Return an engine for TiDB, and embed_texts. Without TIDB_DATABASE_URL, they are
    stand-ins: SQLite, which learns TiDB's functions, and, without a key, word counts."""
    if TIDB_DATABASE_URL:
        return create_tidb_engine(TIDB_DATABASE_URL), embed_texts
    try:
        from examples.stand_ins import connect_stand_ins
    except ImportError:
        raise ValueError("set TIDB_DATABASE_URL; the stand-ins are in examples/") from None
    # With a key, embeddings are real, and this returns embed_texts itself.
    return connect_stand_ins(embed_texts, key_is_missing(), DIMENSIONS)


def one_line(error: Exception) -> str:
    """Return the words of an error in one line."""
    if isinstance(error, (EmbeddingError, ValueError)):
        words = str(error)
    elif isinstance(error, StatementError):
        # This is the database's error without the statement.
        words = f"{error.orig}; see Troubleshooting in README.md"
    else:
        words = f"{type(error).__name__}: {error}"
    return textwrap.shorten(words, 500, placeholder="...")


def main() -> None:
    """Run the demo. An error ends in one line on stderr and exit status 1."""
    try:
        run_demo(*connect())
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # as in a shell
    except Exception as error:
        raise SystemExit(f"error: {one_line(error)}") from None


if __name__ == "__main__":
    # Only --help counts. A notebook's kernel has other arguments.
    argparse.ArgumentParser(description=__doc__).parse_known_args()
    main()
