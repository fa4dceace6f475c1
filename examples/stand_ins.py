"""Stand-ins for an account that is missing: SQLite for TiDB, word counts for embeddings.

They show the demo without an account. Do not copy them into a service.
"""

import functools
import json
import math
import re
import sqlite3
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Engine, QueuePool, create_engine, event
from sqlalchemy.dialects.mysql.dml import OnDuplicateClause
from sqlalchemy.ext.compiler import compiles

Embeddings = list[list[float]]
Embed = Callable[..., Embeddings]


def stand_in_for_tidb() -> Engine:
    """Return an engine for SQLite in memory, and say on stderr that it replaces TiDB."""
    print("no TIDB_DATABASE_URL: SQLite in memory replaces TiDB", file=sys.stderr)
    return create_stand_in_engine()


def stand_in_for_jina_ai(dimensions: int) -> Embed:
    """Return a function in place of embed_texts, and say so on stderr."""
    message = "no JINAAI_API_KEY: a hash of the words replaces the embeddings; "
    print(message + "see https://jina.ai/embeddings/", file=sys.stderr)
    return functools.partial(stand_in_embeddings, dimensions=dimensions)


# %% Embeddings
def stand_in_embeddings(
    texts: Iterable[str], *ignored: object, dimensions: int
) -> Embeddings:
    """Return a list of *dimensions* floats for each text.

    Each float counts the words with a certain hash, so texts that share words are near
    each other. embed_texts also takes a task and a time limit, which are *ignored*.
    """
    return [count_words(text, dimensions) for text in texts]


def count_words(text: str, dimensions: int) -> list[float]:
    """Return a list of *dimensions* counts of the words of a text."""
    # Chinese and Japanese have no spaces, so each character that is not ASCII is a word.
    words = re.findall(r"[a-z0-9]+|[^\x00-\x7f]", text.lower())
    if not words:
        # Zeros have no direction, so a text without words counts as one empty word.
        words = [""]

    counts: Counter[int] = Counter()
    for word in words:
        # Unlike hash(), crc32() gives the same number in each process.
        number = zlib.crc32(word.encode())
        counts[number % dimensions] += 1
    return [float(counts[place]) for place in range(dimensions)]


# %% The database
def create_stand_in_engine() -> Engine:
    """Return an engine for SQLite in memory, which threads can share."""
    engine = create_engine(
        "sqlite://",
        # The data live in one connection. The threads of a web service take turns with it.
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        connect_args={"check_same_thread": False},
        # Errors show no texts and no embeddings, as those of the demo's engine for TiDB.
        hide_parameters=True,
    )
    event.listen(engine, "connect", teach)
    return engine


def teach(connection: sqlite3.Connection, record: object) -> None:
    """Teach a new connection of SQLite the function and the collation that the demo uses."""
    connection.create_function("VEC_COSINE_DISTANCE", 2, cosine_distance)
    connection.create_collation("utf8mb4_0900_bin", compare)


def compare(left: str, right: str) -> int:
    """Return -1, 0 or 1 if the left text comes before, with or behind the right one."""
    if left < right:
        return -1
    return int(left > right)


def cosine_distance(left: str, right: str) -> float:
    """Return the cosine distance (0 to 2) of two vectors, which are JSON as in TiDB."""
    a = json.loads(left)
    b = json.loads(right)
    product = sum(x * y for x, y in zip(a, b))
    product /= math.hypot(*a)
    product /= math.hypot(*b)
    return float(1 - product)


@compiles(OnDuplicateClause, "sqlite")
def compile_upsert(clause: OnDuplicateClause, compiler: Any, **options: object) -> str:
    """Write ON DUPLICATE KEY UPDATE name = VALUES(name) as SQLite understands it.

    From now on, SQLAlchemy calls this for the MySQL clause on any SQLite. Before 3.35,
    SQLite needs to know which key may be there already: the unique column, or else the
    primary key.
    """
    table = compiler.current_executable.table
    key = [column.name for column in table.columns if column.unique]
    if not key:
        key = [column.name for column in table.primary_key]

    columns = ", ".join(key)
    changes = ", ".join(f"{name} = excluded.{name}" for name in clause.update)
    return f"ON CONFLICT ({columns}) DO UPDATE SET {changes}"
