"""Measure what the demo's readers would use instead, on a real TiDB.

    python tests/benchmark.py [--latency SECONDS] [--a-text SECONDS] [--runs N] [--texts N]

Starts TiDB (or takes TIDB_TEST_URL) and an endpoint that takes --latency a request and --a-text a
text, and has its vectors made beforehand. Every row is a ratio of medians of alternating runs; a
mark missed is said so, and ends with status 1.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pymysql
import requests
import trustme
from helpers import ROOT, SERVERS, demo_command, demo_environment, sql, tidb_process
from jina_server import Handler, JinaServer
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

sys.path += [str(ROOT / "examples"), str(ROOT)]
import own_texts

import jina_ai_embeddings_demo as demo

VECTORS = 500  # different ones; a text takes the one of its number
BATCH_SIZE = 1024  # texts a request for the others, their best among 128, 256, 512, 1024, 2048

# What a reader would write with requests, and PyMySQL or tidb-vector's own client: no checks, no
# retries, no rerun. The last argument is how many requests the bare loader keeps in flight.
OTHERS = """
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
BARE_LOADER = OTHERS + """
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
TIDB_VECTOR_CLIENT = OTHERS + """
from tidb_vector.integrations import TiDBVectorClient
client = TiDBVectorClient(
    table_name="documents", vector_dimension=768,
    connection_string=f"mysql+pymysql://root@127.0.0.1:{port}/{database}")
for texts in batches:
    client.insert(texts=texts, embeddings=embed(texts))
"""
# A process inherits the peak of the one it is started from, so a small one starts and watches it.
PEAK_OF = ("import os, subprocess, sys; process = subprocess.Popen(sys.argv[1:], stdout=2); "
           "_, status, usage = os.wait4(process.pid, 0); print(usage.ru_maxrss); "
           "sys.exit(status != 0)")
IMPORTS = ("import argparse, dotenv, json, logging, requests, sqlalchemy.orm, "
           "sqlalchemy.dialects.mysql, sqlite3, tidb_vector.sqlalchemy, pymysql")


def make_vectors():
    numbers = random.Random(1)
    return [[round(numbers.gauss(0, 0.036), 8) for _ in range(768)] for _ in range(VECTORS)]


class QuickHandler(Handler):
    """Answers from vectors in JSON that are made beforehand, chosen by the number in a text."""

    def do_POST(self):
        owner = self.server.owner
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        time.sleep(owner.latency + owner.a_text * len(texts))
        data = ",".join(
            f'{{"object":"embedding","index":{index},"embedding":'
            f'{owner.embed[int("0" + text.rpartition(" ")[2].strip("TiDB?")) % VECTORS]}}}'
            for index, text in enumerate(texts))
        self.reply(200, ('{"object":"list","data":[' + data + "]}").encode())
        with owner.count.get_lock():
            owner.count.value += 1


def serve(latency, a_text, pipe, count, tls=None):
    vectors = [json.dumps(vector) for vector in make_vectors()]
    with JinaServer(tls) as server:
        server.server.RequestHandlerClass, server.embed = QuickHandler, vectors
        server.latency, server.a_text, server.count = latency, a_text, count
        pipe.send(server.url)
        pipe.recv()


def ask(url, texts):
    """Ask for embeddings as the tutorial does: a connection for each request."""
    answer = requests.post(url, headers={"Authorization": "Bearer " + JinaServer.key},
                           json={"input": texts, "model": "jina-embeddings-v2-base-en"})
    return [item["embedding"] for item in answer.json()["data"]]


def seconds(function, times=1):
    """Return the seconds that a call takes, on the average of so many *times*."""
    started = time.perf_counter()
    for number in range(times):
        function(number)
    return (time.perf_counter() - started) / times


def run(command, environment):
    """Return the seconds that a process takes."""
    return seconds(lambda _: subprocess.run(command, env=environment, stdout=subprocess.DEVNULL,
                                            stderr=subprocess.DEVNULL, check=True))


class Bench:
    def __init__(self, tidb_url, urls, count, runs, texts, folder, stack):
        self.tidb_url, (self.jina_url, self.tls_url), self.count = tidb_url, urls, count
        self.runs, self.texts, self.folder, self.stack = runs, texts, folder, stack
        self.vectors, self.missed = make_vectors(), 0

    def database(self):
        """Return the URL of a new database with the demo's empty table."""
        name = "bench_" + uuid.uuid4().hex[:8]
        sql(self.tidb_url, "CREATE DATABASE " + name)
        self.stack.callback(sql, self.tidb_url, "DROP DATABASE " + name)
        url = make_url(self.tidb_url).set(database=name).render_as_string(hide_password=False)
        engine = demo.create_tidb_engine(url)
        demo.create_table(engine)
        engine.dispose()
        return url

    def file(self, count):
        path = self.folder / f"{count}.txt"
        path.write_text("".join(
            f"This is the text of a document, as long as a sentence is, with the number {n}\n"
            for n in range(count)))
        return str(path)

    def own_texts(self, count):
        """Return the command and the environment of examples/own_texts.py loading a file."""
        command = demo_command("--texts", self.file(count), script=own_texts.__file__)
        return command, demo_environment({
            "JINAAI_API_KEY": JinaServer.key, "JINAAI_API_URL": self.jina_url,
            "TIDB_DATABASE_URL": self.database()})

    def store(self, url, count):
        """Load a file in this process; return the seconds."""
        demo.JINAAI_API_URL, demo.JINAAI_API_KEY = self.jina_url, JinaServer.key
        engine = demo.create_tidb_engine(url)
        with open(self.file(count), encoding="utf-8") as file:
            return seconds(lambda _: own_texts.load(engine, demo.embed_texts, file, 2))

    def other(self, count, program, *more):
        url = make_url(self.database())
        return run([sys.executable, "-c", program, self.jina_url, JinaServer.key, str(url.port),
                    url.database, str(BATCH_SIZE), self.file(count), *more], demo_environment())

    def peak(self, count):
        """Return the peak memory of loading a file, in kilobytes (bytes on macOS)."""
        command, environment = self.own_texts(count)
        done = subprocess.run([sys.executable, "-S", "-c", PEAK_OF, *command], env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        return int(done.stdout)

    def row(self, what, against, mark, ours, theirs, at_least=False, unit=1000):
        """Measure *ours* and *theirs* in turn; print the ratio and whether it reaches *mark*."""
        results = [(ours(), theirs()) for _ in range(self.runs)]
        mine, other = (statistics.median(column) for column in zip(*results))
        ratio = other / mine if at_least else mine / other
        reached = ratio >= mark if at_least else ratio <= mark
        self.missed += not reached
        print(f"| {what} | {against} | {mine * unit:.4g} | {other * unit:.4g} | {ratio:.3g} | "
              f"{'≥' if at_least else '≤'} {mark:.3g} | {'yes' if reached else '**no**'} |",
              flush=True)

    def run(self):
        print("| what | against | project | other | ratio | mark | reached |")
        print("|---|---|---|---|---|---|---|", flush=True)
        many = self.texts
        def load_row(against, mark, *program):
            self.row(f"load {many} texts, whole process, ms", against, mark,
                     lambda: run(*self.own_texts(many)), lambda: self.other(many, *program))

        load_row(f"a bare loader, {BATCH_SIZE} a request, 2 in flight", 1.3, BARE_LOADER, "2")
        load_row(f"a bare loader, {BATCH_SIZE} a request, 1 in flight", 1, BARE_LOADER, "1")
        load_row(f"tidb-vector's own client, {BATCH_SIZE} a request", 0.8, TIDB_VECTOR_CLIENT)
        self.row(f"embed and store {many // 10} texts, ms a text", "the tutorial's loop", 50,
                 lambda: self.store(self.database(), many // 10) / (many // 10),
                 lambda: self.tutorials_a_text(max(many // 500, 2)), at_least=True)
        self.row(f"peak memory of loading {2 * many} texts, MB", f"of loading {many // 5}", 1.1,
                 lambda: self.peak(2 * many), lambda: self.peak(many // 5), unit=1 / 1024)
        stored = self.database()
        self.store(stored, many)
        before = self.count.value
        again = [self.store(stored, many) for _ in range(self.runs)]
        assert self.count.value == before  # not one embedding is asked for again
        self.row(f"load {many} texts that are all stored, ms", "load them first", 0.05,
                 again.pop, lambda: self.store(self.database(), many))
        engine = demo.create_tidb_engine(stored)
        self.row(f"ordered query, limit 10, of {many} rows, ms", "the same SQL by PyMySQL", 1.2,
                 lambda: seconds(lambda n: demo.find_documents(engine, self.vectors[n], 10), 20),
                 lambda: self.query_bare(stored))
        engine.dispose()
        demo.JINAAI_API_URL = self.tls_url
        self.row("40 questions over TLS, ms for each", "requests.post", 0.2,
                 lambda: seconds(lambda n: demo.generate_embeddings(f"question {n}"), 40),
                 lambda: seconds(lambda n: ask(self.tls_url, [f"question {n}"]), 40))
        nothing = demo_environment()
        self.row("start to finish with nothing configured, ms", "importing the packages", 1.3,
                 lambda: run(demo_command(), nothing),
                 lambda: run(demo_command(IMPORTS, script="-c"), nothing))

    def tutorials_a_text(self, count):
        """The tutorial's own way: a request and an object for each text."""
        engine = create_engine(self.database(), pool_recycle=300)
        texts = Path(self.file(count)).read_text().splitlines()
        def embed_and_store(_):
            data = [(content, ask(self.jina_url, [content])[0]) for content in texts]
            with Session(engine) as session:
                for content, embedding in data:
                    session.add(demo.Document(content=content, content_vec=embedding))
                session.commit()
        return seconds(embed_and_store) / count

    def query_bare(self, url):
        url = make_url(url)
        statement = ("SELECT content, VEC_COSINE_DISTANCE(content_vec, %s) AS distance "
                     "FROM jinaai_tidb_demo_documents "
                     "ORDER BY VEC_COSINE_DISTANCE(content_vec, %s) LIMIT 10")
        with pymysql.connect(host=url.host, port=url.port, user=url.username,
                             password=url.password or "", database=url.database) as connection:
            cursor = connection.cursor()
            def query(number):
                cursor.execute(statement, (str(self.vectors[number]),) * 2)
                assert len(cursor.fetchall()) == 10
            return seconds(query, 20)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"--latency": 0.1, "--a-text": 0.001, "--runs": 3, "--texts": 10000}
    for name, value in defaults.items():
        parser.add_argument(name, type=type(value), default=value)
    options = parser.parse_args()
    url = os.environ.get("TIDB_TEST_URL")
    if not url and not (SERVERS / "tidb" / "tidb-server").exists():
        parser.exit(1, "error: no tidb-server: build it as tests/servers/README.md says\n")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        authority, cas = trustme.CA(), Path(folder, "cas.pem")  # beside those that a user has
        cas.write_bytes(Path(requests.certs.where()).read_bytes() + authority.cert_pem.bytes())
        os.environ["REQUESTS_CA_BUNDLE"] = str(cas)
        count, urls = multiprocessing.Value("i", 0), []
        for latency, a_text, tls in ((options.latency, options.a_text, None),
                                     (0, 0, authority.issue_cert("127.0.0.1"))):
            here, there = multiprocessing.Pipe()
            multiprocessing.Process(target=serve, args=(latency, a_text, there, count, tls),
                                    daemon=True).start()
            urls.append(here.recv())
            stack.callback(here.send, "stop")
        if not url:
            server = tidb_process(Path(folder)).start()
            stack.callback(server.kill)
            url = server.url
        bench = Bench(url, urls, count, options.runs, options.texts, Path(folder), stack)
        bench.run()
    sys.exit(1 if bench.missed else 0)


if __name__ == "__main__":
    main()
