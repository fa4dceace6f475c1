# /// script
# requires-python = ">=3.9"
# dependencies = ["requests>=2.32.4", "python-dotenv>=1.0.1", "SQLAlchemy>=2.0.30,<3",
#                 "PyMySQL>=1.2.0", "tidb-vector>=0.0.14", "weaviate-client>=4.16", "httpx>=0.26"]
# ///
"""Search by meaning and by words with Weaviate, which asks Jina AI for the embeddings itself.

The settings come from the environment or from the demo's file .env:
  JINAAI_API_KEY, JINAAI_MODEL and JINAAI_API_URL are those of the demo.
  WEAVIATE_URL is the address of a Weaviate Cloud cluster, or of a server of your own.
      It is http://localhost:8080 unless you set it.
  WEAVIATE_API_KEY is the cluster's key.
  WEAVIATE_GRPC_PORT is the second port of your own server, and 50051 unless you set it.
"""

# The type hints name classes of packages that may be missing.
from __future__ import annotations

import argparse
import logging
import re
import socket
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# The demo is in the folder above this one.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import jina_ai_embeddings_demo as demo
from examples.command_line import Parser, main

try:
    import httpx

    # The client's packages warn of each other. This keeps it from the user.
    with warnings.catch_warnings(record=True):
        import weaviate
    import weaviate.classes as wvc
    from weaviate import exceptions
    from weaviate.collections import Collection
    from weaviate.util import generate_uuid5
except ImportError as error:
    # --help works without these packages. run() raises this error.
    import_error = str(error)
else:
    import_error = ""


# %% Step 1. Connect to Weaviate and pass it the key of Jina AI
WEAVIATE_URL = demo.read_setting("WEAVIATE_URL") or "http://localhost:8080"
WEAVIATE_API_KEY = demo.read_setting("WEAVIATE_API_KEY")
WEAVIATE_GRPC_PORT = demo.read_setting("WEAVIATE_GRPC_PORT") or "50051"


def connect() -> weaviate.WeaviateClient:
    """Return a connection to WEAVIATE_URL, which the caller closes.

    Raises ValueError or EmbeddingError for a wrong setting, and WeaviateBaseError or
    httpx.HTTPError if Weaviate does not answer as it should.
    """
    check_keys()
    form = r"((?P<scheme>https?)://)?(?P<host>[\w.-]+):?(?P<port>\d*)/?"
    url = re.fullmatch(form, WEAVIATE_URL)
    # The console of Weaviate Cloud shows an address without https://.
    if url and url["host"].endswith((".weaviate.cloud", ".weaviate.network")):
        return connect_to_cloud(url["host"])

    if not url or not url["scheme"]:
        raise ValueError("WEAVIATE_URL must be http(s)://HOST:PORT, or an address of "
                         "Weaviate Cloud")
    return connect_to_server(url["scheme"], url["host"], url["port"])


# %% Step 1 in detail: a cluster, a server of your own, and wrong settings
# You can skip this cell at first.
def connect_to_cloud(host: str) -> weaviate.WeaviateClient:
    """Return a connection to a cluster of Weaviate Cloud."""
    if not WEAVIATE_API_KEY:
        raise ValueError("WEAVIATE_API_KEY is not set; the console of Weaviate Cloud shows it")
    return weaviate.connect_to_weaviate_cloud(host, **client_options())


def connect_to_server(scheme: str, host: str, port: str) -> weaviate.WeaviateClient:
    """Return a connection to a server of your own. A blank port is the usual one."""
    secure = scheme == "https"
    usual_port = "443" if secure else "80"
    http_port = check_port(host, port or usual_port)
    # The client would try a missing gRPC port for minutes.
    grpc_port = check_port(host, WEAVIATE_GRPC_PORT)
    try:
        return weaviate.connect_to_custom(
            host, http_port, secure, host, grpc_port, secure, **client_options())
    except (LookupError, TypeError):
        # The client raises these if the JSON that it gets is not that of a Weaviate.
        raise ValueError("what answers at WEAVIATE_URL is no Weaviate; check it") from None


def client_options() -> dict[str, Any]:
    """Return what the client is told for a cluster as well as for a server."""
    # In seconds. A query waits for Jina AI, for which Weaviate has 50 seconds. An insert
    # may need several requests to Jina AI.
    timeout = wvc.init.Timeout(init=10, query=60, insert=120)
    return {
        "headers": {"X-JinaAI-Api-Key": demo.JINAAI_API_KEY},
        "auth_credentials": WEAVIATE_API_KEY or None,
        "additional_config": wvc.init.AdditionalConfig(timeout=timeout),
        # The checks would also ask the web for the client's newest version.
        "skip_init_checks": True,
    }


def check_keys() -> None:
    """Raise EmbeddingError or ValueError for a key that cannot work."""
    demo.check_key()
    # The client's error for such a key would show it.
    if not (WEAVIATE_API_KEY.isascii() and WEAVIATE_API_KEY.isprintable()):
        raise ValueError("WEAVIATE_API_KEY has a character that no key has; copy it again")


def check_port(host: str, port: str) -> int:
    """Return the port as a number. Raises ValueError if nothing answers there."""
    try:
        number = int(port)
        socket.create_connection((host, number), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"nothing answers at {host}:{port} ({error}); check WEAVIATE_URL and "
            "WEAVIATE_GRPC_PORT, or start a Weaviate: docker run -p 127.0.0.1:8080:8080 "
            "-p 127.0.0.1:50051:50051 semitechnologies/weaviate:1.35.2") from None
    return number


# %% Step 2. Create the collection
COLLECTION = "JinaaiWeaviateDemoDocument"


def create_collection(client: weaviate.WeaviateClient, model: str) -> Collection:
    """Return the collection, whose texts Weaviate embeds with *model*.

    Creates it unless it exists. Raises ValueError if it exists with another model or
    endpoint, and WeaviateBaseError.
    """
    endpoint = find_endpoint()
    content = wvc.config.Property(name="content", data_type=wvc.config.DataType.TEXT)
    try:
        client.collections.create(
            COLLECTION, properties=[content], vector_config=describe_vectors(model, endpoint))
    except exceptions.UnexpectedStatusCodeError:
        # The collection may be there, and another program may have just created it.
        if not client.collections.exists(COLLECTION):
            raise

    collection = client.collections.get(COLLECTION)
    check_source(collection, model, endpoint)
    return collection


def find_endpoint() -> str:
    """Return JINAAI_API_URL without the path that Weaviate adds to it. Raises ValueError."""
    endpoint = re.fullmatch(r"(https?://.+)/v1/embeddings", demo.JINAAI_API_URL)
    if not endpoint:
        raise ValueError("JINAAI_API_URL must be http(s)://.../v1/embeddings, because "
                         "Weaviate asks no other path")
    return endpoint[1]


def describe_vectors(model: str, endpoint: str) -> Any:
    """Return how Weaviate gets the embeddings and compares them."""
    index = wvc.config.Configure.VectorIndex.hnsw(
        distance_metric=wvc.config.VectorDistances.COSINE)
    # Models before v3 refuse the dimensions.
    takes_dimensions = re.match("jina-embeddings-v[3-9]", model)
    return wvc.config.Configure.Vectors.text2vec_jinaai(
        model=model,
        base_url=endpoint,
        dimensions=demo.DIMENSIONS if takes_dimensions else None,
        # Jina AI gets the text alone, as in the demo.
        vectorize_collection_name=False,
        vector_index_config=index,
    )


def check_source(collection: Collection, model: str, endpoint: str) -> None:
    """Raise ValueError if the collection's embeddings are of another model or endpoint.

    Weaviate would send texts and key to the collection's endpoint, not to yours.
    """
    vectors = collection.config.get().vector_config or {}
    if "default" not in vectors:
        raise ValueError(f"collection {COLLECTION} is one of another program; delete it, or "
                         "change COLLECTION")

    settings = vectors["default"].vectorizer.model
    its_model, its_endpoint = settings.get("model"), settings.get("baseURL")
    if (its_model, its_endpoint) != (model, endpoint):
        raise ValueError(
            f"collection {COLLECTION} holds embeddings of {its_model!r} from "
            f"{its_endpoint!r}; set JINAAI_MODEL to this model and JINAAI_API_URL to this "
            "address with /v1/embeddings, or delete the collection")


# %% Step 3. Import texts, with or without their embeddings
def new_texts(collection: Collection, texts: list[str]) -> list[str]:
    """Return the texts without a stored embedding, each once and in their order.

    Raises WeaviateBaseError.
    """
    ids = {text: generate_uuid5(text) for text in texts}
    found = collection.query.fetch_objects_by_ids(
        ids.values(), limit=len(ids), include_vector=True)
    stored = set()
    for item in found.objects:
        # A search cannot find zeros, because they have no direction.
        if any(item.vector.get("default", [])):
            stored.add(str(item.uuid))
    return [text for text in ids if ids[text] not in stored]


def store_texts(collection: Collection, texts: list[str],
                embeddings: Iterable[tuple[str, list[float]]] = ()) -> dict[str, str]:
    """Store new texts in one batch. Return those that failed, each with the reason.

    Weaviate asks Jina AI for the embeddings. If you have some, give each with its text:
    zip(texts, demo.embed_texts(texts)). Raises WeaviateBaseError.
    """
    failed = insert_texts(collection, texts, dict(embeddings))
    stored = [text for text in texts if text not in failed]
    # Weaviate also stores a text without an embedding, which no search by meaning finds.
    for text in new_texts(collection, stored):
        collection.data.delete_by_id(generate_uuid5(text))
        failed[text] = "Jina AI's answer has no embedding for it"
    return failed


def insert_texts(collection: Collection, texts: list[str],
                 embeddings: dict[str, list[float]]) -> dict[str, str]:
    """Send the texts to Weaviate. Return those that it refuses, each with the reason."""
    objects = []
    for text in texts:
        objects.append(wvc.data.DataObject(
            properties={"content": text},
            # A text always gets the same id, so it is stored once.
            uuid=generate_uuid5(text),
            vector=embeddings.get(text),
        ))

    # The client's log would show the embeddings.
    logging.getLogger("weaviate-client").setLevel(logging.CRITICAL)
    try:
        errors = collection.data.insert_many(objects).errors
    except exceptions.WeaviateInsertManyAllFailedError as error:
        reason = str(error).rpartition("set of all errors: ")[2]
        return dict.fromkeys(texts, reason)
    return {texts[place]: error.message for place, error in errors.items()}


# %% Step 4. Search by meaning, or by meaning and words
def find_documents(collection: Collection, question: str,
                   limit: int) -> list[tuple[str, float]]:
    """Return the *limit* nearest texts, the nearest first, with their cosine distances.

    A distance goes from 0 (the same direction) to 2. Raises WeaviateBaseError.
    """
    found: Any = collection.query.near_text(
        question, limit=limit, return_metadata=["distance"])
    return [(item.properties["content"], item.metadata.distance)
            for item in found.objects]


def find_hybrid(collection: Collection, question: str,
                limit: int) -> list[tuple[str, float]]:
    """Return the *limit* best texts by meaning and words, the best first.

    The score of each goes from 0 to 1. Raises WeaviateBaseError.
    """
    found: Any = collection.query.hybrid(
        question, limit=limit, return_metadata=["score"])
    return [(item.properties["content"], item.metadata.score)
            for item in found.objects]


# %% Run it
def run() -> None:
    """Print what the demo prints, and a hybrid search. Raises ValueError for the user."""
    if import_error:
        raise ValueError(f"{import_error}; install what is missing with: "
                         "pip install -r examples/requirements.txt")

    try:
        with connect() as client:
            collection = create_collection(client, demo.JINAAI_MODEL)
            store_demo_texts(collection)
            search(collection, "What is TiDB?")
    except (exceptions.WeaviateBaseError, httpx.HTTPError) as error:
        # The words of the error may show a key, so the new error does without them.
        raise ValueError(explain(error)) from None


def store_demo_texts(collection: Collection) -> None:
    """Store the demo's texts. Raises ValueError for those that are not stored."""
    print("- Inserting Data to Weaviate...")
    new = new_texts(collection, demo.TEXTS)
    failed = store_texts(collection, new)
    for text in demo.TEXTS:
        state = "Inserting" if text in new else "Already stored"
        if text in failed:
            state = "Failed"
        print(f"  - {state}: {text}")

    if failed:
        reason = list(failed.values())[0]
        raise ValueError(f"{len(failed)} not stored; {explain_embedding(reason)}")


def search(collection: Collection, question: str) -> None:
    """Print what the searches for a question find."""
    # Some servers index what was stored only after they have answered. So this waits.
    collection.batch.wait_for_vector_indexing([wvc.batch.Shard(collection=COLLECTION)])

    print("- List All Documents and Their Distances to the Query:")
    # There may be millions of documents, so this prints the nearest 20.
    nearest = find_documents(collection, question, limit=20)
    print_documents("distance", nearest)
    if len(nearest) == 20:
        print("  ...")

    print("- The Most Relevant Document and Its Distance to the Query:")
    print_documents("distance", nearest[:1])

    print("- The Most Relevant Document of a Hybrid Search and Its Score:")
    print_documents("score", find_hybrid(collection, question, limit=1))


def print_documents(measure: str, documents: list[tuple[str, float]]) -> None:
    """Print texts, each with its distance or its score."""
    for content, number in documents:
        print(f"  - {measure}: {number}")
        print(f"    content: {content}")


# %% What an error says
def explain(error: Exception) -> str:
    """Return the words of the client's error, and what to do."""
    words = str(error) or type(error).__name__
    # These words come before the reason if the question got no embedding.
    _, no_embedding, reason = words.partition("remote client vectorize: ")
    if no_embedding:
        return explain_embedding(reason)

    advice = "check WEAVIATE_URL, WEAVIATE_API_KEY and WEAVIATE_GRPC_PORT"
    if isinstance(error, exceptions.UnexpectedStatusCodeError) and error.status_code == 422:
        advice = "start Weaviate with ENABLE_MODULES=text2vec-jinaai"
    return f"Weaviate: {quote(words)}; {advice}"


def explain_embedding(reason: str) -> str:
    """Return why Weaviate got no embedding, and what to do."""
    advice = "check JINAAI_API_KEY, its balance, JINAAI_API_URL and JINAAI_MODEL"
    if re.search(r"failed with status: (408|429|5\d\d)", reason):
        advice = "try again later"
    return f"Weaviate: {quote(reason)}; {advice}"


def quote(words: str) -> str:
    """Return the first words, without keys and embeddings."""
    words = words.partition('"embedding":')[0]
    for key in (demo.JINAAI_API_KEY, WEAVIATE_API_KEY):
        if key:
            words = words.replace(key, "***")
    return repr(words[:200])


if __name__ == "__main__":
    Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main(run)
