"""Measure what the demo's readers would use instead, on a real TiDB.

    python tests/benchmark.py [--latency SECONDS] [--a-text SECONDS] [--runs N] [--texts N]

Starts TiDB (or takes TIDB_TEST_URL) and an endpoint that takes --latency a request and --a-text a
text, and has its vectors made beforehand. Every row is a ratio of medians of alternating runs; a
mark missed is said so, and ends with status 1.
"""

import argparse
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
from conftest import ROOT, SCRIPT, demo_environment, tidb_process
from jina_server import Handler, JinaServer
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

sys.path.append(str(ROOT / "examples"))
sys.path.append(str(ROOT))
import own_texts

import jina_ai_embeddings_demo as demo

VECTORS = 500  # different ones; a text takes the one of its number
BATCH_SIZE = 1024  # texts a request for the others, their best among 128, 256, 512, 1024, 2048

# What a reader would write with requests and PyMySQL alone: no checks, no retries, no rerun. The
# last argument is how many requests it keeps in flight.
BARE_LOADER = """
import collections, concurrent.futures, itertools, sys
import pymysql, requests
url, key, port, database, batch_size, path, in_flight = sys.argv[1:]
connection = pymysql.connect(host="127.0.0.1", port=int(port), user="root", database=database)
def embed(texts):
    answer = requests.post(url, headers={"Authorization": "Bearer " + key},
                           json={"input": texts, "model": "jina-embeddings-v2-base-en"})
    return [item["embedding"] for item in answer.json()["data"]]
def store(texts, embeddings):
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO jinaai_tidb_demo_documents (content, content_vec) VALUES (%s, %s)",
            list(zip(texts, map(str, embeddings))))
    connection.commit()
with open(path, encoding="utf-8") as file, \\
        concurrent.futures.ThreadPoolExecutor(int(in_flight)) as pool:
    lines, pending = (line.rstrip("\\n") for line in file), collections.deque()
    while True:
        texts = list(itertools.islice(lines, int(batch_size)))
        if texts:
            pending.append((texts, pool.submit(embed, texts)))
        if pending and (not texts or len(pending) > int(in_flight)):
            oldest, embeddings = pending.popleft()
            store(oldest, embeddings.result())
        if not texts and not pending:
            break
"""
# tidb-vector's own client, with requests for the embeddings, as its documentation shows it.
TIDB_VECTOR_CLIENT = """
import itertools, sys
import requests
from tidb_vector.integrations import TiDBVectorClient
url, key, port, database, batch_size, path = sys.argv[1:]
client = TiDBVectorClient(
    table_name="documents", vector_dimension=768,
    connection_string=f"mysql+pymysql://root@127.0.0.1:{port}/{database}")
with open(path, encoding="utf-8") as file:
    lines = (line.rstrip("\\n") for line in file)
    while True:
        texts = list(itertools.islice(lines, int(batch_size)))
        if not texts:
            break
        answer = requests.post(url, headers={"Authorization": "Bearer " + key},
                               json={"input": texts, "model": "jina-embeddings-v2-base-en"})
        client.insert(texts=texts, embeddings=[
            item["embedding"] for item in answer.json()["data"]])
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


def serve(latency, a_text, pipe, count):
    with JinaServer(latency, [json.dumps(vector) for vector in make_vectors()]) as server:
        server.server.RequestHandlerClass = QuickHandler
        server.a_text, server.count = a_text, count
        pipe.send(server.url)
        pipe.recv()


class Bench:
    def __init__(self, tidb_url, jina_url, count, runs, texts, folder):
        self.tidb_url, self.jina_url, self.count = make_url(tidb_url), jina_url, count
        self.runs, self.texts, self.folder, self.databases = runs, texts, folder, []
        self.admin, self.vectors, self.missed = create_engine(tidb_url), make_vectors(), 0

    def database(self):
        """Return the URL of a new database with the demo's empty table."""
        name = "bench_" + uuid.uuid4().hex[:8]
        with self.admin.begin() as connection:
            connection.execute(text("CREATE DATABASE " + name))
        self.databases.append(name)
        url = self.tidb_url.set(database=name)
        engine = self.engine(url)
        demo.create_table(engine)
        engine.dispose()
        return url

    def drop_databases(self):
        with self.admin.begin() as connection:
            for name in self.databases:
                connection.execute(text("DROP DATABASE " + name))

    def engine(self, url):
        return demo.create_tidb_engine(url.render_as_string(hide_password=False))

    def file(self, count):
        path = self.folder / f"{count}.txt"
        if not path.exists():
            path.write_text("".join(
                f"This is the text of a document, as long as a sentence is, with the number {n}\n"
                for n in range(count)))
        return str(path)

    def own_texts(self, url, count):
        """Return the command and the environment of examples/own_texts.py loading a file."""
        return ([sys.executable, str(ROOT / "examples" / "own_texts.py"),
                 "--texts", self.file(count)],
                demo_environment({"JINAAI_API_KEY": JinaServer.key, "JINAAI_API_URL": self.jina_url,
                                  "TIDB_DATABASE_URL": url.render_as_string(hide_password=False)}))

    def load(self, count):
        return self.seconds(*self.own_texts(self.database(), count))

    def store(self, url, count):
        """Load a file in this process; return the seconds."""
        demo.JINAAI_API_URL, demo.JINAAI_API_KEY = self.jina_url, JinaServer.key
        engine, path, progress = self.engine(url), self.file(count), own_texts.Progress()
        started = time.perf_counter()
        own_texts.load(engine, demo.embed_texts, path, 2, progress)
        seconds = time.perf_counter() - started
        engine.dispose()
        return seconds

    def other(self, program, count, *more):
        url = self.database()
        return self.seconds(
            [sys.executable, "-c", program, self.jina_url, JinaServer.key, str(url.port),
             url.database, str(BATCH_SIZE), self.file(count), *more], demo_environment())

    def peak(self, count):
        """Return the peak memory of loading a file, in kilobytes (bytes on macOS)."""
        command, environment = self.own_texts(self.database(), count)
        done = subprocess.run([sys.executable, "-S", "-c", PEAK_OF, *command], env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        return int(done.stdout)

    @staticmethod
    def seconds(command, environment):
        started = time.perf_counter()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=True)
        return time.perf_counter() - started

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
        many, load = self.texts, f"load {self.texts} texts, whole process, ms"
        self.row(load, f"a bare loader, {BATCH_SIZE} a request, 2 in flight", 1.3,
                 lambda: self.load(many), lambda: self.other(BARE_LOADER, many, "2"))
        self.row(load, f"a bare loader, {BATCH_SIZE} a request, 1 in flight", 1,
                 lambda: self.load(many), lambda: self.other(BARE_LOADER, many, "1"))
        self.row(load, f"tidb-vector's own client, {BATCH_SIZE} a request", 0.8,
                 lambda: self.load(many), lambda: self.other(TIDB_VECTOR_CLIENT, many))
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
        engine = self.engine(stored)
        self.row(f"ordered query, limit 10, of {many} rows, ms", "the same SQL by PyMySQL", 1.2,
                 lambda: self.query(engine), lambda: self.query_bare(stored))
        engine.dispose()
        self.row("start to finish with nothing configured, ms", "importing the packages", 1.3,
                 lambda: self.seconds([sys.executable, str(SCRIPT)], demo_environment()),
                 lambda: self.seconds([sys.executable, "-c", IMPORTS], demo_environment()))

    def tutorials_a_text(self, count):
        """The tutorial's own way: a request a text, an object a text."""
        engine = create_engine(self.database(), pool_recycle=300)
        texts = Path(self.file(count)).read_text().splitlines()
        started = time.perf_counter()
        data = []
        for content in texts:
            response = requests.post(
                self.jina_url, json={"input": [content], "model": "jina-embeddings-v2-base-en"},
                headers={"Content-Type": "application/json",
                         "Authorization": f"Bearer {JinaServer.key}"})
            data.append({"text": content, "embedding": response.json()["data"][0]["embedding"]})
        with Session(engine) as session:
            for item in data:
                session.add(demo.Document(content=item["text"], content_vec=item["embedding"]))
            session.commit()
        seconds = time.perf_counter() - started
        engine.dispose()
        return seconds / count

    def query(self, engine):
        started = time.perf_counter()
        for number in range(20):
            assert len(demo.find_documents(engine, self.vectors[number], 10)) == 10
        return (time.perf_counter() - started) / 20

    def query_bare(self, url):
        with pymysql.connect(host=url.host, port=url.port, user=url.username,
                             password=url.password or "", database=url.database) as connection:
            cursor, started = connection.cursor(), time.perf_counter()
            for number in range(20):
                vector = str(self.vectors[number])
                cursor.execute(
                    "SELECT content, VEC_COSINE_DISTANCE(content_vec, %s) AS distance "
                    "FROM jinaai_tidb_demo_documents "
                    "ORDER BY VEC_COSINE_DISTANCE(content_vec, %s) LIMIT 10", (vector, vector))
                assert len(cursor.fetchall()) == 10
            return (time.perf_counter() - started) / 20


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.1)
    parser.add_argument("--a-text", type=float, default=0.001)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--texts", type=int, default=10000)
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    count = multiprocessing.Value("i", 0)
    multiprocessing.Process(target=serve, args=(options.latency, options.a_text, there, count),
                            daemon=True).start()
    url, server = os.environ.get("TIDB_TEST_URL"), None
    with tempfile.TemporaryDirectory() as folder:
        if not url:
            server = tidb_process(Path(folder)).start()
            url = server.url
        bench = Bench(url, here.recv(), count, options.runs, options.texts, Path(folder))
        try:
            bench.run()
        finally:
            bench.drop_databases()
            bench.admin.dispose()
            here.send("stop")
            if server:
                server.kill()
    sys.exit(1 if bench.missed else 0)


if __name__ == "__main__":
    main()
