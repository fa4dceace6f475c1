"""Stand-ins for an account that is missing: SQLite for TiDB, counted words for embeddings."""

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

Embed = Callable[..., list[list[float]]]


def connect_stand_ins(
    embed: Embed, key_is_missing: bool, dimensions: int
) -> tuple[Engine, Embed]:
    """Return an engine for SQLite, and *embed* or, without a key, a stand-in for it.

    Says on stderr what stands in for what.
    """
    print("no TIDB_DATABASE_URL: SQLite in memory replaces TiDB", file=sys.stderr)
    if key_is_missing:
        print(
            "no JINAAI_API_KEY: a hash of the words replaces the embeddings; "
            "see https://jina.ai/embeddings/",
            file=sys.stderr,
        )
        embed = functools.partial(stand_in_embeddings, dimensions=dimensions)

    return create_stand_in_engine(), embed


# %% Embeddings
def stand_in_embeddings(
    texts: Iterable[str], *ignored: object, dimensions: int
) -> list[list[float]]:
    """Return a list of so many floats for each text.

    Each float counts the words whose hash it stands for. So texts that share words are
    near each other. A task and a patience, as embed_texts has them, are ignored.
    """
    embeddings = []
    for text in texts:
        places = Counter(zlib.crc32(word.encode()) % dimensions for word in split_words(text))
        embeddings.append([float(places[place]) for place in range(dimensions)])
    return embeddings


def split_words(text: str) -> list[str]:
    """Return the words of a text, or one empty word, because zeros have no direction."""
    # Chinese and Japanese have no spaces, so each of their characters is a word.
    words = re.findall(r"[a-z0-9]+|[^\x00-\x7f]", text.lower())
    return words or [""]


# %% The database
def create_stand_in_engine() -> Engine:
    """Return an engine for SQLite in memory, which threads can share."""
    # The data live in the connection, so there is one, and threads take turns.
    engine = create_engine(
        "sqlite://",
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        connect_args={"check_same_thread": False},
        hide_parameters=True,
    )
    event.listen(engine, "connect", add_functions)
    return engine


def add_functions(connection: sqlite3.Connection, record: object) -> None:
    """Teach a new connection TiDB's function for the cosine distance."""
    connection.create_function("VEC_COSINE_DISTANCE", 2, cosine_distance)


def cosine_distance(left: str, right: str) -> float:
    """Return the cosine distance (0 to 2) of two vectors, which are JSON as in TiDB."""
    a, b = json.loads(left), json.loads(right)
    product = sum(x * y for x, y in zip(a, b))
    return float(1 - product / (math.hypot(*a) * math.hypot(*b)))


@compiles(OnDuplicateClause, "sqlite")
def compile_upsert(clause: OnDuplicateClause, compiler: Any, **options: object) -> str:
    """Return for SQLite what MySQL says as ON DUPLICATE KEY UPDATE name = VALUES(name)."""
    table = compiler.current_executable.table
    key = [column.name for column in table.columns if column.unique]
    target = key or [column.name for column in table.primary_key]
    changes = [f"{name} = excluded.{name}" for name in clause.update]
    # SQLite before 3.35 needs the key of the conflict.
    return f"ON CONFLICT ({', '.join(target)}) DO UPDATE SET {', '.join(changes)}"
