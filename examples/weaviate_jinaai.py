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

import logging
import os
import re
import socket
import sys
import warnings
from pathlib import Path
from typing import Any, Optional

import httpx
from command_line import Parser

with warnings.catch_warnings(record=True):  # the client's packages warn of each other
    import weaviate
import weaviate.classes as wvc
from weaviate import exceptions
from weaviate.collections import Collection
from weaviate.util import generate_uuid5

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where the demo is
import jina_ai_embeddings_demo as demo

# %% Step 1. Connect to Weaviate and pass it the key of Jina AI
WEAVIATE_URL = os.getenv("WEAVIATE_URL", "").strip() or "http://localhost:8080"
WEAVIATE_API_KEY = os.getenv("WEAVIATE_API_KEY", "").strip()
WEAVIATE_GRPC_PORT = os.getenv("WEAVIATE_GRPC_PORT", "").strip() or "50051"
TIMEOUT = wvc.init.Timeout(init=10, query=60, insert=120)  # seconds; Weaviate waits 50 for Jina AI


def connect() -> weaviate.WeaviateClient:
    """Return a connection to WEAVIATE_URL that carries JINAAI_API_KEY; the caller closes it.
    Raises ValueError for settings, WeaviateBaseError and httpx.HTTPError."""
    if not demo.JINAAI_API_KEY:
        raise ValueError("JINAAI_API_KEY is not set; get one at https://jina.ai/embeddings/")
    for name, key in (("JINAAI", demo.JINAAI_API_KEY), ("WEAVIATE", WEAVIATE_API_KEY)):
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"{name}_API_KEY has a character that no key has; copy it again")
    options: dict[str, Any] = {
        "headers": {"X-JinaAI-Api-Key": demo.JINAAI_API_KEY},
        "auth_credentials": wvc.init.Auth.api_key(WEAVIATE_API_KEY) if WEAVIATE_API_KEY else None,
        "additional_config": wvc.init.AdditionalConfig(timeout=TIMEOUT),
        "skip_init_checks": True}  # they also ask the web for the client's newest version
    match = re.fullmatch(r"(?:(https?)://)?([\w.-]+)(?::(\d+))?/?", WEAVIATE_URL)
    scheme, host, port = match.groups() if match else ("", "", "")
    if host.endswith((".weaviate.cloud", ".weaviate.network")):
        if not WEAVIATE_API_KEY:
            raise ValueError("WEAVIATE_API_KEY is not set; the console of Weaviate Cloud shows it")
        return weaviate.connect_to_weaviate_cloud(host, **options)
    if not scheme:
        raise ValueError("WEAVIATE_URL must be http(s)://HOST:PORT or a Weaviate Cloud address")
    secure = scheme == "https"
    ports = port or ("443" if secure else "80"), WEAVIATE_GRPC_PORT
    try:
        for port in ports:  # because the client would try a missing gRPC port for minutes
            socket.create_connection((host, int(port)), TIMEOUT.init).close()
    except (OSError, OverflowError, ValueError) as error:
        raise ValueError(
            f"nothing answers at {host}:{port} ({error}); check WEAVIATE_URL and "
            "WEAVIATE_GRPC_PORT, or start a Weaviate: docker run -p 127.0.0.1:8080:8080 "
            "-p 127.0.0.1:50051:50051 semitechnologies/weaviate:1.35.2") from error
    try:
        return weaviate.connect_to_custom(
            host, int(ports[0]), secure, host, int(ports[1]), secure, **options)
    except (LookupError, TypeError) as error:  # JSON, but not that of a Weaviate
        raise ValueError("what answers at WEAVIATE_URL is no Weaviate; check it") from error

# %% Step 2. Create the collection
COLLECTION = "JinaaiWeaviateDemoDocument"


def create_collection(client: weaviate.WeaviateClient, model: Optional[str]) -> Collection:
    """Create the collection, whose texts Weaviate embeds with *model*, unless it exists; return it.
    None leaves it to the server, 1.35's choice being jina-embeddings-v4 of 2048 dimensions.
    Raises ValueError if the collection exists with another model or endpoint."""
    endpoint = re.fullmatch(r"(https?://.+)/v1/embeddings", demo.JINAAI_API_URL)
    if not endpoint:
        raise ValueError("JINAAI_API_URL must be http(s)://…/v1/embeddings: Weaviate asks no other")
    shorten = re.match("jina-embeddings-v[3-9]", model or "")  # v2 does not take dimensions
    index = wvc.config.Configure.VectorIndex.hnsw(distance_metric=wvc.config.VectorDistances.COSINE)
    vector_config = wvc.config.Configure.Vectors.text2vec_jinaai(
        model=model, base_url=endpoint[1], dimensions=demo.DIMENSIONS if shorten else None,
        vectorize_collection_name=False, vector_index_config=index)  # Jina AI gets the text alone
    try:
        client.collections.create(
            COLLECTION, vector_config=vector_config, properties=[
                wvc.config.Property(name="content", data_type=wvc.config.DataType.TEXT)])
    except exceptions.UnexpectedStatusCodeError:
        if not client.collections.exists(COLLECTION):
            raise
    collection = client.collections.get(COLLECTION)
    vector = (collection.config.get().vector_config or {}).get("default")
    settings = vector.vectorizer.model if vector else {}
    # The endpoint is checked as well because Weaviate sends it the key.
    if model not in (None, settings.get("model")) or settings.get("baseURL") != endpoint[1]:
        raise ValueError(f"collection {COLLECTION} holds embeddings of {settings.get('model')!r} "
                         f"from {settings.get('baseURL')!r}: set JINAAI_MODEL and JINAAI_API_URL "
                         "to these or delete it")
    return collection

# %% Step 3. Import texts, with or without their embeddings
def new_texts(collection: Collection, texts: list[str]) -> list[str]:
    """Return those of *texts* that are not stored with an embedding yet, each once, in order."""
    ids = {text: generate_uuid5(text) for text in texts}
    found = collection.query.fetch_objects_by_ids(
        ids.values(), limit=len(ids), include_vector=True)
    stored = {str(item.uuid) for item in found.objects if any(item.vector.get("default", ()))}
    return [text for text in ids if ids[text] not in stored]


def store_texts(collection: Collection, texts: list[str],
                embeddings: Optional[dict[str, list[float]]] = None) -> dict[str, str]:
    """Store a batch of new *texts*; return those that failed, with the reasons.
    Weaviate asks Jina AI for the embeddings, unless you re-use those that you have: *embeddings* by
    text, such as dict(zip(texts, demo.embed_texts(texts))). Raises WeaviateBaseError."""
    objects = [wvc.data.DataObject({"content": text}, uuid=generate_uuid5(text),
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
    found: Any = collection.query.near_text(query, limit=limit, return_metadata=["distance"])
    return [(item.properties["content"], item.metadata.distance) for item in found.objects]


def find_hybrid(collection: Collection, query: str, limit: int) -> list[tuple[str, float]]:
    """Return the *limit* best texts by meaning and words and their scores, 0 to 1."""
    found: Any = collection.query.hybrid(query, limit=limit, return_metadata=["score"])
    return [(item.properties["content"], item.metadata.score) for item in found.objects]

# %% Run it
def embedding_advice(words: str) -> str:
    """Return what to do when Weaviate got no embedding: only its *words* have Jina AI's status."""
    status = re.search(r"JinaAI API failed with status: (\d+)", words)
    if status and status[1] in ("408", "429", "500", "502", "503", "504"):
        return "try again in 60 s"
    return "check JINAAI_API_KEY, its balance, JINAAI_API_URL and JINAAI_MODEL"


def explain(words: str, advice: str) -> str:
    """Return Weaviate's *words*, without keys and vectors, in 200 characters, and the *advice*."""
    for key in filter(None, (demo.JINAAI_API_KEY, WEAVIATE_API_KEY)):
        words = words.replace(key, "***")
    words = "".join(letter if letter.isprintable() else " " for letter in words)
    words = re.sub(r"(-?\d[\d.e+-]*, *){2,}", "… ", words)
    words = re.sub(".*(remote client vectorize|set of all errors): ", "", words)
    return f"Weaviate: {words[:200]}; {advice}"


def store_and_search(client: weaviate.WeaviateClient) -> None:
    """Print the texts and the answers. Raises ValueError for texts that are not stored."""
    collection = create_collection(client, demo.JINAAI_MODEL)
    print("- Inserting Data to Weaviate...")
    new = new_texts(collection, demo.TEXTS)
    failed = store_texts(collection, new)
    for content in demo.TEXTS:
        state = "Inserting" if content in new else "Already stored"
        print(f"  - {'Failed' if content in failed else state}: {content}")
    if failed:
        reason = list(failed.values())[0]
        raise ValueError(f"{len(failed)} not stored; {explain(reason, embedding_advice(reason))}")
    # A server with asynchronous indexing finds nothing till it is done.
    collection.batch.wait_for_vector_indexing([wvc.batch.Shard(collection=COLLECTION)])
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
    """Run the steps. Raises ValueError, whose words are for the user."""
    try:
        with connect() as client:
            store_and_search(client)
    except (exceptions.WeaviateBaseError, httpx.HTTPError) as error:
        advice = "check WEAVIATE_URL, WEAVIATE_API_KEY and WEAVIATE_GRPC_PORT"
        unanswered = isinstance(error.__context__, exceptions.WeaviateRetryError)
        if isinstance(error, exceptions.WeaviateQueryError) and not unanswered:
            advice = embedding_advice(str(error))  # the question got none
        elif isinstance(error, exceptions.UnexpectedStatusCodeError) and error.status_code == 422:
            advice = "start Weaviate with ENABLE_MODULES=text2vec-jinaai"
        raise ValueError(explain(str(error) or type(error).__name__, advice)) from error


if __name__ == "__main__":
    if sys.argv[0].endswith("weaviate_jinaai.py"):  # a kernel's arguments are its own
        Parser(description=__doc__).parse_args()
    demo.main(run)
