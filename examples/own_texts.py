# /// script
# requires-python = ">=3.9"
# dependencies = ["requests>=2.32.4", "python-dotenv>=1.0.1", "SQLAlchemy>=2.0.30,<3",
#                 "PyMySQL>=1.2.0", "tidb-vector>=0.0.14", "tqdm>=4.66"]
# ///
"""Store texts of your own in TiDB, and find those that are nearest to a question.

  python examples/own_texts.py --texts notes.txt --query "Where is the key?" --limit 3

Each line of a file is a text. A text that is stored already is not embedded again.
The settings are those of jina_ai_embeddings_demo.py, whose functions this calls.
"""

import argparse
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.pool import AsyncResult, ThreadPool
from pathlib import Path
from typing import Any, NamedTuple, Optional

from sqlalchemy import Engine

# The demo is in the folder above this one.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import jina_ai_embeddings_demo as demo
from examples.command_line import Parser, Progress, main, whole_number
from examples.text_files import NOT_UTF_8, Text, TextFiles
from examples.vector_index import build_and_explain

# How many seconds a batch of texts is tried for. If no embeddings come in 75 seconds, it
# is tried again for 150, and so on. So a slow server of your own may take 10 minutes for
# a batch, and a service that is down ends a load after 19 minutes.
PATIENCES = (75, 150, 300, 600)

# A service answers with these statuses if it refuses what is in a request: a text, how
# many texts there are, or how long they are together.
REFUSED_FOR_CONTENT = (400, 413, 422)

# The longest text that the column takes, in characters. A column of another type, such as
# Text, may have no limit, and then this is None.
CONTENT_TYPE: Any = demo.Document.content.type
LONGEST_TEXT: Optional[int] = CONTENT_TYPE.length


# %% Load texts
@dataclass
class Summary:
    """What became of the texts of a load."""

    stored: int = 0
    already_stored: int = 0
    repeated: int = 0
    # For each text that was refused, its line and the words of the service.
    refused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (f"stored: {self.stored}, already stored: {self.already_stored}, "
                f"repeated: {self.repeated}, refused: {len(self.refused)}")

    def count_texts(self) -> int:
        return self.stored + self.already_stored + self.repeated + len(self.refused)


def load(engine: Engine, embed: demo.Embed, texts: Iterable[Text],
         requests_at_once: int) -> Summary:
    """Embed and store the texts that are new.

    *embed* is demo.embed_texts or its stand-in. A text that the service refuses is left
    out. Any other error of the service is raised as ValueError, and one of the database as
    SQLAlchemyError. If the load ends early, a line on stderr says what was stored.
    """
    summary = Summary()
    # With one job more than there are threads, no thread is idle while this stores.
    ahead = requests_at_once + 1
    try:
        # Ctrl-C ends a load at once, because the threads of a ThreadPool end with the
        # process. Those of a ThreadPoolExecutor would go on.
        with Progress(demo.logger) as progress, ThreadPool(requests_at_once) as pool:
            watched = progress.watch(embed)
            batches = new_batches(engine, texts, summary)
            for job in start_jobs(pool, watched, batches, ahead):
                while not job.ready():
                    progress.show(summary.count_texts())
                    job.wait(0.5)
                store(engine, job.get(), summary)
                progress.show(summary.count_texts())
    except BaseException:
        # Without TiDB, nothing stays stored when the program ends.
        if engine.dialect.name == "mysql":
            print(f"{summary.stored} texts were stored; another run skips them", file=sys.stderr)
        raise
    return summary


def new_batches(engine: Engine, texts: Iterable[Text], summary: Summary) -> Iterator[list[Text]]:
    """Yield the texts that are not stored yet, in batches for one request.

    Count in *summary* those that are stored already, and those that are repeated.
    """
    unique = skip_repeated(texts, summary)
    while batch := list(islice(unique, demo.BATCH_SIZE)):
        new = set(demo.new_texts(engine, [text.content for text in batch]))
        summary.already_stored += len(batch) - len(new)
        if new:
            yield [text for text in batch if text.content in new]


def skip_repeated(texts: Iterable[Text], summary: Summary) -> Iterator[Text]:
    """Yield each text once, with the line where it comes first."""
    seen: set[str] = set()
    for text in texts:
        if text.content in seen:
            summary.repeated += 1
        else:
            seen.add(text.content)
            yield text


def start_jobs(pool: ThreadPool, embed: demo.Embed, batches: Iterable[list[Text]],
               ahead: int) -> Iterator[AsyncResult]:
    """Have the pool embed each batch. Yield the jobs in the order of the batches.

    Before a job is yielded, *ahead* more jobs are started. So if standard input pauses,
    a job that is done may wait for the next texts.
    """
    jobs: deque[AsyncResult] = deque()
    for batch in batches:
        jobs.append(pool.apply_async(embed_accepted, (embed, batch)))
        if len(jobs) > ahead:
            yield jobs.popleft()
    yield from jobs


# %% Embed a batch
class Outcome(NamedTuple):
    """What became of the texts of a batch."""

    embedded: list[tuple[str, list[float]]]
    refused: list[str]  # for each text, its line and the words of the service


def embed_accepted(embed: demo.Embed, batch: list[Text]) -> Outcome:
    """Embed a batch, and leave out the texts that the service refuses.

    A batch that is refused for what is in it is cut in two, until each part passes or is
    one text. This also finds a size that passes if the service takes fewer texts at once.
    Raises ValueError for any other error of the service.
    """
    contents = [text.content for text in batch]
    try:
        embeddings = embed_patiently(embed, contents, "retrieval.passage", PATIENCES)
        return Outcome(list(zip(contents, embeddings)), [])
    except demo.EmbeddingError as error:
        if error.status not in REFUSED_FOR_CONTENT:
            raise ValueError(f"{name_lines(batch)}: {error}") from error
        if len(batch) == 1:
            return Outcome([], [f"{name_lines(batch)}: {error}"])

    # The service refused a batch of several texts, so each half is tried.
    middle = len(batch) // 2
    first = embed_accepted(embed, batch[:middle])
    second = embed_accepted(embed, batch[middle:])
    return Outcome(first.embedded + second.embedded, first.refused + second.refused)


def embed_patiently(embed: demo.Embed, contents: list[str], task: str,
                    patiences: Iterable[float]) -> list[list[float]]:
    """Ask for embeddings with one patience after the other, until they come.

    Raises EmbeddingError.
    """
    *first_patiences, last_patience = patiences
    for patience in first_patiences:
        try:
            return embed(contents, task, patience)
        except demo.EmbeddingError as error:
            if not error.temporary:
                raise
            demo.logger.warning("%s (next try with more time)", error)
    return embed(contents, task, last_patience)


def name_lines(batch: list[Text]) -> str:
    """Return the first and the last line of a batch, for messages."""
    first, last = batch[0].place, batch[-1].place
    return first if first == last else f"{first} to {last}"


# %% Store a batch
def store(engine: Engine, outcome: Outcome, summary: Summary) -> None:
    """Store the texts of a batch in one transaction."""
    # Two loads with the same texts in different orders would wait for each other's rows,
    # and TiDB would end one of them. So all loads store in the same order.
    by_content = dict(sorted(outcome.embedded))
    demo.insert_documents(engine, by_content.keys(), by_content.values())
    summary.stored += len(by_content)
    summary.refused += outcome.refused


# %% Run it
def read_options() -> argparse.Namespace:
    """Return the options of the command line. A wrong one ends with status 2."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--texts", metavar="FILE", nargs="+", action="extend", default=[],
        help="store the lines of files; - is standard input")
    parser.add_argument(
        "--vector-index", action="store_true",
        help="build an HNSW index for large tables")
    parser.add_argument(
        "--query", metavar="TEXT", nargs="+", action="extend", default=[],
        type=read_question, help="find the texts that are nearest to questions")
    parser.add_argument(
        "--limit", metavar="N", type=whole_number(1_000_000), default=1,
        help="texts for each question, from 1 to 1000000 [1]")
    parser.add_argument(
        "--requests", metavar="N", type=whole_number(10), default=2,
        help="requests at a time, from 1 to 10 [2]")

    options = parser.parse_args()
    if not (options.texts or options.vector_index or options.query):
        parser.error("nothing to do without --texts, --vector-index or --query")
    return options


def read_question(words: str) -> str:
    """Return a question of the command line without blanks around it."""
    # Python takes an argument that is not UTF-8, but Jina AI does not.
    question = words.strip()
    if not question or NOT_UTF_8.search(question):
        raise argparse.ArgumentTypeError("takes a question in UTF-8")
    return question


def run() -> None:
    """Do what the options say. Raises what the steps raise."""
    options = read_options()
    # A file that cannot be opened ends the run here, before anything is stored.
    texts = TextFiles(options.texts, LONGEST_TEXT)
    engine, embed = demo.connect()

    # If nobody asks, this question finds a wrong key before there is a table. It also
    # serves to try the vector index.
    questions = options.query or ["What is TiDB?"]
    # Somebody who only asks does not wait as long as a load.
    patiences = PATIENCES if options.texts else PATIENCES[:1]
    embeddings = embed_patiently(embed, questions, "retrieval.query", patiences)
    demo.create_table(engine)

    left_out = load_files(engine, embed, texts, options.requests) if options.texts else []
    if options.vector_index:
        build_and_explain(engine, embeddings[0], options.limit)
    # Without --query, this answers nothing.
    for query, embedding in zip(options.query, embeddings):
        print_nearest(engine, query, embedding, options.limit)

    # This comes last, so that the questions have their answers.
    if left_out:
        raise ValueError("not all texts were stored; mend the lines that were left out, "
                         "and load the files again")


def load_files(engine: Engine, embed: demo.Embed, texts: TextFiles,
               requests_at_once: int) -> list[str]:
    """Load texts, and say on stderr what became of them. Return what was left out and why."""
    summary = load(engine, embed, texts, requests_at_once)
    print(f"{summary}, lines split: {texts.lines_split}", file=sys.stderr)
    left_out = summary.refused + texts.problems
    for words in left_out:
        print(f"left out: {words}", file=sys.stderr)
    return left_out


def print_nearest(engine: Engine, query: str, embedding: list[float], limit: int) -> None:
    """Print a question and the texts nearest to it. Raises ValueError if none is stored."""
    documents = demo.find_documents(engine, embedding, limit)
    if not documents:
        raise ValueError(f"no text is stored for {demo.JINAAI_MODEL}; load some with --texts "
                         "(without TiDB, in the same command)")
    print(f"- Query: {query}")
    demo.print_documents(documents)


if __name__ == "__main__":
    main(run)
