# /// script
# requires-python = ">=3.9"
# dependencies = ["requests>=2.32.4", "python-dotenv>=1.0.1", "SQLAlchemy>=2.0.30,<3",
#                 "PyMySQL>=1.2.0", "tidb-vector>=0.0.14", "weaviate-client>=4.16", "httpx>=0.26"]
# ///
"""Search by meaning and by words with Weaviate, which asks Jina AI for the embeddings itself.

It takes no options; the environment or the demo's file .env sets JINAAI_API_KEY, JINAAI_MODEL,
JINAAI_API_URL, WEAVIATE_URL (a Weaviate Cloud cluster, or a server of your own, by default at
http://localhost:8080), WEAVIATE_API_KEY (which Weaviate Cloud asks for) and WEAVIATE_GRPC_PORT
(the second port of your own server, by default 50051).
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dotenv
import httpx
from own_texts import Parser

with warnings.catch_warnings(record=True):  # the client's packages warn of each other
    import weaviate
from weaviate import exceptions
from weaviate.classes.batch import Shard
from weaviate.classes.config import Configure, DataType, Property, VectorDistances
from weaviate.classes.data import DataObject
from weaviate.classes.init import AdditionalConfig, Auth, Timeout
from weaviate.classes.query import MetadataQuery
from weaviate.collections import Collection
from weaviate.util import generate_uuid5

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where the demo is
import jina_ai_embeddings_demo as demo

# %% Step 1. Connect to Weaviate and pass it the key of Jina AI
WEAVIATE_URL = os.getenv("WEAVIATE_URL", "").strip() or "http://localhost:8080"
WEAVIATE_API_KEY = os.getenv("WEAVIATE_API_KEY", "").strip()
WEAVIATE_GRPC_PORT = os.getenv("WEAVIATE_GRPC_PORT", "").strip() or "50051"
TIMEOUT = Timeout(init=10, query=60, insert=120)  # seconds; Weaviate waits 50 for Jina AI
DOCKER_RUN = ("docker run -p 127.0.0.1:8080:8080 -p 127.0.0.1:50051:50051 "
              "semitechnologies/weaviate:1.35.2")


def connect() -> weaviate.WeaviateClient:
    """Return a connection to WEAVIATE_URL that carries JINAAI_API_KEY; the caller closes it.

    Raises ValueError for a setting that cannot be used, ConnectionError where nothing answers,
    and WeaviateBaseError or httpx.HTTPError for other failures.
    """
    if not demo.JINAAI_API_KEY:
        raise ValueError("JINAAI_API_KEY is not set; get one at https://jina.ai/embeddings/")
    for name, key in (("JINAAI", demo.JINAAI_API_KEY), ("WEAVIATE", WEAVIATE_API_KEY)):
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"{name}_API_KEY has a character that no key has; copy it again")
    options: dict[str, Any] = {
        "headers": {"X-JinaAI-Api-Key": demo.JINAAI_API_KEY},
        "auth_credentials": Auth.api_key(WEAVIATE_API_KEY) if WEAVIATE_API_KEY else None,
        "additional_config": AdditionalConfig(timeout=TIMEOUT),
        "skip_init_checks": True,  # they also ask the web for the client's newest version
    }
    match = re.fullmatch(r"(?:(https?)://)?([\w.-]+)(?::(\d+))?/?", WEAVIATE_URL)
    scheme, host, port = match.groups() if match else ("", "", "")
    if host.endswith((".weaviate.cloud", ".weaviate.network")):
        if not WEAVIATE_API_KEY:
            raise ValueError("WEAVIATE_API_KEY is not set; the console of Weaviate Cloud shows it")
        return weaviate.connect_to_weaviate_cloud(host, **options)
    if not scheme:
        raise ValueError("WEAVIATE_URL must be http(s)://HOST:PORT or a Weaviate Cloud address")
    secure = scheme == "https"
    http_port = check_port(host, port or ("443" if secure else "80"))
    grpc_port = check_port(host, WEAVIATE_GRPC_PORT)
    try:
        return weaviate.connect_to_custom(
            host, http_port, secure, host, grpc_port, secure, **options)
    except (LookupError, TypeError) as error:  # JSON, but not that of a Weaviate
        raise ValueError("what answers at WEAVIATE_URL is no Weaviate; check it") from error


def check_port(host: str, port: str) -> int:
    """Return *port* as a number. Raises ConnectionError where nothing answers."""
    try:  # because the client alone would try a missing gRPC port for minutes
        socket.create_connection((host, int(port)), TIMEOUT.init).close()
    except (OSError, OverflowError, ValueError) as error:
        raise ConnectionError(
            f"nothing answers at {host}:{port} ({error}); check WEAVIATE_URL and "
            f"WEAVIATE_GRPC_PORT, or start a Weaviate: {DOCKER_RUN}") from error
    return int(port)

# %% Step 2. Create the collection
COLLECTION = "JinaaiWeaviateDemoDocument"


def create_collection(client: weaviate.WeaviateClient, model: str | None) -> Collection:
    """Create the collection, whose texts Weaviate embeds with *model*, unless it exists; return it.

    None leaves it to the server, 1.35's choice being jina-embeddings-v4 of 2048 dimensions.
    Raises ValueError if the collection exists with another model or endpoint.
    """
    endpoint = re.fullmatch(r"(https?://.+)/v1/embeddings", demo.JINAAI_API_URL)
    if not endpoint:
        raise ValueError("JINAAI_API_URL must be http(s)://…/v1/embeddings: Weaviate asks no other")
    shorten = re.match("jina-embeddings-v[3-9]", model or "")  # v2 does not take dimensions
    vector_config = Configure.Vectors.text2vec_jinaai(
        model=model, base_url=endpoint[1], dimensions=demo.DIMENSIONS if shorten else None,
        vectorize_collection_name=False,  # Jina AI gets the text alone
        vector_index_config=Configure.VectorIndex.hnsw(distance_metric=VectorDistances.COSINE))
    try:
        client.collections.create(
            COLLECTION, properties=[Property(name="content", data_type=DataType.TEXT)],
            vector_config=vector_config)
    except exceptions.UnexpectedStatusCodeError:
        if not client.collections.exists(COLLECTION):
            raise
    collection = client.collections.get(COLLECTION)
    vector = (collection.config.get().vector_config or {}).get("default")
    settings = vector.vectorizer.model if vector else {}
    # The endpoint is checked as well because Weaviate sends it the key.
    if model not in (None, settings.get("model")) or settings.get("baseURL") != endpoint[1]:
        raise ValueError(
            f"collection {COLLECTION} holds embeddings of {settings.get('model')} from "
            f"{settings.get('baseURL')}: set JINAAI_MODEL and JINAAI_API_URL to these or delete it")
    return collection

# %% Step 3. Import texts, with or without their embeddings
def new_texts(collection: Collection, texts: Sequence[str]) -> list[str]:
    """Return those of *texts* that are not stored with an embedding yet, each once, in order."""
    ids = {text: generate_uuid5(text) for text in texts}
    found = collection.query.fetch_objects_by_ids(
        ids.values(), limit=len(ids), include_vector=True)
    stored = {str(item.uuid) for item in found.objects if any(item.vector.get("default", ()))}
    return [text for text in ids if ids[text] not in stored]


def store_texts(collection: Collection, texts: Sequence[str],
                embeddings: Mapping[str, list[float]] | None = None) -> dict[str, str]:
    """Store a batch of new *texts*; return those that failed, with the reasons.

    Weaviate asks Jina AI for the embeddings, unless you re-use those that you have: *embeddings* by
    text, such as dict(zip(texts, demo.embed_texts(texts))). Raises WeaviateBaseError.
    """
    objects = [DataObject({"content": text}, uuid=generate_uuid5(text),
                          vector=(embeddings or {}).get(text)) for text in texts]
    logging.getLogger("weaviate-client").setLevel(logging.CRITICAL)  # its errors show the vectors
    try:
        errors = collection.data.insert_many(objects).errors
        failed = {texts[index]: error.message for index, error in errors.items()}
    except exceptions.WeaviateInsertManyAllFailedError as error:
        failed = dict.fromkeys(texts, str(error))
    # Weaviate stores a text without an embedding as well, which no search by meaning would find.
    for text in new_texts(collection, [text for text in texts if text not in failed]):
        collection.data.delete_by_id(generate_uuid5(text))
        failed[text] = "Jina AI's answer has no embedding for it"
    return failed

# %% Step 4. Search by meaning, or by meaning and words
def find_documents(collection: Collection, query: str, limit: int) -> list[tuple[str, float]]:
    """Return the *limit* texts nearest to *query* and their cosine distances, 0 to 2."""
    found: Any = collection.query.near_text(
        query, limit=limit, return_metadata=MetadataQuery(distance=True))
    return [(item.properties["content"], item.metadata.distance) for item in found.objects]


def find_hybrid(collection: Collection, query: str, limit: int) -> list[tuple[str, float]]:
    """Return the *limit* best texts by meaning and words and their scores, 0 to 1."""
    found: Any = collection.query.hybrid(
        query, limit=limit, return_metadata=MetadataQuery(score=True))
    return [(item.properties["content"], item.metadata.score) for item in found.objects]

# %% Run it
ADVICE = {  # by what a message of Weaviate's has in it; the first that fits
    "JinaAI API failed with status: 40[123]": "check JINAAI_API_KEY and its balance",
    "JinaAI API failed with status: (429|50)": "run again in 60 s",
    "JinaAI API|POST request|read response|unmarshal|no embedding|panic":
        "check JINAAI_API_URL and JINAAI_MODEL",
    "no module": "start Weaviate with ENABLE_MODULES=text2vec-jinaai",
    "": "check WEAVIATE_URL and WEAVIATE_API_KEY",
}


def explain(message: str) -> str:
    """Return what Weaviate says, without keys and vectors, in 200 characters, and what to do."""
    for key in filter(None, (demo.JINAAI_API_KEY, WEAVIATE_API_KEY)):
        message = message.replace(key, "***")
    message = re.sub(r"(-?\d[\d.e+-]*,\s*){2,}", "… ", re.sub(demo.CONTROL, " ", message))
    message = re.sub(".*(remote client vectorize|set of all errors): ", "", message)
    advice = [ADVICE[words] for words in ADVICE if re.search(words, message)]
    return f"Weaviate: {message[:200]}; {advice[0]}"


def store_and_search(client: weaviate.WeaviateClient) -> None:
    """Print the texts and the answers. Raises RuntimeError for texts that are not stored."""
    collection = create_collection(client, demo.JINAAI_MODEL)
    print("- Inserting Data to Weaviate...")
    new = new_texts(collection, demo.TEXTS)
    failed = store_texts(collection, new)
    for content in demo.TEXTS:
        state = "Inserting" if content in new else "Already stored"
        print(f"  - {'Failed' if content in failed else state}: {content}")
    if failed:
        raise RuntimeError(f"{len(failed)} not stored; {explain(list(failed.values())[0])}")
    # A server with asynchronous indexing finds nothing till it is done.
    collection.batch.wait_for_vector_indexing([Shard(collection=COLLECTION)])
    print("- List All Documents and Their Distances to the Query:")
    documents = find_documents(collection, "What is TiDB?", 20)
    for content, distance in documents:
        print(f"  - distance: {distance}\n    content: {content}")
    if len(collection) > 20:
        print(f"  ... and {len(collection) - 20} more")
    print("- The Most Relevant Document and Its Distance to the Query:")
    for content, distance in documents[:1]:
        print(f"  - distance: {distance}\n    content: {content}")
    print("- The Most Relevant Document of a Hybrid Search and Its Score:")
    for content, score in find_hybrid(collection, "What is TiDB?", 1):
        print(f"  - score: {score}\n    content: {content}")


def run() -> None:
    """Run the steps. Raises OSError, RuntimeError or ValueError, whose words are for the user."""
    dotenv.load_dotenv(encoding="utf-8-sig")  # shows why the demo could not read it
    try:
        with connect() as client:
            store_and_search(client)
    except (exceptions.WeaviateBaseError, httpx.HTTPError) as error:
        raise RuntimeError(explain(str(error) or type(error).__name__)) from error


if __name__ == "__main__":
    if sys.argv[0].endswith("weaviate_jinaai.py"):  # a kernel's arguments are its own
        Parser(description=__doc__).parse_args()
    demo.main(run)
