"""What the tests share beside fixtures: servers to start, the demo's command line, and checks."""

import contextlib
import os
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
SETTINGS = ("JINAAI_API_KEY", "JINA_API_KEY", "JINA_AI_API_KEY", "JINAAI_APIKEY",
            "TIDB_DATABASE_URL", "JINAAI_API_URL", "JINAAI_MODEL")


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


def free_port():
    """Return a port of 127.0.0.1 that is free, as is the one after it."""
    while True:
        with contextlib.suppress(OSError, OverflowError), \
                socket.socket() as one, socket.socket() as another:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            another.bind(("127.0.0.1", port + 1))
            return port


class Process:
    """A server process that can be killed and started again on the same data and port."""

    def __init__(self, command, log, ready, env=None):
        self.command, self.log, self.ready, self.env = command, log, ready, env

    def start(self):
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=output, cwd=self.log.parent,
                env={**os.environ, **(self.env or {})})
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
    server = Process(command, folder / "output.log", lambda: pymysql.connect(
        host="127.0.0.1", port=port, user="root").close())
    server.port, server.url = port, f"mysql+pymysql://root@127.0.0.1:{port}/test"
    return server


def tidb_process(folder, *options, port=None):
    """Return a TiDB server, not started yet, that keeps its data in *folder*."""
    return tiflash_process(
        folder, "-store", "unistore", "-path", folder / "data", "-host", "127.0.0.1",
        "-socket", "", "-report-status=false", "-L", "error", "-log-slow-query",
        folder / "slow.log", *options, port=port, program="tidb-server")


def tiflash_process(folder, *options, port=None, program="tidb-tiflash"):
    """Return a TiDB server with a stand-in for TiFlash, not started yet, that keeps no data."""
    binary, port = SERVERS / "tidb" / program, port or free_port()
    if not binary.exists():
        missing(f"no {program}: build it as tests/servers/README.md says")
    return mysql_process(
        [binary, "-P", str(port), "-log-file", folder / "tidb.log", *options], folder, port)


def demo_command(*arguments, script=SCRIPT):
    """The command line of the demo, or of another script."""
    return [sys.executable, str(script), *arguments]


def demo_environment(settings=None):
    """An environment with no settings but *settings*."""
    return {**os.environ, **dict.fromkeys(SETTINGS, ""), **(settings or {})}


def assert_one_line_error(done, *words, status=1):
    """Check that *done* ended as an error should: one line on stderr with *words* in it."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("no ")]
    assert done.returncode == status, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert [word for word in words if word not in lines[0]] == []


def sql(url, statement, **parameters):
    """Return the rows of a statement."""
    with create_engine(url, poolclass=NullPool).begin() as connection:
        result = connection.execute(text(statement), parameters)
        return [tuple(row) for row in result] if result.returns_rows else []


def which(*names):
    """Return the first program of these names."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)
