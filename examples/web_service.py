"""A web service that answers a question with the texts nearest to it, with FastAPI.

Install its packages and start it, in the folder above this one:

    pip install -r requirements.txt -r examples/requirements.txt
    uvicorn --app-dir examples web_service:app

Then open http://127.0.0.1:8000/search?question=What+is+TiDB%3F&limit=1
Without an account, the service finds the demo's two texts; on TiDB, what is stored there.
"""

import functools
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel
from requests.adapters import HTTPAdapter
from sqlalchemy.exc import SQLAlchemyError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import jina_ai_embeddings_demo as demo

logger = logging.getLogger(__name__)

try:
    # The engine connects with the first question, so the service starts while TiDB is down.
    engine, embed = demo.connect()
except ValueError as error:
    sys.exit(f"error: {demo.one_line(error)}")

# FastAPI answers up to 40 questions at once, each in a thread. By itself, the session keeps
# 10 connections to Jina AI open, and a question beyond them would wait for a new one.
demo.HTTP.mount(demo.JINAAI_API_URL, HTTPAdapter(pool_maxsize=40))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Close the connections to the database when the service ends."""
    yield
    engine.dispose()


app = FastAPI(lifespan=lifespan)

# To any other question or limit, FastAPI answers 422 by itself.
Question = Annotated[str, Query(min_length=1, max_length=1000)]
Limit = Annotated[int, Query(ge=1, le=100)]


class Result(BaseModel):
    content: str
    distance: float  # the cosine distance, from 0 (the same direction) to 2


@app.get("/search")
def search(question: Question, limit: Limit = 3) -> list[Result]:
    """Return the texts nearest to the question, the nearest first."""
    try:
        # The embedding takes at most 5 seconds, or there is an EmbeddingError.
        embedding = embed([question], "retrieval.query", 5)[0]
        prepare_database()
        documents = demo.find_documents(engine, embedding, limit)
    except (demo.EmbeddingError, SQLAlchemyError) as error:
        logger.error("answered 503: %s", demo.one_line(error))
        raise HTTPException(503, "the search is not available now; try again later") from None
    return [Result(content=content, distance=distance) for content, distance in documents]


# The cache keeps a success. After an error, the next question tries again.
@functools.cache
def prepare_database() -> None:
    """Create the table unless it exists. In the database in memory, store the demo's texts."""
    demo.create_table(engine)
    if not demo.TIDB_DATABASE_URL:
        demo.insert_documents(engine, demo.TEXTS, embed(demo.TEXTS, "retrieval.passage", 5))
