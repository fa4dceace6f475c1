# /// script
# requires-python = ">=3.9"
# dependencies = ["requests>=2.32.4", "python-dotenv>=1.0.1", "SQLAlchemy>=2.0.30,<3",
#                 "PyMySQL>=1.2.0", "tidb-vector>=0.0.14", "tqdm>=4.66"]
# ///
"""Store texts of your own in TiDB, and find those that are nearest to a question.

  python examples/own_texts.py --texts notes.txt --query "Where is the key?" --limit 3
The settings are those of jina_ai_embeddings_demo.py, whose functions this calls.
"""

import argparse
import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from threading import Lock, Thread
from typing import Any, TextIO

from command_line import Parser, Progress
from sqlalchemy import Engine
from vector_index import build_index, explain_search

sys.path.append(str(Path(__file__).resolve().parents[1]))
import jina_ai_embeddings_demo as demo

CHARACTERS = 50_000  # in a request: of Chinese, half the tokens that a free key has in a minute
PATIENCE = 3600  # seconds for a request, since nobody waits beside a load


# %% Read the texts
def read_batches(file: TextIO, count: Counter[str]) -> Iterator[dict[str, int]]:
    """Yield the texts of a file with their lines, each text once, for a request at a time.
    Raises ValueError for a line that is no UTF-8 text, when all before it is yielded."""
    seen: set[str] = set()
    batch: dict[str, int] = {}
    number, characters = 1, 0
    for line in iter(lambda: file.readline(100_000_000), ""):  # a device may not end a line
        if re.search("[\0\ud800-\udfff]", line):  # surrogates stand for wrong bytes
            yield batch
            raise ValueError(f"line {number} is not UTF-8 text; convert the file to UTF-8")
        texts = split_line(line.rstrip("\n"))
        count["lines split"] += len(texts) > 1
        for text in texts:
            if len(batch) == demo.BATCH_SIZE or characters + len(text) > CHARACTERS:
                yield batch
                batch, characters = {}, 0
            if text in seen:
                count["repeated in the file"] += 1
            else:
                seen.add(text)
                batch[text] = number
                characters += len(text)
        number += line.endswith("\n")
    yield batch


def split_line(line: str) -> list[str]:
    """Return the texts of a line: none, one, or pieces of up to 255 characters, cut at spaces."""
    if len(line) <= 255:
        return [line] if line.strip() else []
    return [text.rstrip() for text in re.findall(r"\S.{0,254}(?!\S)|\S{255}", line)]

# %% Embed and store them
def embed_batches(batches: Iterator[dict[str, int]], embed: Callable[..., Any], requests: int,
                  tick: Callable[[], None]) -> Iterator[tuple[list[str], Any]]:
    """Yield each batch of texts with its embeddings when these arrive.

    So many *requests* run at a time, and *tick* is called while they do. After an error no other
    batch is asked for; those on their way are yielded before the error is raised.
    """
    arrived: Queue[Any] = Queue(1)
    problems: dict[int, Exception] = {}  # by line
    on_their_way: set[int] = set()  # the batches' ids
    turn = Lock()

    def work() -> None:
        batch = {"": sys.maxsize}
        try:
            while batch and not problems:
                with turn:
                    batch = {} if problems else next(batches, {})
                on_their_way.add(id(batch))
                if batch and not problems:
                    arrived.put((list(batch), embed(list(batch), "retrieval.passage", PATIENCE)))
                on_their_way.discard(id(batch))
        except demo.EmbeddingError as error:
            first, last = min(batch.values()), max(batch.values())
            lines = f"lines {first} to {last}" if first < last else f"line {first}"
            problems[first] = ValueError(f"{lines}: {error}")
        except Exception as error:
            problems[sys.maxsize] = error
        on_their_way.discard(id(batch))
        arrived.put(None)

    for _ in range(requests):
        Thread(target=work, daemon=True).start()  # which ends with the process
    # After an error, nothing waits for a thread that still reads.
    while requests and (on_their_way or not problems or not arrived.empty()):
        tick()
        with contextlib.suppress(Empty):
            done = arrived.get(timeout=0.5)
            requests -= done is None
            if done:
                yield done
    if problems:
        raise problems[min(problems)]


def load(engine: Engine, embed: Callable[..., Any], file: TextIO, requests: int) -> Counter[str]:
    """Store what is new of a file; return how many texts it has of each kind.
    When it stops early, a line on stderr says how many were stored."""
    count = Counter({"stored": 0, "already stored": 0, "repeated in the file": 0, "lines split": 0})

    def new_batches() -> Iterator[dict[str, int]]:
        for batch in read_batches(file, count):
            new = demo.new_texts(engine, list(batch))
            count["already stored"] += len(batch) - len(new)
            if new:
                yield {text: batch[text] for text in new}

    def show() -> None:
        progress.show(sum(count.values()) - count["lines split"])

    try:
        with contextlib.closing(Progress(demo.logger)) as progress:
            for texts, embeddings in embed_batches(new_batches(), embed, requests, show):
                progress.why = ""
                demo.insert_documents(engine, texts, embeddings)
                count["stored"] += len(texts)
    except BaseException:
        if engine.dialect.name == "mysql":  # the stand-in forgets them
            print(f"{count['stored']} texts were stored; the same command goes on with the rest",
                  file=sys.stderr)
        raise
    return count

# %% Run it
def read_options() -> argparse.Namespace:
    """Return the options of the command line; a wrong one ends with status 2."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", metavar="FILE", help="store its lines; - is standard input")
    parser.add_argument("--vector-index", action="store_true", help="build an HNSW index")
    parser.add_argument("--query", metavar="TEXT", type=str.strip, help="find the nearest texts")
    parser.add_argument("--limit", metavar="N", type=int, default=1, help="how many of them [1]")
    parser.add_argument("--requests", metavar="N", type=int, default=2, choices=range(1, 11),
                        help="requests at a time, 1 to 10 [2]")
    options = parser.parse_args()
    if "" in (options.texts, options.query) or re.search("[\ud800-\udfff]", options.query or ""):
        parser.error("--texts takes a file, and --query a text in UTF-8")
    if not 0 < options.limit < 10 ** 6:
        parser.error("--limit takes a whole number from 1 up")
    if not (options.texts or options.vector_index or options.query):
        parser.error("nothing to do without --texts, --vector-index or --query")
    return options


def search(engine: Engine, embedding: list[float], limit: int) -> None:
    """Print the texts nearest to a question. Raises ValueError if there are none."""
    found = demo.find_documents(engine, embedding, limit)
    if not found and demo.TIDB_DATABASE_URL:
        raise ValueError(f"no text is stored for {demo.JINAAI_MODEL}; load some with --texts")
    if not found:
        raise ValueError("no text is stored: SQLite in memory has forgotten what an earlier run "
                         "loaded; give --texts and --query in one command")
    print("- The Most Relevant Document and Its Distance to the Query:" if len(found) == 1
          else f"- The {len(found)} Most Relevant Documents and Their Distances to the Query:")
    for content, distance in found:
        print(f"  - distance: {distance}\n    content: {content}")


def run() -> None:
    """Do what the options say. Raises what the steps raise."""
    options = read_options()
    path = 0 if options.texts == "-" else options.texts or os.devnull
    # Opened first, so a missing file costs nothing; left open, since a thread may still read it.
    file = open(path, encoding="utf-8-sig", errors="surrogateescape")
    engine, embed = demo.connect()
    question, patience = options.query or "What is TiDB?", PATIENCE if options.texts else 75
    [embedding] = embed([question], "retrieval.query", patience)
    demo.create_table(engine)
    if options.texts:
        print(f"- Inserting Data to {'TiDB' if demo.TIDB_DATABASE_URL else 'In-Memory SQLite'}...")
        count = load(engine, embed, file, options.requests)
        print(f"  - {', '.join(f'{what}: {count[what]}' for what in count).capitalize()}")
    if options.vector_index and demo.TIDB_DATABASE_URL:
        build_index()
        explain_search(engine, embedding, options.limit)
    elif options.vector_index:
        print("no vector index without TiDB: the search is exact", file=sys.stderr)
    if options.query:
        search(engine, embedding, options.limit)


if __name__ == "__main__":
    demo.main(run)
