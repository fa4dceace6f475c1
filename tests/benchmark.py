"""Measure the demo against what its readers would write instead, on a real TiDB.

    python tests/benchmark.py [--latency SECONDS] [--runs N] [--texts N]

Starts TiDB (or takes TIDB_TEST_URL) and an endpoint that waits --latency seconds a request and has
its vectors made beforehand. Every row is a ratio of medians of alternating runs; a mark missed is
said so, and ends with status 1.
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
from conftest import SCRIPT, demo_command, demo_environment, tidb_process
from jina_server import Handler, JinaServer
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

import jina_ai_embeddings_demo as demo

VECTORS = 500  # different ones; a text takes the one of its number

# What a reader would write with requests and PyMySQL alone: no checks, no retries, no rerun.
BARE_LOADER = """
import itertools, os, sys
import pymysql, requests
url, key, port, database, batch_size, path = sys.argv[1:]
connection = pymysql.connect(host="127.0.0.1", port=int(port), user="root", database=database)
with open(path, encoding="utf-8") as file, connection.cursor() as cursor:
    lines = (line.rstrip("\\n") for line in file)
    while True:
        texts = list(itertools.islice(lines, int(batch_size)))
        if not texts:
            break
        answer = requests.post(url, headers={"Authorization": "Bearer " + key},
                               json={"input": texts, "model": "jina-embeddings-v2-base-en"})
        data = answer.json()["data"]
        cursor.executemany(
            "INSERT INTO jinaai_tidb_demo_documents (content, content_vec) VALUES (%s, %s)",
            [(text, str(item["embedding"])) for text, item in zip(texts, data)])
        connection.commit()
"""
# A process inherits the peak of the one it is started from, so a small one starts and watches it.
PEAK_OF = ("import os, subprocess, sys; process = subprocess.Popen(sys.argv[1:], stdout=2); "
           "_, status, usage = os.wait4(process.pid, 0); print(usage.ru_maxrss); "
           "sys.exit(status != 0)")
IMPORTS = ("import argparse, datetime, dotenv, email.utils, logging, pathlib, pymysql, requests, "
           "sqlalchemy.orm, tidb_vector.sqlalchemy")


def make_vectors():
    numbers = random.Random(1)
    return [[round(numbers.gauss(0, 0.036), 8) for _ in range(768)] for _ in range(VECTORS)]


class QuickHandler(Handler):
    """Answers from vectors in JSON that are made beforehand, chosen by the number in a text."""

    def do_POST(self):
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        time.sleep(self.server.owner.latency)
        made = self.server.owner.embed
        data = ",".join(
            f'{{"object":"embedding","index":{index},"embedding":'
            f'{made[int(text.rpartition(" ")[2]) % VECTORS]}}}'
            for index, text in enumerate(texts))
        self.reply(200, ('{"object":"list","data":[' + data + "]}").encode())
        with self.server.owner.count.get_lock():
            self.server.owner.count.value += 1


def serve(latency, pipe, count):
    with JinaServer(latency, [json.dumps(vector) for vector in make_vectors()]) as server:
        server.server.RequestHandlerClass = QuickHandler
        server.count = count
        pipe.send(server.url)
        pipe.recv()


class Bench:
    def __init__(self, tidb_url, jina_url, count, runs, texts, folder):
        self.tidb_url, self.jina_url, self.count = make_url(tidb_url), jina_url, count
        self.runs, self.texts, self.folder, self.databases = runs, texts, folder, []
        self.admin = create_engine(tidb_url)
        self.vectors = make_vectors()
        demo.JINAAI_API_URL, demo.JINAAI_API_KEY = jina_url, JinaServer.key
        self.rows, self.missed = [], 0

    def database(self):
        """Return the URL of a new database with the demo's empty table."""
        name = "bench_" + uuid.uuid4().hex[:8]
        with self.admin.begin() as connection:
            connection.execute(text("CREATE DATABASE " + name))
        self.databases.append(name)
        url = self.tidb_url.set(database=name)
        engine = demo.create_tidb_engine(url.render_as_string(hide_password=False))
        demo.create_table(engine)
        engine.dispose()
        return url

    def drop_databases(self):
        with self.admin.begin() as connection:
            for name in self.databases:
                connection.execute(text("DROP DATABASE " + name))
        self.databases.clear()

    def engine(self, url):
        return demo.create_tidb_engine(url.render_as_string(hide_password=False))

    def file(self, count):
        path = self.folder / f"{count}.txt"
        if not path.exists():
            path.write_text("".join(
                f"This is the text of a document, as long as a sentence is, with the number {n}\n"
                for n in range(count)))
        return str(path)

    def demo(self, url, path):
        """Return the command and the environment of the demo loading a file."""
        settings = {"JINAAI_API_KEY": JinaServer.key, "JINAAI_API_URL": self.jina_url,
                    "TIDB_DATABASE_URL": url.render_as_string(hide_password=False)}
        return (demo_command("--texts", path, "--query", "What is number 1"),
                demo_environment(settings))

    def load(self, url, path):
        return self.seconds(*self.demo(url, path))

    def peak(self, url, path):
        """Return the peak memory of the demo loading a file, in kilobytes (bytes on macOS)."""
        command, environment = self.demo(url, path)
        done = subprocess.run([sys.executable, "-S", "-c", PEAK_OF, *command], env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        return int(done.stdout)

    def load_bare(self, url, path):
        return self.seconds([
            sys.executable, "-c", BARE_LOADER, self.jina_url, JinaServer.key, str(url.port),
            url.database, str(demo.BATCH_SIZE), path], demo_environment())

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
        print("| what | against | demo | other | ratio | mark | reached |")
        print("|---|---|---|---|---|---|---|", flush=True)
        many = self.texts
        self.row(f"embed and store {many // 10} texts, ms a text",
                 "the tutorial's loop", 25, lambda: self.ours_a_text(many // 10),
                 lambda: self.tutorials_a_text(max(many // 500, 2)), at_least=True)
        self.row(f"embed and store {many} texts, whole process, ms", "a bare loader", 1.25,
                 lambda: self.load(self.database(), self.file(many)),
                 lambda: self.load_bare(self.database(), self.file(many)))
        self.row(f"bulk insert of {many // 10} vectors, ms",
                 "PyMySQL executemany of ready-made strings", 1.15,
                 lambda: self.insert(many // 10), lambda: self.insert_bare(many // 10))
        self.row(f"bulk insert of {many // 10} vectors, ms",
                 "PyMySQL executemany that makes the strings", 1.15,
                 lambda: self.insert(many // 10),
                 lambda: self.insert_bare(many // 10, ready_made=False))
        stored = self.engine(self.database())
        self.store(stored, many)
        self.row(f"ordered query, limit 10, of {many} rows, ms", "the same SQL by PyMySQL", 1.2,
                 lambda: self.query(stored), lambda: self.query_bare(stored.url))
        requests_before = self.count.value
        again = [self.store(stored, many) for _ in range(self.runs)]
        assert self.count.value == requests_before  # not one embedding is asked for again
        self.row(f"loading {many} texts that are all stored, ms", "loading them first", 0.05,
                 again.pop, lambda: self.store(self.engine(self.database()), many))
        stored.dispose()
        self.row(f"peak memory of loading {2 * many} texts, MB", f"of loading {many // 5}", 1.1,
                 lambda: self.peak(self.database(), self.file(2 * many)),
                 lambda: self.peak(self.database(), self.file(many // 5)), unit=1 / 1024)
        self.row("start to finish with nothing configured, ms", "importing the packages", 1.3,
                 lambda: self.seconds([sys.executable, str(SCRIPT)], demo_environment()),
                 lambda: self.seconds([sys.executable, "-c", IMPORTS], demo_environment()))

    def ours_a_text(self, count):
        return self.store(self.engine(self.database()), count) / count

    def store(self, engine, count):
        """Store the texts of a file as the demo does; return the seconds."""
        started = time.perf_counter()
        for batch in demo.read_batches(self.file(count)):
            demo.store_texts(engine, batch)
        return time.perf_counter() - started

    def tutorials_a_text(self, count):
        """The tutorial's own way: a request a text, an object a text."""
        engine = create_engine(self.database(), pool_recycle=300)
        with open(self.file(count)) as file:
            texts = file.read().splitlines()
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

    def insert(self, count):
        engine = self.engine(self.database())
        texts = [f"text {number}" for number in range(count)]
        with engine.connect():
            pass
        made = [self.vectors[number % VECTORS] for number in range(count)]
        spent = []

        def embed(new):
            spent.append(time.perf_counter())
            return made

        demo.store_texts(engine, texts, embed)
        seconds = time.perf_counter() - spent[0]
        engine.dispose()
        return seconds

    def insert_bare(self, count, ready_made=True):
        def rows():
            return [(f"text {number}", str(self.vectors[number % VECTORS]))
                    for number in range(count)]

        made = rows()
        with self.connection(self.database()) as connection, connection.cursor() as cursor:
            started = time.perf_counter()
            cursor.executemany("INSERT INTO jinaai_tidb_demo_documents (content, content_vec) "
                               "VALUES (%s, %s)", made if ready_made else rows())
            connection.commit()
            return time.perf_counter() - started

    def query(self, engine):
        started = time.perf_counter()
        for number in range(3):
            assert len(demo.find_documents(engine, self.vectors[number], 10)) == 10
        return (time.perf_counter() - started) / 3

    def query_bare(self, url):
        with self.connection(url) as connection, connection.cursor() as cursor:
            started = time.perf_counter()
            for number in range(3):
                vector = str(self.vectors[number])
                cursor.execute(
                    "SELECT content, VEC_COSINE_DISTANCE(content_vec, %s) AS distance "
                    "FROM jinaai_tidb_demo_documents "
                    "ORDER BY VEC_COSINE_DISTANCE(content_vec, %s) LIMIT 10", (vector, vector))
                assert len(cursor.fetchall()) == 10
            return (time.perf_counter() - started) / 3

    def connection(self, url):
        return pymysql.connect(host=url.host, port=url.port, user=url.username,
                               password=url.password or "", database=url.database)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--texts", type=int, default=10000)
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    count = multiprocessing.Value("i", 0)
    endpoint = multiprocessing.Process(target=serve, args=(options.latency, there, count),
                                       daemon=True)
    endpoint.start()
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
