# /// script
# requires-python = ">=3.9"
# dependencies = ["requests>=2.32.4", "python-dotenv>=1.0.1", "SQLAlchemy>=2.0.30,<3",
#                 "PyMySQL>=1.2.0", "tidb-vector>=0.0.14"]
# ///
"""Semantic search with Jina AI embeddings and TiDB Vector Search, in five steps.

The settings are JINAAI_API_KEY, TIDB_DATABASE_URL, JINAAI_MODEL and JINAAI_API_URL.
They come from the environment or from a file .env, and .env.example explains them.
To load texts of your own, run examples/own_texts.py.
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
    # Editors on Windows put a mark (BOM) before UTF-8, which "utf-8-sig" skips.
    dotenv.load_dotenv(encoding="utf-8-sig")
except Exception as error:
    # A program with all its settings in the environment can do without .env.
    logger.warning("cannot read .env (%s); save it as UTF-8", type(error).__name__)


def read_setting(name: str, default: str = "") -> str:
    """Return an environment variable, or *default* if the variable is not set or blank."""
    value = os.getenv(name, "").strip()
    # `docker run --env-file` keeps the quotes around a value.
    if re.fullmatch(r"'.*'|\".*\"", value):
        value = value[1:-1].strip()
    return value or default


# %% Step 1. Get embeddings from Jina AI
# Get a key at https://jina.ai/embeddings/.
JINAAI_API_KEY = (
    read_setting("JINAAI_API_KEY")  # the tutorial's name
    or read_setting("JINA_API_KEY")  # Jina AI's own name, which the tutorial has once, too
    or read_setting("JINA_AI_API_KEY")  # LiteLLM's name
    or read_setting("JINAAI_APIKEY")  # Weaviate's name
)
JINAAI_API_URL = read_setting("JINAAI_API_URL", "https://api.jina.ai/v1/embeddings")
JINAAI_MODEL = read_setting("JINAAI_MODEL", "jina-embeddings-v2-base-en")

# An embedding of this model is a list of 768 floats.
DIMENSIONS = 768

# A request carries up to 256 texts. With 255 Chinese characters each, these are about
# 65,000 tokens, and a free key has 100,000 a minute.
BATCH_SIZE = 256

# The session keeps its connection open, because opening one over TLS takes longer than
# asking a question.
HTTP = requests.Session()


def generate_embeddings(text: str, patience: float = 75) -> list[float]:
    """Return the embedding of one question, a list of 768 floats.

    Takes at most *patience* seconds. Raises EmbeddingError.
    """
    return embed_texts([text], "retrieval.query", patience)[0]


def embed_texts(texts: Iterable[str], task: str = "retrieval.passage",
                patience: float = 75) -> list[list[float]]:
    """Return the embedding of each text, in the order of the texts.

    *task* is "retrieval.passage" for texts to store, and "retrieval.query" for questions.
    Each request takes at most *patience* seconds, with all its tries.
    Raises EmbeddingError, and TypeError for anything but texts.
    """
    embeddings: list[list[float]] = []
    for batch in batches(list_texts(texts)):
        embeddings += embed_batch(batch, task, patience)
    return embeddings


# %% Step 1 in detail: what can go wrong on the way to Jina AI and back
# You can skip this cell at first.
class EmbeddingError(Exception):
    """Jina AI gave no embeddings."""

    def __init__(self, message: str, status: Optional[int] = None, temporary: bool = False,
                 retry_after: Optional[float] = None) -> None:
        super().__init__(message)
        self.status = status  # of the answer, or None if there was no answer
        self.temporary = temporary  # True if the same request may work later
        self.retry_after = retry_after  # seconds, or None if the service does not say


def list_texts(texts: Iterable[str]) -> list[str]:
    """Return the texts as a list. Raises TypeError for one text and for what is no text."""
    listed = list(texts)
    # One text would be taken for a list of its characters.
    if isinstance(texts, (str, bytes)) or not all(isinstance(text, str) for text in listed):
        raise TypeError("expected a list of texts, each a str")
    return listed


def batches(items: list[Any]) -> Iterator[list[Any]]:
    """Yield the items in lists of up to BATCH_SIZE."""
    for start in range(0, len(items), BATCH_SIZE):
        yield items[start:start + BATCH_SIZE]


def embed_batch(texts: list[str], task: str, patience: float) -> list[list[float]]:
    """Return the embeddings of one request, which is tried again while *patience* lasts."""
    deadline = time.monotonic() + patience
    pause = 1.0
    while True:
        try:
            return request_embeddings(texts, task, deadline)
        except EmbeddingError as error:
            wait = seconds_to_wait(error, pause)
            if not error.temporary or time.monotonic() + wait >= deadline:
                raise
            logger.warning("%s (next try in %.0f s)", error, wait)

        time.sleep(wait)
        pause = min(2 * pause, 15)


def seconds_to_wait(error: EmbeddingError, pause: float) -> float:
    """Return what the service asks for, or else *pause*, up to half of it less by chance.

    The chance keeps many clients from coming back at the same moment.
    """
    return error.retry_after or pause * random.uniform(0.5, 1)


def request_embeddings(texts: list[str], task: str, deadline: float) -> list[list[float]]:
    """Send one request and return its embeddings."""
    check_key()
    data: dict[str, Any] = {"input": texts, "model": JINAAI_MODEL}
    # Models before v3 refuse these two fields.
    if re.match("jina-embeddings-v[3-9]", JINAAI_MODEL):
        data["task"] = task
        data["dimensions"] = DIMENSIONS

    # A try has at least one second, because requests refuses a timeout of 0.
    seconds_left = max(1, deadline - time.monotonic())
    # A host may have several addresses. After 10 seconds, requests tries the next one.
    timeout = (min(10, seconds_left), seconds_left)
    # In `headers`, requests would replace the key by a password from ~/.netrc.
    auth = add_key if JINAAI_API_KEY else None
    try:
        # A redirect could take the texts to another host, so none is followed.
        response = HTTP.post(JINAAI_API_URL, json=data, timeout=timeout, auth=auth,
                             allow_redirects=False)
    except Exception as error:
        # The words of the error may show a password, so the new error does without them.
        raise no_answer(error) from None

    if response.status_code != 200:
        raise refusal(response)
    return read_embeddings(response, len(texts))


def key_is_missing() -> bool:
    """Return True if Jina AI needs a key. An endpoint of your own may need none."""
    return not JINAAI_API_KEY and "//api.jina.ai/" in JINAAI_API_URL


def check_key() -> None:
    """Raise EmbeddingError for a key that cannot work, before anything is sent."""
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
    host = urlsplit(JINAAI_API_URL).hostname
    network_errors = (requests.ConnectionError, requests.Timeout,
                      requests.exceptions.ChunkedEncodingError)
    untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
    return EmbeddingError(
        f"no answer from {host} ({type(error).__name__}); check the network, "
        "JINAAI_API_URL, HTTPS_PROXY and REQUESTS_CA_BUNDLE",
        temporary=isinstance(error, network_errors) and not untrusted)


def refusal(response: requests.Response) -> EmbeddingError:
    """Return the error for an answer with another status than 200."""
    status = response.status_code
    seconds = response.headers.get("Retry-After", "").strip()
    retry_after = float(seconds) if seconds.isdecimal() else None

    if status in (408, 429, *range(500, 600)):
        return EmbeddingError(f"{quote(response)}; try again later", status, True, retry_after)
    return EmbeddingError(f"{quote(response)}; check JINAAI_API_KEY, its balance, "
                          "JINAAI_API_URL and JINAAI_MODEL", status)


def quote(response: requests.Response) -> str:
    """Return the status of an answer and its first words, without key and embeddings."""
    words = response.text.partition('"embedding":')[0]
    if JINAAI_API_KEY:
        words = words.replace(JINAAI_API_KEY, "***")
    return f"the service answered {response.status_code}: {words[:200]!r}"


def read_embeddings(response: requests.Response, count: int) -> list[list[float]]:
    """Return the embeddings of *count* texts from an answer."""
    try:
        embeddings = order_embeddings(response.json()["data"], count)
        for embedding in embeddings:
            check_embedding(embedding)
    except Exception as error:
        # An answer that was cut off is no JSON, and the next one may be whole.
        cut_off = isinstance(error, requests.JSONDecodeError)
        raise EmbeddingError(
            f"{quote(response)}, not {count} embeddings of {DIMENSIONS} dimensions; "
            "check JINAAI_API_URL and JINAAI_MODEL", 200, temporary=cut_off) from None
    return embeddings


def order_embeddings(items: list[Any], count: int) -> list[list[float]]:
    """Return the embeddings in the order of the texts. Raises an error if one is missing."""
    by_index = {}
    for place, item in enumerate(items):
        # Some servers leave the index out. Then the place in the answer counts.
        index = item.get("index", place)
        by_index[index] = item["embedding"]

    if len(items) != count:
        raise ValueError(f"{len(items)} embeddings for {count} texts")
    return [by_index[index] for index in range(count)]


def check_embedding(embedding: list[float]) -> None:
    """Raise ValueError for an embedding that TiDB cannot compare.

    TiDB multiplies the squared lengths of two embeddings as 32-bit floats, which go from
    1e-38 to 1e38. With lengths from 1e-9 to 1e9, the product is from 1e-36 to 1e36.
    Otherwise, as with zeros, the distance is NULL, and NULL is the first in a search.
    """
    length = math.hypot(*embedding)
    if len(embedding) != DIMENSIONS or not 1e-9 < length < 1e9:
        raise ValueError(f"{len(embedding)} dimensions, length {length}")


# %% Step 2. Connect to TiDB
TIDB_DATABASE_URL = read_setting("TIDB_DATABASE_URL")


def create_tidb_engine(url: str) -> Engine:
    """Return an engine for TiDB. It connects when it is first used.

    If the URL has an option that begins with ssl_, TLS is used, and it verifies the
    server's certificate and host name. Raises ValueError for a URL that cannot be used.
    """
    parsed = parse_database_url(url)
    # Waiting for TiDB ends after 60 seconds, unless the URL says otherwise.
    options = {"read_timeout": "60", "write_timeout": "60", **parsed.query}
    return create_engine(
        parsed.set(query=options),
        connect_args=tls_arguments(url),  # which win over the options of the URL
        pool_recycle=300,
        pool_pre_ping=True,  # replaces a connection that broke while it was not used
        hide_parameters=True)  # keeps texts and embeddings out of errors and logs


# %% Step 2 in detail: what can be wrong with the URL, and TLS
# You can skip this cell at first.
def parse_database_url(url: str) -> URL:
    """Return the parts of the URL. Raises ValueError, which does not show the password."""
    form = ("TIDB_DATABASE_URL must be mysql+pymysql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "with %40 for an @ in the password")
    try:
        parsed = make_url(url)
    except (ValueError, ArgumentError):
        raise ValueError(form) from None

    # SQLAlchemy takes what follows the first @ for the host, and an error would show it.
    if parsed.drivername != "mysql+pymysql" or not parsed.database or url.count("@") > 1:
        raise ValueError(form)
    return parsed


def tls_arguments(url: str) -> dict[str, Any]:
    """Return PyMySQL's arguments for verified TLS, or none if the URL has no ssl_ option.

    SQLAlchemy would lose ssl_ca, and any certificate would pass.
    """
    # This looks at the text, because SQLAlchemy drops an option without a value, and
    # TLS would be off without a word.
    if "ssl" not in url.partition("?")[2].lower():
        return {}

    query = make_url(url).query
    given = {name: value for name, value in query.items() if name.startswith("ssl")}
    # Some Pythons do not find the system's certificates, but all find those of requests.
    arguments = {"ssl_ca": requests.utils.DEFAULT_CA_BUNDLE_PATH, **given}
    if not os.path.exists(arguments["ssl_ca"]):
        raise ValueError(f"there is no file {arguments['ssl_ca']}; leave ssl_ca out of "
                         "TIDB_DATABASE_URL to use the certificates of requests")
    return {**arguments, "ssl_disabled": False,
            "ssl_verify_cert": True, "ssl_verify_identity": True}


# %% Step 3. Define the table
def name_table(name: str) -> str:
    """Return *name*, with the model's name behind it unless the model is the tutorial's.

    Embeddings of two models cannot be compared, so each model has a table of its own.
    """
    if JINAAI_MODEL == "jina-embeddings-v2-base-en":
        return name
    return name + "_" + re.sub(r"\W", "_", JINAAI_MODEL)


class Base(DeclarativeBase):
    pass


class Document(Base):
    """A text, which is stored once, and its embedding."""

    __tablename__ = name_table("jinaai_tidb_demo_documents")

    id: Mapped[int] = mapped_column(primary_key=True)
    # TiDB's default collation takes "a" and "a " for the same text. This one compares
    # bytes. Only TiDB ("mysql") gets it, because SQLite does not know it.
    content: Mapped[str] = mapped_column(
        String(255).with_variant(String(255, collation="utf8mb4_0900_bin"), "mysql"),
        unique=True)
    content_vec: Mapped[list[float]] = mapped_column(VectorType(dim=DIMENSIONS))


def create_table(engine: Engine, model: type[Base] = Document) -> None:
    """Create the table unless it exists. Raises SQLAlchemyError.

    Base.metadata.create_all() fails if two programs create the table at the same time.
    Looking first is for users who may not create tables.
    """
    table = Base.metadata.tables[model.__tablename__]
    if not inspect(engine).has_table(table.name):
        with engine.begin() as connection:
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

    Raises TypeError for anything but texts, and SQLAlchemyError.
    """
    wanted = list_texts(texts)
    query = select(Document.content).where(Document.content.in_(wanted))
    with Session(engine) as session:
        stored = set(session.scalars(query))
    # The keys of a dict are unique and keep their order.
    return [text for text in dict.fromkeys(wanted) if text not in stored]


def insert_documents(engine: Engine, texts: Iterable[str],
                     embeddings: Iterable[list[float]]) -> None:
    """Store each text with its embedding. A text that is stored already is left alone.

    Each transaction has up to 256 rows, because TiDB Cloud limits its size. After an error,
    earlier transactions stay stored, and new_texts returns the texts that are left.
    Raises TypeError, ValueError and SQLAlchemyError.
    """
    texts = list_texts(texts)
    embeddings = list(embeddings)
    if len(texts) != len(embeddings) or any(item is None for item in embeddings):
        raise ValueError("each text needs one embedding")

    rows = [{"content": text, "content_vec": embedding}
            for text, embedding in zip(texts, embeddings)]
    statement = mysql.insert(Document)
    # Another program may have just stored a text. Then its content is set to what it is.
    # INSERT IGNORE would hide other errors as well.
    upsert = statement.on_duplicate_key_update(content=statement.inserted.content)
    for batch in batches(rows):
        with Session(engine) as session, session.begin():
            session.execute(upsert, batch)


# %% Step 5. Search by cosine distance
def find_documents(engine: Engine, embedding: list[float], limit: int) -> list[tuple[str, float]]:
    """Return the *limit* nearest texts, the nearest first, with their cosine distances.

    A distance goes from 0 (the same direction) to 2. Raises SQLAlchemyError.
    """
    distance = Document.content_vec.cosine_distance(embedding).label("distance")
    # A vector index serves ORDER BY with LIMIT alone. A WHERE would make TiDB read all rows.
    query = select(Document.content, distance).order_by(distance).limit(limit)
    with Session(engine) as session:
        return [(row.content, row.distance) for row in session.execute(query)]


# %% Run it
def run_demo() -> None:
    """Print what the tutorial prints."""
    engine, embed = connect()

    # The question comes first, because a wrong key then leaves no table behind.
    # `embed` does what generate_embeddings does, and may be a stand-in.
    question = embed(["What is TiDB?"], "retrieval.query")[0]
    create_table(engine)

    database = "TiDB" if TIDB_DATABASE_URL else "In-Memory SQLite"
    print(f"- Inserting Data to {database}...")
    new = new_texts(engine, TEXTS)
    for text in TEXTS:
        state = "Inserting" if text in new else "Already stored"
        print(f"  - {state}: {text}")
    insert_documents(engine, new, embed(new))

    print("- List All Documents and Their Distances to the Query:")
    distance = Document.content_vec.cosine_distance(question)
    listing = select(Document.content, distance).order_by(Document.id).limit(20)
    with Session(engine) as session:
        print_documents(session.execute(listing))

    print("- The Most Relevant Document and Its Distance to the Query:")
    print_documents(find_documents(engine, question, limit=1))


def connect() -> tuple[Engine, Callable[..., list[list[float]]]]:
    """Return an engine and a function that embeds texts, or stand-ins without an account."""
    if TIDB_DATABASE_URL:
        # Only real embeddings reach TiDB: without a key, embed_texts raises an error.
        return create_tidb_engine(TIDB_DATABASE_URL), embed_texts

    try:
        from examples.stand_ins import replace_accounts
    except ImportError:
        raise ValueError("TIDB_DATABASE_URL is not set; set it, or put the script beside "
                         "its folder examples/, which has stand-ins") from None
    return replace_accounts(embed_texts, key_is_missing(), DIMENSIONS)


def print_documents(documents: Iterable[Any]) -> None:
    """Print texts and their distances in the tutorial's form."""
    for content, distance in documents:
        print(f"  - distance: {distance}")
        print(f"    content: {content}")


def one_line(error: Exception) -> str:
    """Return the words of an error in one line."""
    words = str(error)
    if isinstance(error, StatementError):
        # SQLAlchemy adds the statement to the database's own words, which are in `orig`.
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
    # The script has no options but --help. A notebook has others, which are ignored.
    argparse.ArgumentParser(description=__doc__).parse_known_args()
    main()
