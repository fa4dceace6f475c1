# /// script
# requires-python = ">=3.9"
# dependencies = [
#     "weaviate-client>=4.16",
#     "httpx>=0.26",
#     "python-dotenv>=1.0.1",
# ]
# ///
"""Search by meaning and by words with Weaviate, which asks Jina AI for the embeddings itself.

Settings come from the environment or, where it has none, from the file .env beside this script
or else in the folder above:
  JINAAI_API_KEY      a key from https://jina.ai/embeddings/
                      (also read: JINA_API_KEY, JINA_AI_API_KEY, JINAAI_APIKEY)
  WEAVIATE_URL        a Weaviate Cloud cluster or a server of your own [http://localhost:8080]
  WEAVIATE_API_KEY    its key, which Weaviate Cloud asks for and your own server may ask for
  WEAVIATE_GRPC_PORT  the second port of your own server [50051]
  JINAAI_MODEL        a model that gives 768 dimensions, or jina-embeddings-v2-small-en
                      [jina-embeddings-v2-base-en]
  JINAAI_API_URL      an endpoint that Weaviate reaches [https://api.jina.ai/v1/embeddings]

Examples:
  uv run examples/weaviate_jinaai.py
  uv run examples/weaviate_jinaai.py --objects objects.jsonl --query "Where is the key?" --limit 3
"""

# ---- Step 1. Connect to Weaviate and pass it the key of Jina AI ---------------------------------
import os
import re
import socket
import warnings
from pathlib import Path

import dotenv

with warnings.catch_warnings(record=True):  # the client's packages warn of each other
    import weaviate
from weaviate.classes.init import AdditionalConfig, Auth, Timeout

HERE = Path(__file__).resolve().parent
try:
    for folder in (HERE, HERE.parent):  # the first to have a setting wins
        dotenv.load_dotenv(folder / ".env", encoding="utf-8-sig")
except (OSError, ValueError) as error:
    raise SystemExit(f"error: cannot read .env: {error}; save it as UTF-8") from None
KEY_NAMES = ("JINAAI_API_KEY", "JINA_API_KEY", "JINA_AI_API_KEY", "JINAAI_APIKEY")
JINAAI_API_KEY = next(filter(None, (os.getenv(name, "").strip() for name in KEY_NAMES)), "")
WEAVIATE_URL = os.getenv("WEAVIATE_URL", "").strip() or "http://localhost:8080"
WEAVIATE_API_KEY = os.getenv("WEAVIATE_API_KEY", "").strip()
WEAVIATE_GRPC_PORT = os.getenv("WEAVIATE_GRPC_PORT", "").strip() or "50051"
CLOUD = (".weaviate.cloud", ".weaviate.network")
CONNECT_TIMEOUT = 10  # seconds
QUERY_TIMEOUT, INSERT_TIMEOUT = 60, 120  # seconds; Weaviate itself waits 50 for Jina AI
START = ("docker run -p 127.0.0.1:8080:8080 -p 127.0.0.1:50051:50051 "
         "semitechnologies/weaviate:1.35.2")


def connect() -> weaviate.WeaviateClient:
    """Return a connection to WEAVIATE_URL that carries JINAAI_API_KEY; the caller closes it.

    Raises ValueError for a setting that cannot be used, ConnectionError where nothing answers,
    and WeaviateBaseError or httpx.HTTPError for other failures.
    """
    if not JINAAI_API_KEY:
        raise ValueError("JINAAI_API_KEY is not set; get a key at https://jina.ai/embeddings/")
    for name, key in (("JINAAI_API_KEY", JINAAI_API_KEY), ("WEAVIATE_API_KEY", WEAVIATE_API_KEY)):
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"{name} has a character that no key has; copy it again")
    options = {
        "headers": {"X-JinaAI-Api-Key": JINAAI_API_KEY},
        "auth_credentials": Auth.api_key(WEAVIATE_API_KEY) if WEAVIATE_API_KEY else None,
        "additional_config": AdditionalConfig(timeout=Timeout(
            init=CONNECT_TIMEOUT, query=QUERY_TIMEOUT, insert=INSERT_TIMEOUT)),
        "skip_init_checks": True,  # they also ask the web for the client's newest version
    }
    match = re.fullmatch(r"(?:(https?)://)?([\w.-]+)(?::(\d+))?/?", WEAVIATE_URL)
    scheme, host, port = match.groups() if match else ("", "", "")
    if host.endswith(CLOUD):
        if not WEAVIATE_API_KEY:
            raise ValueError("WEAVIATE_API_KEY is not set; the console of Weaviate Cloud shows it")
        return weaviate.connect_to_weaviate_cloud(host, **options)
    if not scheme:
        raise ValueError("WEAVIATE_URL must be http://HOST:PORT, https://HOST:PORT or the address "
                         "of a Weaviate Cloud cluster")
    ports = (int(port or {"http": 80, "https": 443}[scheme]),
             int(WEAVIATE_GRPC_PORT) if WEAVIATE_GRPC_PORT.isdecimal() else 0)
    if not (0 < ports[0] < 65536 and 0 < ports[1] < 65536 and ports[0] != ports[1]):
        raise ValueError("the port in WEAVIATE_URL and WEAVIATE_GRPC_PORT must be two different "
                         "numbers from 1 to 65535")
    for port in ports:  # the client alone would try a missing gRPC port for minutes
        try:
            socket.create_connection((host, port), CONNECT_TIMEOUT).close()
        except OSError as error:
            raise ConnectionError(
                f"nothing answers at {host}:{port} ({error.strerror or error}); check WEAVIATE_URL "
                f"and WEAVIATE_GRPC_PORT, or start a Weaviate: {START}") from error
    try:
        return weaviate.connect_to_custom(
            http_host=host, http_port=ports[0], http_secure=scheme == "https",
            grpc_host=host, grpc_port=ports[1], grpc_secure=scheme == "https", **options)
    except (LookupError, TypeError) as error:  # JSON, but not that of a Weaviate
        raise ValueError("what answers at WEAVIATE_URL is no Weaviate; check it") from error


# ---- Step 2. Create the collection --------------------------------------------------------------
import os
import re
from typing import Optional

import weaviate
from weaviate.classes.config import Configure, DataType, Property, VectorDistances
from weaviate.collections import Collection
from weaviate.exceptions import UnexpectedStatusCodeError

JINAAI_API_URL = os.getenv("JINAAI_API_URL", "").strip() or "https://api.jina.ai/v1/embeddings"
JINAAI_MODEL = os.getenv("JINAAI_MODEL", "").strip() or "jina-embeddings-v2-base-en"
DIMENSIONS = 512 if "v2-small" in JINAAI_MODEL else 768  # of an embedding
COLLECTION = "JinaaiWeaviateDemoDocument"


def create_collection(client: weaviate.WeaviateClient,
                      model: Optional[str] = JINAAI_MODEL) -> Collection:
    """Create the collection, whose texts Weaviate embeds with *model*, unless it exists; return it.

    None leaves it to the server, 1.35's choice being jina-embeddings-v4 of 2048 dimensions.
    Raises ValueError if the collection exists with another model or endpoint.
    """
    endpoint = re.fullmatch(r"(https?://.+)/v1/embeddings", JINAAI_API_URL)
    if not endpoint:
        raise ValueError("JINAAI_API_URL must be http(s)://…/v1/embeddings: Weaviate asks no other")
    shorten = re.match("jina-embeddings-v[3-9]", model or "") and not model.endswith("-nano")
    try:
        client.collections.create(
            COLLECTION,
            properties=[Property(name="content", data_type=DataType.TEXT)],
            vector_config=Configure.Vectors.text2vec_jinaai(
                model=model, base_url=endpoint[1], dimensions=DIMENSIONS if shorten else None,
                vectorize_collection_name=False,  # Jina AI gets the text alone
                vector_index_config=Configure.VectorIndex.hnsw(
                    distance_metric=VectorDistances.COSINE)))
    except UnexpectedStatusCodeError:
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


# ---- Step 3. Import texts, with or without their embeddings -------------------------------------
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from weaviate.classes.data import DataObject
from weaviate.classes.query import Filter
from weaviate.collections import Collection
from weaviate.exceptions import WeaviateInsertManyAllFailedError
from weaviate.util import generate_uuid5

TEXTS = [
    "Jina AI offers best-in-class embeddings, reranker and prompt optimizer, "
    "enabling advanced multimodal AI.",
    "TiDB is an open-source MySQL-compatible database that supports "
    "Hybrid Transactional and Analytical Processing (HTAP) workloads.",
]
BATCH_SIZE = 128  # texts a batch; Weaviate shares them out to several requests to Jina AI


def store_texts(collection: Collection, texts: Sequence[str],
                embeddings: Optional[Mapping[str, Optional[List[float]]]] = None,
                ) -> Tuple[List[str], Dict[str, str]]:
    """Store those of *texts*, a batch, that are not stored yet.

    Weaviate asks Jina AI for the embeddings that are not in *embeddings*. Return the texts stored
    now, and those that failed with the reasons. Raises WeaviateBaseError.
    """
    stored, failed = find_stored(collection, texts), {}
    new = {generate_uuid5(text): text for text in texts if not stored.get(generate_uuid5(text))}
    if new:
        objects = [DataObject({"content": text}, uuid=uuid, vector=(embeddings or {}).get(text))
                   for uuid, text in new.items()]
        try:
            errors = collection.data.insert_many(objects).errors
            failed = {objects[index].uuid: error.message for index, error in errors.items()}
        except WeaviateInsertManyAllFailedError as error:
            failed = dict.fromkeys(new, str(error))
        # Without an embedding in Jina AI's answer, Weaviate stores the text all the same. No search
        # by meaning would find it and no later import would embed it, so it has to go.
        stored = find_stored(collection, list(new.values()))
        lost = [uuid for uuid in new if uuid not in failed and not stored.get(uuid, True)]
        if lost:
            collection.data.delete_many(Filter.by_id().contains_any(lost))
            failed.update(dict.fromkeys(lost, "Jina AI's answer has no embedding for it"))
    return ([text for uuid, text in new.items() if uuid not in failed],
            {new[uuid]: reason for uuid, reason in failed.items()})


def find_stored(collection: Collection, texts: Sequence[str]) -> Dict[str, bool]:
    """Return the ids of those of *texts* that are stored, and whether with an embedding."""
    if not texts:
        return {}
    found = collection.query.fetch_objects_by_ids(
        [generate_uuid5(text) for text in texts], limit=len(texts), include_vector=True)
    return {str(item.uuid): any(item.vector.get("default", ())) for item in found.objects}


# ---- Step 4. Search by meaning, or by meaning and words -----------------------------------------
from typing import List, Tuple

from weaviate.classes.query import MetadataQuery
from weaviate.collections import Collection


def find_documents(collection: Collection, query: str, limit: int) -> List[Tuple[str, float]]:
    """Return up to *limit* texts, nearest to *query* first, with their cosine distances (0 to 2).

    Raises WeaviateBaseError.
    """
    found = collection.query.near_text(
        query, limit=limit, return_metadata=MetadataQuery(distance=True))
    return [(item.properties["content"], item.metadata.distance) for item in found.objects]


def find_hybrid(collection: Collection, query: str, limit: int) -> List[Tuple[str, float]]:
    """Return up to *limit* texts, best first, with their scores (0 to 1) by meaning and words.

    Raises WeaviateBaseError.
    """
    found = collection.query.hybrid(
        query, limit=limit, return_metadata=MetadataQuery(score=True))
    return [(item.properties["content"], item.metadata.score) for item in found.objects]


# ---- The example --------------------------------------------------------------------------------
import argparse
import json
import logging
import operator
import os
import re
import sys
import warnings
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import httpx
from weaviate.classes.batch import Shard
from weaviate.exceptions import WeaviateBaseError

MAX_FAILED = 10  # texts that end an import
ADVICE = {  # by what a message of Weaviate's has in it; the first that fits
    "JinaAI API failed with status: 401": "check JINAAI_API_KEY",
    "JinaAI API failed with status: 403": "check the balance of JINAAI_API_KEY",
    "JinaAI API failed with status: (429|50)": "run again in 60 s",
    "JinaAI API|POST request|read response|unmarshal|no embedding|panic":
        "check JINAAI_API_URL and JINAAI_MODEL",
    "no module": "start Weaviate with ENABLE_MODULES=text2vec-jinaai",
    "": "check WEAVIATE_URL and WEAVIATE_API_KEY",
}


def read_batches(path: str) -> Iterator[Dict[str, Optional[List[float]]]]:
    """Yield the texts of a file ("-": standard input) with their embeddings, BATCH_SIZE at a time.

    A line is {"content": text} or {"content": text, "vector": embedding} in JSON. Raises OSError
    for the file and ValueError for a line that cannot be stored.
    """
    batch: Dict[str, Optional[List[float]]] = {}
    with open(0 if path == "-" else path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                item = json.loads(line) if line.strip() else {"content": ""}
                text, vector = item["content"], item.get("vector")
                text.encode()
                # Weaviate takes any vector as it is, but some have no distance to others.
                fits = vector is None or (
                    len(vector) == DIMENSIONS and set(map(type, vector)) <= {int, float}
                    and 1e-18 < sum(map(operator.mul, vector, vector)) < 1e18)
            except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
                fits = False
            if not fits:
                raise ValueError(f'correct line {number}: each has to be {{"content": TEXT}} or '
                                 f'{{"content": TEXT, "vector": [{DIMENSIONS} NUMBERS]}} in JSON')
            if text.strip():
                batch[text] = vector
            if len(batch) == BATCH_SIZE:
                yield batch
                batch = {}
    if batch:
        yield batch


def explain(message: str) -> str:
    """Return what Weaviate says, without keys and vectors, in 300 characters, and what to do."""
    for key in filter(None, (JINAAI_API_KEY, WEAVIATE_API_KEY)):
        message = message.replace(key, "***")
    message = re.sub(r"(-?\d[\d.e+-]*,\s*){2,}", "… ", " ".join(message.split()))
    message = re.sub(".*remote client vectorize: ", "", message)
    advice = next(ADVICE[pattern] for pattern in ADVICE if re.search(pattern, message))
    return f"Weaviate: {message[:300]}; {advice}"


def run(options: argparse.Namespace) -> None:
    """Store the texts and answer the question. Raises what the four steps raise."""
    with connect() as client:
        collection = create_collection(client)
        print("- Inserting Data to Weaviate...")
        failed: Dict[str, str] = {}
        stored = known = 0
        for batch in read_batches(options.objects) if options.objects else [dict.fromkeys(TEXTS)]:
            new, errors = store_texts(collection, list(batch), batch)
            failed.update(errors)
            stored, known = stored + len(new), known + len(batch) - len(new) - len(errors)
            if options.objects:
                print(f"  - Stored: {stored}, already stored: {known}, failed: {len(failed)}")
            for text in errors if options.objects else TEXTS:
                state = "Inserting" if text in new else "Already stored"
                print(f"  - {'Failed' if text in errors else state}: {text}")
            if len(failed) >= MAX_FAILED:
                break
        if failed:
            text, reason = next(iter(failed.items()))
            raise RuntimeError(f"{len(failed)} not stored, the first is \"{text[:50]}\": "
                               f"{explain(reason)}")
        # A server with asynchronous indexing finds nothing till it is done.
        collection.batch.wait_for_vector_indexing([Shard(collection=COLLECTION)])

        query, limit = options.query or "What is TiDB?", options.limit or 1
        documents = find_documents(collection, query, max(limit, 20))
        if options.objects is options.query is options.limit is None:
            print("- List All Documents and Their Distances to the Query:")
            show("distance", documents)
            if len(collection) > 20:
                print(f"  ... and {len(collection) - 20} more")
        print("- The Most Relevant Document and Its Distance to the Query:" if limit == 1 else
              f"- The {limit} Most Relevant Documents and Their Distances to the Query:")
        if not documents:
            raise ValueError("no text is stored; give --objects a file with objects")
        show("distance", documents[:limit])
        print("- The Most Relevant Document of a Hybrid Search and Its Score:" if limit == 1 else
              f"- The {limit} Most Relevant Documents of a Hybrid Search and Their Scores:")
        show("score", find_hybrid(collection, query, limit))


def show(name: str, documents: List[Tuple[str, float]]) -> None:
    """Print each text and its distance or score."""
    for content, number in documents:
        print(f"  - {name}: {number}\n    content: {content}")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the example with the command line *argv*; return the exit status."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # some consoles lack some characters
        stream.reconfigure(errors="backslashreplace", line_buffering=True)
    logging.getLogger("weaviate-client").setLevel(logging.CRITICAL)  # its errors show the vectors
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: parser.exit(2, f"error: {message}; see --help\n")
    parser.add_argument("--objects", metavar="FILE", help='store the objects of FILE (- for '
                        'standard input) instead of TEXTS: {"content": TEXT} a line, in JSON, with '
                        '"vector": NUMBERS where the embedding exists already')
    parser.add_argument("--query", metavar="TEXT", help="the question [What is TiDB?]")
    parser.add_argument("--limit", metavar="N", type=int, help="find the N best [1]")
    try:
        options = parser.parse_args(argv)
        if options.limit is not None and not 0 < options.limit <= 10000:  # Weaviate's own limit
            parser.error("--limit takes a whole number from 1 to 10000")
        if options.query is not None and (
                not options.query.strip() or re.search("[\ud800-\udfff]", options.query)):
            parser.error("--query takes a text, in UTF-8")
        run(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, head for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (WeaviateBaseError, httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        message = str(error)
        if isinstance(error, (WeaviateBaseError, httpx.HTTPError)):
            message = explain(message or type(error).__name__)
        print("error:", " ".join(message.split())[:500], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
