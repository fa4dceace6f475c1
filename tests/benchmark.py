"""Measure the project beside what its readers would use instead, on a real TiDB.

    python tests/benchmark.py [--latency SECONDS] [--a-text SECONDS] [--runs N] [--texts N]

It starts TiDB (or takes TIDB_TEST_URL), and an endpoint that takes --latency for a request and
--a-text for a text. Each row is the ratio of two medians, of runs that alternate. The exit
status is 1 if a row misses its mark.
"""

import argparse
import contextlib
import functools
import io
import json
import multiprocessing
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
try:
    import pymysql
    import requests
    import trustme
    from helpers import ROOT, SERVERS, demo_command, demo_environment, sql, tidb_process
    from jina_server import Handler, JinaServer
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.orm import Session

    import jina_ai_embeddings_demo as demo
    from examples import own_texts
except ImportError as error:
    sys.exit(f"error: {error}; use the Python in whose environment you ran "
             "pip install -r requirements.txt -r tests/requirements.txt "
             "-r examples/requirements.txt")

# The endpoint has so many different embeddings, made beforehand.
EMBEDDINGS = 500

# Texts in a request of the other loaders: the best for them of 128, 256, 512, 1024 and 2048.
OTHERS_BATCH_SIZE = 1024

OWN_TEXTS = ROOT / "examples" / "own_texts.py"


# %% What a reader would write instead: no checks, no other tries, nothing skipped by another run
LOADER = """
import collections, concurrent.futures, itertools, sys
import requests
url, key, port, database, batch_size, path, *in_flight = sys.argv[1:]
def embed(texts):
    answer = requests.post(url, headers={"Authorization": "Bearer " + key},
                           json={"input": texts, "model": "jina-embeddings-v2-base-en"})
    return [item["embedding"] for item in answer.json()["data"]]
lines = (line.rstrip("\\n") for line in open(path, encoding="utf-8"))
batches = iter(lambda: list(itertools.islice(lines, int(batch_size))), [])
"""

# It keeps so many requests in flight as its last argument says.
BARE_LOADER = LOADER + """
import pymysql
connection = pymysql.connect(host="127.0.0.1", port=int(port), user="root", database=database)
def store(texts, embeddings):
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO jinaai_tidb_demo_documents (content, content_vec) VALUES (%s, %s)",
            list(zip(texts, map(str, embeddings))))
    connection.commit()
pending = collections.deque()
with concurrent.futures.ThreadPoolExecutor(int(in_flight[0])) as pool:
    for texts in itertools.chain(batches, itertools.repeat([])):
        if texts:
            pending.append((texts, pool.submit(embed, texts)))
        elif not pending:
            break
        if not texts or len(pending) > int(in_flight[0]):
            oldest, embeddings = pending.popleft()
            store(oldest, embeddings.result())
"""

TIDB_VECTOR_CLIENT = LOADER + """
from tidb_vector.integrations import TiDBVectorClient
client = TiDBVectorClient(
    table_name="documents", vector_dimension=768,
    connection_string=f"mysql+pymysql://root@127.0.0.1:{port}/{database}")
for texts in batches:
    client.insert(texts=texts, embeddings=embed(texts))
"""

IMPORTS = """
import argparse, json, logging, sqlite3
import dotenv, pymysql, requests, sqlalchemy.dialects.mysql, sqlalchemy.orm
import tidb_vector.sqlalchemy
"""

BARE_SEARCH = """
SELECT content, VEC_COSINE_DISTANCE(content_vec, %s) AS distance
FROM jinaai_tidb_demo_documents ORDER BY VEC_COSINE_DISTANCE(content_vec, %s) LIMIT 10
"""


def ask(url, texts):
    """Return embeddings as the tutorial does: with a connection for each request."""
    answer = requests.post(
        url,
        headers={"Authorization": "Bearer " + JinaServer.key},
        json={"input": texts, "model": "jina-embeddings-v2-base-en"})
    return [item["embedding"] for item in answer.json()["data"]]


# %% The endpoint, which is a process of its own
def make_embeddings():
    numbers = random.Random(1)
    return [[round(numbers.gauss(0, 0.036), 8) for _ in range(768)] for _ in range(EMBEDDINGS)]


class QuickHandler(Handler):
    """Answers with JSON that is made beforehand, chosen by a hash of the text."""

    def do_POST(self):
        owner = self.server.owner
        texts = self.read_request().texts
        with owner.lock:
            owner.answered += 1
        time.sleep(owner.latency + owner.a_text * len(texts))

        items = []
        for index, text in enumerate(texts):
            embedding = owner.embeddings[zlib.crc32(text.encode()) % EMBEDDINGS]
            items.append(
                f'{{"object": "embedding", "index": {index}, "embedding": {embedding}}}')
        data = ", ".join(items)
        self.reply(200, f'{{"object": "list", "data": [{data}]}}'.encode())


class QuickServer(JinaServer):
    handler = QuickHandler

    def __init__(self, latency, a_text, tls):
        super().__init__(tls)
        self.latency = latency
        self.a_text = a_text
        self.answered = 0
        self.embeddings = [json.dumps(embedding) for embedding in make_embeddings()]


def serve(pipe, *options):
    """Tell the URL of an endpoint, then how many requests it got, whenever that is asked."""
    with QuickServer(*options) as server:
        pipe.send(server.url)
        while True:
            pipe.recv()
            pipe.send(server.answered)


class Endpoint:
    """An endpoint at `url` that takes *latency* seconds for a request and *a_text* for a text."""

    def __init__(self, latency, a_text, tls=None):
        self.pipe, pipe = multiprocessing.Pipe()
        # A daemon ends with the process that starts it.
        multiprocessing.Process(
            target=serve, args=(pipe, latency, a_text, tls), daemon=True).start()
        self.url = self.pipe.recv()

    def count_requests(self):
        self.pipe.send("how many")
        return self.pipe.recv()


def use_endpoint(endpoint):
    """Have the demo's functions ask an endpoint in this process."""
    demo.JINAAI_API_URL = endpoint.url
    demo.JINAAI_API_KEY = JinaServer.key


# %% Measuring
def seconds(function, times=1):
    """Return the seconds that a call with a number takes, on the average of so many *times*."""
    started = time.perf_counter()
    for number in range(times):
        function(number)
    return (time.perf_counter() - started) / times


def run(command, environment):
    """Return the seconds that a process takes."""
    return seconds(lambda _: subprocess.run(
        command, env=environment, check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


# A process inherits the peak of the one that starts it, so a small one starts it and waits.
PEAK_OF = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=2)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(status != 0)
"""


def peak_memory(command, environment):
    """Return the most memory that a process has, in kilobytes (bytes on macOS)."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", PEAK_OF, *command], env=environment, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return int(done.stdout)


class Row(NamedTuple):
    what: str
    against: str
    project: Callable  # returns what one run of the project takes
    other: Callable
    mark: float  # the ratio to be reached
    higher_is_better: bool = False  # with a ratio of other / project
    unit: float = 1000  # what a run takes is shown in so many parts: ms for seconds

    def measure(self, runs):
        """Measure both in turn, print a line of the table, and return whether *mark* is met."""
        results = [(self.project(), self.other()) for _ in range(runs)]
        project, other = (statistics.median(column) for column in zip(*results))
        if self.higher_is_better:
            better, ratio = "higher", other / project
            wanted, reached = f"≥ {self.mark:.3g}", ratio >= self.mark
        else:
            better, ratio = "lower", project / other
            wanted, reached = f"≤ {self.mark:.3g}", ratio <= self.mark

        cells = [
            self.what, self.against, digits(project * self.unit), digits(other * self.unit),
            f"{ratio:.3g}", better, wanted, "yes" if reached else "**no**"]
        print(f"| {' | '.join(cells)} |", flush=True)
        return reached


def digits(number):
    """Return a number as people write it, with up to four digits that count."""
    return f"{number:,.0f}" if number > 1000 else f"{number:.4g}"


TABLE_HEAD = """\
| what | against | project | other | ratio | better is | mark | reached |
|---|---|---|---|---|---|---|---|"""


# %% What is measured
class Bench:
    """The servers, the sizes and the files of all rows, and what a run of each row does."""

    def __init__(self, options, tidb_url, folder, endpoint, tls_endpoint):
        self.texts = options.texts
        self.tidb_url = tidb_url
        self.folder = folder
        self.endpoint = endpoint
        self.tls_endpoint = tls_endpoint
        self.embeddings = make_embeddings()
        self.databases = []

    def close(self):
        for name in self.databases:
            sql(self.tidb_url, "DROP DATABASE " + name)

    def rows(self):
        return [*self.load_rows(), *self.store_rows(), *self.question_rows()]

    # Loading, as a whole process.

    def load_rows(self):
        what = f"load {self.texts} texts, whole process, ms"
        bare = f"a bare loader, {OTHERS_BATCH_SIZE} a request"
        bare_1 = functools.partial(self.run_other, BARE_LOADER, "1")
        bare_2 = functools.partial(self.run_other, BARE_LOADER, "2")
        yield Row(what, f"{bare}, 2 in flight", self.run_own_texts, bare_2, 1.3)
        yield Row(what, f"{bare}, 1 in flight", self.run_own_texts, bare_1, 1)

        client = f"tidb-vector's own client, {OTHERS_BATCH_SIZE} a request"
        run_client = functools.partial(self.run_other, TIDB_VECTOR_CLIENT)
        yield Row(what, client, self.run_own_texts, run_client, 0.8)

        many, few = 2 * self.texts, self.texts // 5
        peak_of_many = functools.partial(self.peak_of_own_texts, many)
        peak_of_few = functools.partial(self.peak_of_own_texts, few)
        yield Row(
            f"peak memory of loading {many} texts, MB", f"of loading {few}",
            peak_of_many, peak_of_few, 1.1, unit=1 / 1024)

    def run_own_texts(self):
        return run(*self.own_texts(self.texts))

    def peak_of_own_texts(self, count):
        return peak_memory(*self.own_texts(count))

    def own_texts(self, count):
        """Return the command and the environment that load so many texts into a new table."""
        command = demo_command("--texts", self.file_of(count), script=OWN_TEXTS)
        return command, demo_environment({
            "JINAAI_API_KEY": JinaServer.key,
            "JINAAI_API_URL": self.endpoint.url,
            "TIDB_DATABASE_URL": self.new_database()})

    def run_other(self, program, *more):
        url = make_url(self.new_database())
        arguments = [
            self.endpoint.url, JinaServer.key, str(url.port), url.database,
            str(OTHERS_BATCH_SIZE), self.file_of(self.texts), *more]
        return run([sys.executable, "-c", program, *arguments], demo_environment())

    def new_database(self):
        """Return the URL of a new database with the demo's empty table."""
        name = "bench_" + uuid.uuid4().hex[:8]
        sql(self.tidb_url, "CREATE DATABASE " + name)
        self.databases.append(name)
        url = make_url(self.tidb_url).set(database=name).render_as_string(hide_password=False)
        engine = demo.create_tidb_engine(url)
        demo.create_table(engine)
        engine.dispose()
        return url

    def file_of(self, count):
        """Return the path of a file with so many texts."""
        path = self.folder / f"{count}.txt"
        with path.open("w", encoding="utf-8") as file:
            for number in range(count):
                print("This is the text of a document, as long as a sentence is, with the number",
                      number, file=file)
        return str(path)

    # Embedding and storing alone.

    def store_rows(self):
        yield Row(
            f"embed and store {self.texts // 10} texts, ms a text", "the tutorial's loop",
            self.load_a_text, self.tutorials_loop, 50, higher_is_better=True)
        yield Row(
            f"load {self.texts} texts that are all stored, ms", "load them first",
            self.load_again, self.load_first, 0.05)

    def load_a_text(self):
        """Return the seconds a text."""
        count = self.texts // 10
        return self.load(self.new_database(), count) / count

    def load_first(self):
        return self.load(self.new_database(), self.texts)

    def load(self, url, count):
        """Load a file in this process; return the seconds."""
        use_endpoint(self.endpoint)
        engine = demo.create_tidb_engine(url)
        texts = own_texts.TextFiles([self.file_of(count)], own_texts.LONGEST_TEXT)
        with contextlib.redirect_stderr(io.StringIO()):  # which shows how far it is
            taken = seconds(lambda _: own_texts.load(engine, demo.embed_texts, texts, 2))
        engine.dispose()
        return taken

    @functools.cached_property
    def loaded_database(self):
        """The URL of a database in which all texts are stored."""
        url = self.new_database()
        self.load(url, self.texts)
        return url

    def load_again(self):
        url = self.loaded_database
        before = self.endpoint.count_requests()
        taken = self.load(url, self.texts)
        assert self.endpoint.count_requests() == before, "no embedding is asked for again"
        return taken

    def tutorials_loop(self):
        """Return the seconds a text of the tutorial: a request and an object for each text."""
        engine = create_engine(self.new_database(), pool_recycle=300)
        count = max(self.texts // 500, 2)
        texts = Path(self.file_of(count)).read_text().splitlines()

        def embed_and_store(_):
            data = [(text, ask(self.endpoint.url, [text])[0]) for text in texts]
            with Session(engine) as session:
                for text, embedding in data:
                    session.add(demo.Document(content=text, content_vec=embedding))
                session.commit()

        return seconds(embed_and_store) / count

    # A question.

    def question_rows(self):
        yield Row(
            f"ordered query, limit 10, of {self.texts} rows, ms", "the same SQL by PyMySQL",
            self.search, self.search_bare, 1.2)
        yield Row(
            "40 questions over TLS, ms for each", "requests.post",
            self.ask_over_tls, self.ask_bare_over_tls, 0.2)
        yield Row(
            "start to finish with nothing configured, ms", "importing the packages",
            self.run_demo, self.run_imports, 1.3)

    def search(self):
        engine = demo.create_tidb_engine(self.loaded_database)
        demo.find_documents(engine, self.embeddings[0], 10)  # connects
        taken = seconds(lambda n: demo.find_documents(engine, self.embeddings[n], 10), 20)
        engine.dispose()
        return taken

    def search_bare(self):
        url = make_url(self.loaded_database)
        connection = pymysql.connect(
            host=url.host, port=url.port, user=url.username, password=url.password or "",
            database=url.database)

        def search(number):
            cursor.execute(BARE_SEARCH, [str(self.embeddings[number])] * 2)
            assert len(cursor.fetchall()) == 10

        with connection, connection.cursor() as cursor:
            return seconds(search, 20)

    def ask_over_tls(self):
        use_endpoint(self.tls_endpoint)
        return seconds(lambda n: demo.generate_embeddings(f"question {n}"), 40)

    def ask_bare_over_tls(self):
        return seconds(lambda n: ask(self.tls_endpoint.url, [f"question {n}"]), 40)

    def run_demo(self):
        return run(demo_command(), demo_environment())

    def run_imports(self):
        return run(demo_command(IMPORTS, script="-c"), demo_environment())


# %% Run it
def read_options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.1, help="for a request [0.1]")
    parser.add_argument("--a-text", type=float, default=0.001, help="for a text [0.001]")
    parser.add_argument("--runs", type=int, default=3, help="of which the median counts [3]")
    parser.add_argument("--texts", type=int, default=10000, help="in a load [10000]")
    return parser.parse_args()


@contextlib.contextmanager
def open_tidb(folder):
    """Yield the URL of TIDB_TEST_URL, or of a server that runs meanwhile."""
    if os.environ.get("TIDB_TEST_URL"):
        yield os.environ["TIDB_TEST_URL"]
        return

    if not (SERVERS / "tidb" / "tidb-server").exists():
        sys.exit("error: no tidb-server: build it as tests/servers/README.md says")
    server = tidb_process(folder).start()
    try:
        yield server.url
    finally:
        server.kill()


def trust(authority, folder):
    """Have requests trust an authority, in a bundle that is as large as a user's."""
    bundle = folder / "ca.pem"
    usual = Path(requests.certs.where()).read_bytes()
    bundle.write_bytes(usual + authority.cert_pem.bytes())
    os.environ["REQUESTS_CA_BUNDLE"] = str(bundle)


def main():
    options = read_options()
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trust(authority, folder)
        endpoint = Endpoint(options.latency, options.a_text)
        tls_endpoint = Endpoint(0, 0, certificate)
        url = stack.enter_context(open_tidb(folder))
        bench = Bench(options, url, folder, endpoint, tls_endpoint)
        stack.callback(bench.close)

        print(f"{os.cpu_count()} cores, Python {platform.python_version()}, "
              f"{options.latency} s a request, {options.a_text} s a text, {options.runs} runs\n")
        print(TABLE_HEAD, flush=True)
        reached = [row.measure(options.runs) for row in bench.rows()]
    sys.exit(0 if all(reached) else 1)


if __name__ == "__main__":
    main()
