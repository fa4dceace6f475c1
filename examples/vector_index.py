"""Build an HNSW index for the demo's table, and see whether TiDB uses it.

Run it as `python examples/own_texts.py --vector-index`, which calls build_and_explain.
"""

import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError
from tidb_vector import DistanceMetric
from tidb_vector.sqlalchemy import VectorAdaptor

# The demo is in the folder above this one.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import jina_ai_embeddings_demo as demo
from examples.command_line import error_number

# After these errors of TiDB there is no index yet, but a search works without one.
BEING_BUILT = 1061  # another program builds it; TiDB lists an index when it is built
NO_TIFLASH = 1105  # an index needs TiFlash, and there is none
TIFLASH_FAILED = 9014  # TiFlash cannot build the index


def build_and_explain(engine: Engine, embedding: list[float], limit: int) -> None:
    """Build the index, and say on stderr whether a search uses it.

    *engine* is the one of demo.connect(), which may be for SQLite. Raises SQLAlchemyError.
    """
    if engine.dialect.name != "mysql":  # which is also the dialect for TiDB
        say("no vector index without TiDB: the search is exact")
        return

    build_index()
    explain_search(engine, embedding, limit)


def say(words: str) -> None:
    """Print on stderr, because stdout is for the results of a search."""
    print(words, file=sys.stderr)


# %% Build the index
def build_index() -> None:
    """Build the index, or say why there is none. Raises SQLAlchemyError."""
    say("waiting for the vector index; after a Ctrl-C, TiDB goes on building it")
    engine = create_patient_engine()
    try:
        create_vector_index(engine)
    except DBAPIError as error:
        if error_number(error) not in (BEING_BUILT, NO_TIFLASH, TIFLASH_FAILED):
            raise
        say(f"no vector index yet, the search is exact: {error.orig}")
    finally:
        engine.dispose()


def create_vector_index(engine: Engine) -> None:
    """Build the index unless it exists. Raises SQLAlchemyError.

    TiDB answers when the index is built, which may take hours.
    """
    VectorAdaptor(engine).create_vector_index(
        demo.Document.content_vec, DistanceMetric.COSINE, skip_existing=True)


def create_patient_engine() -> Engine:
    """Return an engine for TiDB that waits for an answer as long as it takes.

    The demo's engine raises an error after 60 seconds, or after the read_timeout of the
    URL. So this engine changes what PyMySQL is told whenever it connects.
    """
    engine = demo.create_tidb_engine(demo.TIDB_DATABASE_URL)
    event.listen(engine, "do_connect", remove_read_timeout)
    return engine


def remove_read_timeout(
        dialect: object, record: object, arguments: object, options: dict[str, Any]) -> None:
    """Change the options with which SQLAlchemy is about to connect."""
    options["read_timeout"] = None


# %% See whether TiDB uses the index
def explain_search(engine: Engine, embedding: list[float], limit: int) -> None:
    """Say whether TiDB answers demo.find_documents by the vector index.

    Raises SQLAlchemyError.
    """
    statement, parameters = record_search(engine, embedding, limit)
    with engine.connect() as connection:
        # The f-string is safe, because the parameters are sent apart from the statement.
        plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).all()

    # TiDB calls a search by a vector index "annIndex" (approximate nearest neighbors).
    way = "uses the vector index" if "annIndex" in str(plan) else "reads all texts"
    say(f"the search {way}, as EXPLAIN says")


def record_search(engine: Engine, embedding: list[float], limit: int) -> tuple[str, Any]:
    """Run demo.find_documents, and return the statement and parameters that it sent.

    So EXPLAIN gets the very statement of the demo, whatever it is.
    """
    sent: list[tuple[str, Any]] = []

    def remember(
            connection: object, cursor: object, statement: str, parameters: Any,
            context: object, executemany: bool) -> None:
        sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", remember)
    try:
        demo.find_documents(engine, embedding, limit)
    finally:
        event.remove(engine, "before_cursor_execute", remember)
    [search] = sent
    return search
