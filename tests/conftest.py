"""Fixtures: the demo as a process and as a module, Jina AI's endpoint, and databases to run on."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
import uuid
from pathlib import Path

import pymysql
import pytest
from jina_server import JinaServer
from sqlalchemy import NullPool, create_engine, make_url, text

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "jina_ai_embeddings_demo.py"
SETTINGS = ("JINAAI_API_KEY", "JINA_API_KEY", "JINA_AI_API_KEY", "JINAAI_APIKEY",
            "TIDB_DATABASE_URL", "JINAAI_API_URL", "JINAAI_MODEL")
sys.path.insert(0, str(ROOT))  # for the modules that import the demo


def pytest_configure():
    """Run before any test module is imported."""
    # A blank variable hides a developer's own .env from the tests and from what they start.
    os.environ.update(dict.fromkeys(SETTINGS, ""))
    os.environ.pop("PYTHONUNBUFFERED", None)  # the demo itself has to flush its progress
    # Started in the background, a shell has us ignore Ctrl-C, and the tests' processes with us.
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
    binary, port = ROOT / "tests" / "servers" / "tidb" / program, port or free_port()
    if not binary.exists():
        missing(f"no {program}: build it as tests/servers/README.md says")
    return mysql_process(
        [binary, "-P", str(port), "-log-file", folder / "tidb.log", *options], folder, port)


@pytest.fixture(scope="session")
def tidb_server(tmp_path_factory):
    """The URL of a TiDB server: TIDB_TEST_URL's, or one that runs for the tests."""
    if os.environ.get("TIDB_TEST_URL"):
        yield os.environ["TIDB_TEST_URL"]
    else:
        server = tidb_process(tmp_path_factory.mktemp("tidb")).start()
        yield server.url
        server.kill()


@pytest.fixture
def tidb(tidb_server):
    """The URL of a TiDB database of the test's own."""
    name = "demo_" + uuid.uuid4().hex
    sql(tidb_server, "CREATE DATABASE " + name)
    yield make_url(tidb_server).set(database=name).render_as_string(hide_password=False)
    sql(tidb_server, "DROP DATABASE " + name)


@pytest.fixture(params=["in-memory", "tidb"])
def database_url(request):
    """Each of the two databases: "" for the one in memory, else the URL of TiDB."""
    return request.getfixturevalue("tidb") if request.param == "tidb" else ""


@pytest.fixture(scope="session")
def jina_server():
    with JinaServer() as server:
        yield server


@pytest.fixture
def jina(jina_server):
    """Jina AI's endpoint, for one test."""
    jina_server.reset()
    return jina_server


@pytest.fixture
def demo(monkeypatch):
    """The demo as a module, which waits milliseconds between tries."""
    import jina_ai_embeddings_demo
    quick = types.SimpleNamespace(uniform=lambda low, high: 0.001)
    monkeypatch.setattr(jina_ai_embeddings_demo, "random", quick)
    return jina_ai_embeddings_demo


@pytest.fixture
def jina_demo(demo, jina, monkeypatch):
    """The demo as a module that talks to the test's endpoint."""
    monkeypatch.setattr(demo, "JINAAI_API_KEY", jina.key)
    monkeypatch.setattr(demo, "JINAAI_API_URL", jina.url)
    return demo


@pytest.fixture
def engine(jina_demo, database_url):
    """The demo's engine for each of the two databases, with the table."""
    engine = (jina_demo.create_tidb_engine(database_url) if database_url
              else jina_demo.create_stand_in_engine())
    jina_demo.create_table(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def on_tidb(jina, tidb):
    """The environment for a real run on TiDB."""
    return {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url, "TIDB_DATABASE_URL": tidb}


@pytest.fixture
def real_settings(jina, database_url):
    """The environment for a real run: a key, the endpoint, and each of the two databases."""
    return {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url,
            "TIDB_DATABASE_URL": database_url}


def demo_command(*arguments, script=SCRIPT):
    """The command line of the demo, or of another script."""
    return [sys.executable, str(script), *arguments]


def demo_environment(settings=None):
    """An environment with no settings but *settings*."""
    return {**os.environ, **dict.fromkeys(SETTINGS, ""), **(settings or {})}


@pytest.fixture
def run_demo(tmp_path):
    """Run a script as a user does: run_demo(*arguments, env=settings) -> its completed process."""
    def run(*arguments, env=None, input=None, script=SCRIPT, **options):
        return subprocess.run(
            demo_command(*arguments, script=script), env=demo_environment(env), input=input,
            cwd=tmp_path, timeout=120, capture_output=True, text=not isinstance(input, bytes),
            **options)
    return run


def assert_one_line_error(done, *words, status=1):
    """Check that *done* ended as an error should: one line on stderr with *words* in it."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("no ")]
    assert done.returncode == status, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0]


def sql(url, statement, **parameters):
    """Return the rows of a statement."""
    with create_engine(url, poolclass=NullPool).begin() as connection:
        result = connection.execute(text(statement), parameters)
        return [tuple(row) for row in result] if result.returns_rows else []


def which(*names):
    """Return the first program of these names."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)
