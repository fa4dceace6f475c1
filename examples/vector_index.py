"""Build an HNSW index for the demo's table, and see whether TiDB uses it.

This is what examples/own_texts.py does for --vector-index.
"""

import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError
from tidb_vector import DistanceMetric
from tidb_vector.sqlalchemy import VectorAdaptor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import jina_ai_embeddings_demo as demo

# Errors of TiDB after which a search works as before: it reads all texts.
BEING_BUILT = 1061  # another program has begun to build the index
NO_TIFLASH = 1105  # an index needs TiFlash, and there is none
TIFLASH_FAILED = 9014


def build_and_explain(engine: Engine, embedding: list[float], limit: int) -> None:
    """Build the index, and say on stderr whether a search uses it.

    Raises SQLAlchemyError.
    """
    if engine.dialect.name == "mysql":
        build_index()
        explain_search(engine, embedding, limit)
    else:
        say("no vector index without TiDB: the search is exact")


def say(words: str) -> None:
    """Print on stderr, because stdout is for the results of a search."""
    print(words, file=sys.stderr)


# %% Build the index
def build_index() -> None:
    """Build the index, or say why there is none. Raises SQLAlchemyError."""
    say("waiting for the vector index; after a Ctrl-C, TiDB goes on building it")
    try:
        create_vector_index(create_patient_engine())
    except DBAPIError as error:
        if error_number(error) not in (BEING_BUILT, NO_TIFLASH, TIFLASH_FAILED):
            raise
        say(f"no vector index yet, the search is exact: {error.orig}")


def create_vector_index(engine: Engine) -> None:
    """Build the index unless it exists. Raises SQLAlchemyError.

    TiDB answers when the index is built, which may take hours. The demo's engine waits
    60 seconds for an answer; then this raises an error, and TiDB goes on building.
    """
    VectorAdaptor(engine).create_vector_index(
        demo.Document.content_vec, DistanceMetric.COSINE, skip_existing=True)


def create_patient_engine() -> Engine:
    """Return an engine that waits for an answer as long as it takes."""
    engine = demo.create_tidb_engine(demo.TIDB_DATABASE_URL)
    event.listen(engine, "do_connect", remove_read_timeout)
    return engine


def remove_read_timeout(
        dialect: object, record: object, arguments: object, options: dict[str, Any]) -> None:
    """Change the options with which SQLAlchemy is about to connect."""
    options["read_timeout"] = None


def error_number(error: DBAPIError) -> Any:
    """Return the number that TiDB gives an error."""
    return error.orig.args[0] if error.orig else None


# %% See whether TiDB uses the index
def explain_search(engine: Engine, embedding: list[float], limit: int) -> None:
    """Say whether TiDB answers demo.find_documents by the vector index.

    Raises SQLAlchemyError.
    """
    statement, parameters = record_search(engine, embedding, limit)
    with engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).all()

    # TiDB calls a search by a vector index "annIndex" (approximate nearest neighbors).
    way = "uses the vector index" if "annIndex" in str(plan) else "reads all texts"
    say(f"the search {way}, as EXPLAIN says")


def record_search(engine: Engine, embedding: list[float], limit: int) -> tuple[str, Any]:
    """Return the statement and the parameters that demo.find_documents sends."""
    sent: list[tuple[str, Any]] = []

    def remember(
            connection: object, cursor: object, statement: str, parameters: Any,
            context: object, executemany: bool) -> None:
        sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", remember)
    demo.find_documents(engine, embedding, limit)
    event.remove(engine, "before_cursor_execute", remember)
    return sent[-1]
