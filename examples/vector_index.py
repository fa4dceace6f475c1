"""Build an HNSW index for the demo's table, and see whether TiDB uses it."""

import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, make_url
from sqlalchemy.exc import DBAPIError

sys.path.append(str(Path(__file__).resolve().parents[1]))
import jina_ai_embeddings_demo as demo


def build_index() -> None:
    """Build the vector index, or say why there is none. Raises DBAPIError for other reasons."""
    url = make_url(demo.TIDB_DATABASE_URL).update_query_dict({"read_timeout": "31536000"})
    engine = demo.create_tidb_engine(url.render_as_string(hide_password=False))
    print("waiting for the vector index; after a Ctrl-C, TiDB goes on building it", file=sys.stderr)
    try:
        demo.create_vector_index(engine)
    except DBAPIError as error:
        # It was begun before, there is no TiFlash, or TiFlash failed.
        if not error.orig or error.orig.args[0] not in (1061, 1105, 9014):
            raise
        print(f"no vector index yet, the search is exact: {error.orig}", file=sys.stderr)


def explain_search(engine: Engine, embedding: list[float], limit: int) -> None:
    """Say on stderr whether TiDB answers demo.find_documents by the vector index."""
    sent: list[Any] = []
    event.listen(engine, "before_cursor_execute", lambda *call: sent.append(call[2:4]), once=True)
    demo.find_documents(engine, embedding, limit)
    [(statement, parameters)] = sent
    with engine.connect() as connection:
        plan = connection.exec_driver_sql("EXPLAIN " + statement, parameters).fetchall()
    print("the search", "uses the vector index" if "annIndex" in str(plan) else "reads all texts",
          "as EXPLAIN says", file=sys.stderr)
