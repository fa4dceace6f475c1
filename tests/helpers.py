"""What the tests share beside fixtures: servers to start, the demo's command line, and checks."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pymysql
import pytest
from sqlalchemy import NullPool, create_engine, text

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "jina_ai_embeddings_demo.py"
SERVERS = ROOT / "tests" / "servers"

KEY_NAMES = ("JINAAI_API_KEY", "JINA_API_KEY", "JINA_AI_API_KEY", "JINAAI_APIKEY")
SETTINGS = (*KEY_NAMES, "TIDB_DATABASE_URL", "JINAAI_API_URL", "JINAAI_MODEL")

QUESTION = "What is TiDB?"
TABLE = "jinaai_tidb_demo_documents"
JINA_TEXT = (
    "Jina AI offers best-in-class embeddings, reranker and prompt optimizer, "
    "enabling advanced multimodal AI."
)
TIDB_TEXT = (
    "TiDB is an open-source MySQL-compatible database that supports "
    "Hybrid Transactional and Analytical Processing (HTAP) workloads."
)
TEXTS = [JINA_TEXT, TIDB_TEXT]


# %% The demo's command line and its output
def demo_command(*arguments, script=SCRIPT):
    """The command line of the demo, or of another script."""
    return [sys.executable, str(script), *arguments]


def demo_environment(settings=None):
    """An environment with no settings but *settings*: the others are blank."""
    return {**os.environ, **dict.fromkeys(SETTINGS, ""), **(settings or {})}


def unset_environment(settings=None):
    """An environment with no settings but *settings*: the others are not there, and a
    file .env can set them."""
    others = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return {**others, **(settings or {})}


def tutorial_output(database="In-Memory SQLite", state="Inserting"):
    """What the tutorial prints, with the word DISTANCE for each number."""
    return f"""\
- Inserting Data to {database}...
  - {state}: {JINA_TEXT}
  - {state}: {TIDB_TEXT}
- List All Documents and Their Distances to the Query:
  - distance: DISTANCE
    content: {JINA_TEXT}
  - distance: DISTANCE
    content: {TIDB_TEXT}
- The Most Relevant Document and Its Distance to the Query:
  - distance: DISTANCE
    content: {TIDB_TEXT}
"""


def without_distances(output):
    """The output with the word DISTANCE for each number."""
    return re.sub(r"distance: [\d.e-]+\n", "distance: DISTANCE\n", output)


def distances(output):
    """The distances in the output."""
    return [float(number) for number in re.findall(r"distance: (\S+)", output)]


def assert_one_line_error(done, *words, status=1):
    """Check that *done* ended as an error should: one line on stderr with *words* in it."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("no ")]

    assert done.returncode == status, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert [word for word in words if word not in lines[0]] == [], lines[0]


# %% Servers
class Clock:
    """A clock in place of a module's `time`: it goes on with a sleep, which takes no time."""

    def __init__(self):
        self.waits = []  # how long each sleep was

    def monotonic(self):
        return time.monotonic() + sum(self.waits)

    def sleep(self, seconds):
        self.waits.append(seconds)


def missing(reason):
    """Skip the test for *reason*, or fail where all servers have to be there."""
    if os.environ.get("TESTS_NEED_SERVERS"):
        pytest.fail(reason + ", and TESTS_NEED_SERVERS is set")
    pytest.skip(reason)


def which(*names):
    """Return the first program of these names, or None."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    found = [shutil.which(name, path=path) for name in names]
    return next(filter(None, found), None)


def free_port():
    """Return a port of 127.0.0.1 that is free, as is the one after it."""
    while True:
        # The one after it may be taken, or be no port.
        with contextlib.suppress(OSError, OverflowError):
            with socket.socket() as one, socket.socket() as another:
                one.bind(("127.0.0.1", 0))
                port = one.getsockname()[1]
                another.bind(("127.0.0.1", port + 1))
                return port


class Process:
    """A server process that can be killed and started again on the same data and port."""

    def __init__(self, command, log, ready, env=None):
        self.command = command
        self.log = log
        self.ready = ready  # raises an exception until the server is ready
        self.env = env

    def start(self):
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdout=output,
                stderr=output,
                cwd=self.log.parent,
                env={**os.environ, **(self.env or {})},
            )

        for _ in range(600):
            with contextlib.suppress(Exception):
                self.ready()
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(self.log.read_text(errors="replace")[-2000:])

    def kill(self):
        self.process.kill()
        self.process.wait()


def mysql_process(command, folder, port):
    """Return a server, not started yet, that speaks MySQL's protocol on *port*."""

    def connect():
        pymysql.connect(host="127.0.0.1", port=port, user="root").close()

    server = Process(command, folder / "output.log", connect)
    server.port = port
    server.url = f"mysql+pymysql://root@127.0.0.1:{port}/test"
    return server


def tidb_process(folder, *options, port=None):
    """Return a TiDB server, not started yet, that keeps its data in *folder*."""
    storage = ["-store", "unistore", "-path", folder / "data"]
    network = ["-host", "127.0.0.1", "-socket", "", "-report-status=false"]
    logs = ["-L", "error", "-log-slow-query", folder / "slow.log"]
    return tiflash_process(
        folder, *storage, *network, *logs, *options, port=port, program="tidb-server")


def tiflash_process(folder, *options, port=None, program="tidb-tiflash"):
    """Return a TiDB server with a stand-in for TiFlash, not started yet, that keeps no data."""
    binary = SERVERS / "tidb" / program
    if not binary.exists():
        missing(f"no {program}: build it as tests/servers/README.md says")

    port = port or free_port()
    log = folder / "tidb.log"
    return mysql_process([binary, "-P", str(port), "-log-file", log, *options], folder, port)


def sql(url, statement, **parameters):
    """Return the rows of a statement, each a tuple."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        result = connection.execute(text(statement), parameters)
        return [tuple(row) for row in result] if result.returns_rows else []
