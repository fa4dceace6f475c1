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
import logging
import re
import sys
import textwrap
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import Engine, event, make_url
from sqlalchemy.exc import DBAPIError

sys.path.append(str(Path(__file__).resolve().parents[1]))
import jina_ai_embeddings_demo as demo


# %% Read the texts
def read_batches(path: str) -> Iterator[list[str]]:
    """Yield the texts of a UTF-8 file ("-": standard input), demo.BATCH_SIZE at a time.

    A line is a text, or several if it is longer than 255 characters. Raises OSError for the file,
    and, when all before it is yielded, ValueError for a line that is no text.
    """
    batch: list[str] = []
    split = 0
    with open(0 if path == "-" else path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if re.search("[\0\ud800-\udfff]", line):  # surrogates stand for wrong bytes
                yield batch
                raise ValueError(f"line {number} is not UTF-8 text; convert the file to UTF-8")
            texts = [line.rstrip("\n")] if line.strip() else []
            if len(line.rstrip("\n")) > 255:
                texts = textwrap.wrap(line, 255, expand_tabs=False, replace_whitespace=False,
                                      break_on_hyphens=False)
                split += 1
            batch += texts
            while len(batch) >= demo.BATCH_SIZE:
                yield batch[:demo.BATCH_SIZE]
                batch = batch[demo.BATCH_SIZE:]
    yield batch
    if split:
        print(f"{split} lines of more than 255 characters were split", file=sys.stderr)

# %% Embed and store them
class Progress(logging.Handler):
    """Shows how many texts are done and why a request waits: a bar, or a line every 10 seconds."""
    def __init__(self) -> None:
        super().__init__()
        self.bar: Any = None
        with contextlib.suppress(ImportError):  # lines will do
            from tqdm import tqdm  # type: ignore[import-untyped]
            self.bar = tqdm(unit=" texts") if sys.stderr.isatty() else None
        self.done, self.why, self.started = 0, "", time.monotonic()
        self.shown = self.started

    def emit(self, record: logging.LogRecord) -> None:
        self.why = record.getMessage()  # what the demo logs when a request has to wait

    def close(self) -> None:
        super().close()
        if self.bar is not None:
            self.bar.close()

    def show(self, more: int = 0) -> None:
        """Count *more* texts as done."""
        self.done, now = self.done + more, time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(self.why, refresh=False)
            self.bar.update(more)
        elif now - self.shown > 10:
            self.shown, speed = now, self.done / (now - self.started)
            print(f"{self.done} texts, {speed:.0f} a second {self.why}", file=sys.stderr)
        self.why = "" if more else self.why


def load(engine: Engine, embed: Any, path: str, requests: int, progress: Progress) -> int:
    """Store what is new of a file; return how many texts. Raises what the steps in it raise."""
    stored, problem, batches = 0, None, read_batches(path)
    batch: Any = []
    pending: deque[tuple[list[str], Any]] = deque()
    with ThreadPool(requests) as pool:  # whose threads only embed, and end with the main one
        while batch is not None or pending:
            try:
                batch = next(batches, None)
            except (OSError, ValueError) as error:  # raised when what came before it is stored
                batch, problem = None, error
            if batch:
                taken = {text for texts, _ in pending for text in texts}
                new = [text for text in demo.new_texts(engine, batch) if text not in taken]
                progress.show(len(batch) - len(new))
                pending.append((new, pool.apply_async(embed, [new])))
            if pending and (len(pending) > requests or batch is None):
                texts, embeddings = pending.popleft()
                while not embeddings.ready():
                    embeddings.wait(0.5)
                    progress.show()
                    [later.get() for _, later in pending if later.ready()]  # raises what failed
                demo.insert_documents(engine, texts, embeddings.get())
                progress.show(len(texts))
                stored += len(texts)
    if problem:
        raise problem
    return stored

# %% Build the vector index
def build_index() -> None:
    """Build the vector index, or say why there is none. Raises DBAPIError for other reasons."""
    url = make_url(demo.TIDB_DATABASE_URL).update_query_dict({"read_timeout": "31536000"})
    engine = demo.create_tidb_engine(url.render_as_string(hide_password=False))
    print("waiting for the vector index; after a Ctrl-C, TiDB goes on building it", file=sys.stderr)
    try:
        demo.create_vector_index(engine)
    except DBAPIError as error:
        why = str(error.orig)
        if "(1061," not in why and "(9014," not in why and "tiflash replica count" not in why:
            raise
        print(f"no vector index yet, the search is exact: {why}", file=sys.stderr)


def explain_search(engine: Engine, embedding: list[float], limit: int) -> None:
    """Say on stderr whether TiDB answers demo.find_documents by the vector index."""
    sent: list[Any] = []
    event.listen(engine, "before_cursor_execute", lambda *call: sent.append(call[2:4]))
    demo.find_documents(engine, embedding, limit)
    [(statement, parameters)] = sent
    with engine.connect() as connection:
        plan = connection.exec_driver_sql("EXPLAIN " + statement, parameters).fetchall()
    print("the search", "uses the vector index" if "annIndex" in str(plan) else "reads all texts",
          "as EXPLAIN says", file=sys.stderr)

# %% Run it
class Parser(argparse.ArgumentParser):
    """Words a wrong option in one line, as the demo's main words any other error."""
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


def read_options() -> argparse.Namespace:
    """Return the options of the command line; a wrong one ends with status 2."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", metavar="FILE", help="store its lines; - is standard input")
    parser.add_argument("--vector-index", action="store_true", help="build an HNSW index")
    parser.add_argument("--query", metavar="TEXT", type=str.strip, help="find the nearest texts")
    parser.add_argument("--limit", metavar="N", type=int, default=1, help="how many of them [1]")
    parser.add_argument("--requests", metavar="N", type=int, default=2, help="at a time [2]")
    options = parser.parse_args()
    if options.query == "" or re.search("[\ud800-\udfff]", options.query or ""):
        parser.error("--query takes a text, in UTF-8")
    if not (0 < options.limit < 10 ** 6 and 0 < options.requests < 10 ** 6):
        parser.error("--limit and --requests take a whole number from 1 up")
    if not (options.texts or options.vector_index or options.query):
        parser.error("nothing to do without --texts, --vector-index or --query")
    return options


def run() -> None:
    """Do what the options say. Raises what the steps raise."""
    options = read_options()
    engine, embed = demo.connect()
    # Before there is a table, since a model that fails should not have one.
    [embedding] = embed([options.query or "What is TiDB?"], "retrieval.query")
    demo.create_table(engine)
    if options.texts:
        print(f"- Inserting Data to {'TiDB' if demo.TIDB_DATABASE_URL else 'In-Memory SQLite'}...")
        with contextlib.closing(Progress()) as progress:
            logging.getLogger(demo.__name__).addHandler(progress)
            stored = load(engine, embed, options.texts, options.requests, progress)
        print(f"  - Stored: {stored}, already stored: {progress.done - stored}")
    if options.vector_index and demo.TIDB_DATABASE_URL:
        build_index()
        explain_search(engine, embedding, options.limit)
    elif options.vector_index:
        print("no vector index without TiDB: the search is exact", file=sys.stderr)
    if options.query:
        found = demo.find_documents(engine, embedding, options.limit)
        if not found:
            raise ValueError("no text is stored; load some with --texts")
        print("- The Most Relevant Document and Its Distance to the Query:" if len(found) == 1
              else f"- The {len(found)} Most Relevant Documents and Their Distances to the Query:")
        for content, distance in found:
            print(f"  - distance: {distance}\n    content: {content}")


if __name__ == "__main__":
    demo.main(run)
