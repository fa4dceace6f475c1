# /// script
# requires-python = ">=3.9"
# dependencies = ["requests>=2.32.4", "python-dotenv>=1.0.1", "SQLAlchemy>=2.0.30,<3",
#                 "PyMySQL>=1.2.0", "tidb-vector>=0.0.14"]
# ///
"""Semantic search with Jina AI embeddings and TiDB Vector Search, in five steps.

Set JINAAI_API_KEY and TIDB_DATABASE_URL in a file .env or in the environment.
Without the URL, the demo uses SQLite and, without the key, counts of words.
To load your own texts, run examples/own_texts.py.
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
    # This encoding skips the mark (BOM) with which Windows may begin a file.
    dotenv.load_dotenv(encoding="utf-8-sig")
except Exception:
    # The environment may have all settings, so the program goes on.
    logger.warning("cannot read .env; is it UTF-8?")


def read_setting(name: str) -> str:
    """Return an environment variable, or "" if it is not set."""
    # `docker run --env-file` keeps the quotes around a value.
    return os.getenv(name, "").strip(" \t\r\n'\"")


# %% Step 1. Get embeddings from Jina AI
# Get a key at https://jina.ai/embeddings/. Some programs use other names for it.
JINAAI_API_KEY = (
    read_setting("JINAAI_API_KEY")
    or read_setting("JINA_API_KEY")  # Jina AI's own programs
    or read_setting("JINA_AI_API_KEY")  # LiteLLM
    or read_setting("JINAAI_APIKEY")  # Weaviate
)
JINAAI_API_URL = read_setting("JINAAI_API_URL") or "https://api.jina.ai/v1/embeddings"
JINAAI_MODEL = read_setting("JINAAI_MODEL") or "jina-embeddings-v2-base-en"

# The number of floats in an embedding. Newer models have to be told it.
DIMENSIONS = 768
# The most texts in a request. With the table's 255 characters each, and a token for
# each character, they are 65,280 tokens. A free key may use 100,000 a minute.
BATCH_SIZE = 256
# The seconds to try a request for. A rate limit lasts for a minute.
PATIENCE = 75
# A session keeps its connection open for the next request.
HTTP = requests.Session()


def generate_embeddings(text: str, patience: float = PATIENCE) -> list[float]:
    """Return the embedding of one question. The name is the tutorial's. For texts,
    call embed_texts, because newer models embed them in another way."""
    return embed_texts([text], "retrieval.query", patience)[0]


def embed_texts(texts: Iterable[str], task: str = "retrieval.passage",
                patience: float = PATIENCE) -> list[list[float]]:
    """Return the embedding of each text, in the order of the texts.
    *task* is "retrieval.passage" for texts and "retrieval.query" for questions.
    A request is tried again for up to *patience* seconds.
    Raises EmbeddingError, and TypeError for anything but texts."""
    embeddings: list[list[float]] = []
    for batch in batches(check_texts(texts)):
        embeddings += embed_batch(batch, task, patience)
    return embeddings


def check_texts(texts: Iterable[str]) -> list[str]:
    """Return the texts as a list. Raises TypeError for anything but texts."""
    # Python would take one text for a list of its characters.
    if isinstance(texts, (str, bytes)):
        raise TypeError("expected a list of texts, not one text")
    checked = list(texts)
    if not all(isinstance(text, str) for text in checked):
        raise TypeError("expected a list of texts, each a str")
    return checked


def batches(items: list[Any]) -> Iterator[list[Any]]:
    """Yield the items in lists of up to BATCH_SIZE."""
    for start in range(0, len(items), BATCH_SIZE):
        yield items[start:start + BATCH_SIZE]


# %% Step 1 in detail: what can go wrong. You can skip this part at first.
class EmbeddingError(Exception):
    """Jina AI gave no embeddings."""
    def __init__(self, message: str, status: Optional[int] = None,
                 temporary: bool = False, retry_after: Optional[float] = None) -> None:
        super().__init__(message)
        self.status = status  # of the answer, or None if there was no answer
        self.temporary = temporary  # True if another try may work
        self.retry_after = retry_after  # the seconds to wait, if the service says so


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
    if error.retry_after:
        return error.retry_after
    # Random, so that many clients do not come back at once.
    return random.uniform(backoff / 2, backoff)


def request_embeddings(
        texts: list[str], task: str, deadline: float) -> list[list[float]]:
    """Send one request, and return the embeddings of its answer."""
    check_key()
    body: dict[str, Any] = {"input": texts, "model": JINAAI_MODEL}
    # Only models from v3 on take a task and dimensions.
    if re.match("jina-embeddings-v[3-9]", JINAAI_MODEL):
        body["task"] = task
        body["dimensions"] = DIMENSIONS

    # requests refuses a timeout of 0, so this is at least a second.
    seconds_left = max(1, deadline - time.monotonic())
    # For each IP address, because the host may have one that answers.
    seconds_to_connect = min(10, seconds_left)
    try:
        response = HTTP.post(
            JINAAI_API_URL, json=body, timeout=(seconds_to_connect, seconds_left),
            # Without `auth`, a password in ~/.netrc would replace the key.
            auth=add_key if JINAAI_API_KEY else None,
            # A redirect could take your texts to another host.
            allow_redirects=False)
    except Exception as error:
        # `from None` hides this error, which may show a proxy's password.
        raise no_answer(error) from None
    if response.status_code != 200:
        raise status_error(response)
    return read_embeddings(response, len(texts))


def check_key() -> None:
    """Raise EmbeddingError for a key that cannot work."""
    if key_is_missing():
        raise EmbeddingError(
            "JINAAI_API_KEY is not set; get one at https://jina.ai/embeddings/")
    # Other characters cannot be sent in a header.
    if not (JINAAI_API_KEY.isascii() and JINAAI_API_KEY.isprintable()):
        raise EmbeddingError("JINAAI_API_KEY has a wrong character; copy it again")


def key_is_missing() -> bool:
    """Return True if a key is needed and not set. A server of your own needs none."""
    return not JINAAI_API_KEY and "//api.jina.ai/" in JINAAI_API_URL


def add_key(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Add the key to a request."""
    request.headers["Authorization"] = f"Bearer {JINAAI_API_KEY}"
    return request


def no_answer(error: Exception) -> EmbeddingError:
    """Return the error for a request that got no answer."""
    network_errors = (requests.ConnectionError, requests.Timeout, ChunkedEncodingError)
    # A wrong certificate is a ConnectionError, too, but it stays wrong.
    wrong_certificate = "CERTIFICATE_VERIFY_FAILED" in str(error)
    return EmbeddingError(
        f"no answer from {urlsplit(JINAAI_API_URL).hostname} ({type(error).__name__}); "
        "check the network, JINAAI_API_URL, HTTPS_PROXY and REQUESTS_CA_BUNDLE",
        temporary=isinstance(error, network_errors) and not wrong_certificate)


def status_error(response: requests.Response) -> EmbeddingError:
    """Return the error for an answer whose status is not 200."""
    status = response.status_code
    # A time-out, a rate limit or a fault of the server may pass.
    temporary = status in (408, 429) or status >= 500
    advice = "try again later" if temporary else (
        "check JINAAI_API_KEY, its balance, JINAAI_API_URL, JINAAI_MODEL and the texts")
    seconds = response.headers.get("Retry-After", "").strip()
    return EmbeddingError(
        f"{describe(response)}; {advice}", status, temporary=temporary,
        retry_after=float(seconds) if seconds.isdecimal() else None)


def read_embeddings(response: requests.Response, count: int) -> list[list[float]]:
    """Return the embeddings of *count* texts from an answer."""
    try:
        return order_embeddings(response.json()["data"], count)
    except Exception as error:
        # An answer that was cut off is no JSON. Another try may work.
        no_json = isinstance(error, requests.JSONDecodeError)
        raise EmbeddingError(
            f"{describe(response)}, not {count} embeddings ({error!r}); "
            "check JINAAI_API_URL and JINAAI_MODEL", 200, temporary=no_json) from None


def describe(response: requests.Response) -> str:
    """Return what the service answered, without the key."""
    # The words end before the floats of an embedding.
    words = response.text.partition('"embedding":')[0]
    if JINAAI_API_KEY:
        words = words.replace(JINAAI_API_KEY, "***")
    return f"the service answered {response.status_code}: {words[:200]!r}"


def order_embeddings(items: list[Any], count: int) -> list[list[float]]:
    """Return the embeddings of *count* texts, in the order of the texts."""
    if len(items) != count:
        raise ValueError(f"{len(items)} embeddings for {count} texts")
    by_index = {}
    for place, item in enumerate(items):
        check_embedding(item["embedding"])
        # Some servers give no index, because they keep the order of the texts.
        by_index[item.get("index", place)] = item["embedding"]
    if len(by_index) != count:
        raise ValueError("two embeddings have the same index")
    return [by_index[index] for index in range(count)]


def check_embedding(embedding: list[float]) -> None:
    """Raise ValueError for an embedding that TiDB cannot compare with others."""
    if len(embedding) != DIMENSIONS:
        raise ValueError(f"{len(embedding)} dimensions instead of {DIMENSIONS}")
    # TiDB multiplies two squared norms in a 32-bit float. Within these bounds, they fit.
    # Else, or with NaN, the distance is NULL, and a search puts NULL first.
    norm = math.hypot(*embedding)
    if not 1e-9 < norm < 1e9:
        raise ValueError(f"an embedding of norm {norm}")


# %% Step 2. Connect to TiDB
TIDB_DATABASE_URL = read_setting("TIDB_DATABASE_URL")


def create_tidb_engine(url: str) -> Engine:
    """Return an engine for TiDB, which connects when it is first used.
    Any ssl option in the URL turns on TLS, which always verifies the server.
    Raises ValueError for a wrong URL."""
    check_database_url(url)
    parsed = make_url(url)
    # In seconds. Limits in the URL replace these.
    limits = {"read_timeout": "60", "write_timeout": "60"}
    return create_engine(
        parsed.set(query={**limits, **parsed.query}),
        # PyMySQL takes these, not the ssl options of the URL.
        connect_args=tls_arguments(url),
        # A connection that is broken or old is replaced.
        pool_pre_ping=True, pool_recycle=300,
        # Errors and logs show no texts and embeddings.
        hide_parameters=True)


def check_database_url(url: str) -> None:
    """Raise ValueError, which does not show the password, for a wrong URL."""
    host_and_port = r"([\w.-]+|\[.+\])(:\d+)?"  # a name or [IPv6]
    # With an @ in the password, SQLAlchemy would take the wrong host.
    if not re.fullmatch(rf"mysql\+pymysql://[^@]+@{host_and_port}/[^@]+", url):
        raise ValueError(
            "TIDB_DATABASE_URL must be mysql+pymysql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "with %40 for an @ in the password")


def tls_arguments(url: str) -> dict[str, Any]:
    """Return PyMySQL's arguments for TLS, or none if the URL has no ssl option."""
    # make_url() forgets an option without a value, so this searches the text.
    if "ssl" not in url.partition("?")[2].lower():
        return {}
    query = make_url(url).query
    tls: dict[str, Any] = {name: query[name] for name in query if "ssl" in name}
    # Python may find no certificates on a Mac, but requests has some.
    tls.setdefault("ssl_ca", requests.utils.DEFAULT_CA_BUNDLE_PATH)
    if not os.path.exists(tls["ssl_ca"]):
        raise ValueError(
            f"no file {tls['ssl_ca']}; leave ssl_ca out of TIDB_DATABASE_URL "
            "to use the certificates of requests")
    tls.update(ssl_disabled=False, ssl_verify_cert=True, ssl_verify_identity=True)
    return tls


# %% Step 3. Define the table
def name_table(name: str) -> str:
    """Return *name*, or *name*_MODEL for another model than the tutorial's."""
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
    # By default, TiDB takes "a" and "a " for one text, but new_texts does not.
    content: Mapped[str] = mapped_column(
        String(255, collation="utf8mb4_0900_bin"), unique=True)
    content_vec: Mapped[list[float]] = mapped_column(VectorType(dim=DIMENSIONS))


def create_table(engine: Engine, name: str = Document.__tablename__) -> None:
    """Create the table unless it exists. Raises SQLAlchemyError."""
    # A user may be allowed to use the table, but not to create it.
    if inspect(engine).has_table(name):
        return
    table = Base.metadata.tables[name]
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
    unique = list(dict.fromkeys(check_texts(texts)))
    stored: set[str] = set()
    with Session(engine) as session:
        for batch in batches(unique):
            query = select(Document.content).where(Document.content.in_(batch))
            stored.update(session.scalars(query))
    return [text for text in unique if text not in stored]


def insert_documents(engine: Engine, texts: Iterable[str],
                     embeddings: Iterable[list[float]]) -> None:
    """Store each text with its embedding. A text that is stored already stays.
    A transaction has up to 256 rows, because TiDB Cloud limits its size. After an
    error, some texts may be stored, and new_texts returns the others.
    Raises TypeError, ValueError and SQLAlchemyError."""
    texts = check_texts(texts)
    embeddings = list(embeddings)
    # A table of the tutorial's script takes NULL, which a search puts first.
    if len(texts) != len(embeddings) or any(item is None for item in embeddings):
        raise ValueError("each text needs one embedding")

    rows = [
        {"content": text, "content_vec": embedding}
        for text, embedding in zip(texts, embeddings)]
    statement = mysql.insert(Document)
    # If another program has stored a text by now, this sets the text to itself, so
    # its row stays as it is.
    upsert = statement.on_duplicate_key_update(content=statement.inserted.content)
    for batch in batches(rows):
        with Session(engine) as session, session.begin():
            session.execute(upsert, batch)


# %% Step 5. Search by cosine distance
def find_documents(engine: Engine, embedding: list[float],
                   limit: int) -> list[tuple[str, float]]:
    """Return the *limit* nearest texts, nearest first, with their cosine distances.
    A distance is 0 for the same direction, and at most 2. Raises SQLAlchemyError."""
    distance = Document.content_vec.cosine_distance(embedding).label("distance")
    query = select(Document.content, distance).order_by(distance).limit(limit)
    with Session(engine) as session:
        return [(row.content, row.distance) for row in session.execute(query)]


# %% Run it
Embed = Callable[..., list[list[float]]]  # the type of embed_texts


def connect() -> tuple[Engine, Embed]:
    """Return an engine for TiDB and embed_texts, or stand-ins for them."""
    if TIDB_DATABASE_URL:
        return create_tidb_engine(TIDB_DATABASE_URL), embed_texts
    try:
        from examples import stand_ins
    except ImportError:
        raise ValueError("set TIDB_DATABASE_URL; the stand-ins are in examples/") from None

    # examples/ teaches SQLite the functions and the upsert of TiDB.
    engine = stand_ins.stand_in_for_tidb()
    if key_is_missing():
        return engine, stand_ins.stand_in_for_jina_ai(DIMENSIONS)
    return engine, embed_texts


def run_demo(engine: Engine, embed: Embed) -> None:
    """Print what the tutorial prints."""
    # The question is first, so that a wrong key leaves no table behind.
    query_embedding = embed(["What is TiDB?"], "retrieval.query")[0]
    create_table(engine)

    new = new_texts(engine, TEXTS)
    embeddings = embed(new)
    database = "TiDB" if engine.name == "mysql" else "In-Memory SQLite"
    print(f"- Inserting Data to {database}...")
    for text in TEXTS:
        state = "Inserting" if text in new else "Already stored"
        print(f"  - {state}: {text}")
    insert_documents(engine, new, embeddings)

    print("- List All Documents and Their Distances to the Query:")
    distance = Document.content_vec.cosine_distance(query_embedding)
    # The table may have millions of texts, so this prints the first 20.
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
        print(f"  - distance: {distance}")
        print(f"    content: {content}")


def one_line(error: Exception) -> str:
    """Return the words of an error in one line."""
    words = str(error) or type(error).__name__
    if isinstance(error, StatementError):
        # The database's own words, without the statement.
        words = f"{error.orig}; see Troubleshooting in README.md"
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
    # The demo has no option but --help. A notebook's kernel has others.
    argparse.ArgumentParser(description=__doc__).parse_known_args()
    main()
