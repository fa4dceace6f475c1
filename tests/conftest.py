"""Fixtures: the demo as a process, Jina AI's endpoint, and a database to run it on."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pymysql
import pytest
from jina_server import JinaServer
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "jina_ai_embeddings_demo.py"
SETTINGS = ("JINAAI_API_KEY", "JINA_API_KEY", "JINA_AI_API_KEY", "JINAAI_APIKEY",
            "TIDB_DATABASE_URL", "JINAAI_API_URL", "JINAAI_MODEL")

# A blank variable hides a developer's own .env from the tests and from the processes they start.
os.environ.update(dict.fromkeys(SETTINGS, ""))
sys.path.insert(0, str(ROOT))
os.environ.pop("PYTHONUNBUFFERED", None)  # the demo itself has to flush its progress
# Started in the background, a shell has us ignore Ctrl-C, and the processes of the tests with us.
signal.signal(signal.SIGINT, signal.default_int_handler)


def missing(reason):
    """Skip the test for *reason*, or fail where all servers have to be there."""
    if os.environ.get("TESTS_NEED_SERVERS"):
        pytest.fail(reason + ", and TESTS_NEED_SERVERS is set")
    pytest.skip(reason)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(ready, process, log, seconds=60):
    """Wait until *ready()* raises nothing; fail with the end of *log* if *process* ends before."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ready()
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                end = log.read_text(errors="replace")[-2000:] if log.exists() else ""
                raise RuntimeError(f"{process.args[0]} did not start: {error}\n{end}") from None
            time.sleep(0.1)


class Process:
    """A server process that can be killed and started again on the same data and port."""

    def __init__(self, command, log, ready, env=None):
        self.command, self.log, self.ready, self.env = command, log, ready, env

    def start(self):
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(self.command, stdout=output, stderr=output,
                                            env=dict(os.environ, **(self.env or {})))
        wait_for(self.ready, self.process, self.log)
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()


def tidb_process(folder, *options, port=None):
    """Return a TiDB server, not started yet, that keeps its data in *folder*."""
    binary = ROOT / "tests" / "servers" / "tidb" / "tidb-server"
    if not binary.exists():
        missing("no TiDB: build it as tests/servers/README.md says, or set TIDB_TEST_URL")
    port = port or free_port()
    server = Process(
        [str(binary), "-store", "unistore", "-path", str(folder / "data"), "-P", str(port),
         "-host", "127.0.0.1", "-report-status=false", "-L", "error",
         "-log-file", str(folder / "tidb.log"), "-log-slow-query", str(folder / "slow.log"),
         "-socket", "", *options],
        folder / "output.log",
        lambda: pymysql.connect(host="127.0.0.1", port=port, user="root").close())
    server.port = port
    server.url = f"mysql+pymysql://root@127.0.0.1:{port}/test"
    return server


@pytest.fixture(scope="session")
def tidb_server(tmp_path_factory):
    """The URL of a TiDB server: TIDB_TEST_URL's, or one that runs for the tests."""
    url = os.environ.get("TIDB_TEST_URL")
    if url:
        yield url
        return
    server = tidb_process(tmp_path_factory.mktemp("tidb")).start()
    yield server.url
    server.kill()


@pytest.fixture
def tidb(tidb_server):
    """The URL of a TiDB database of the test's own."""
    name = "demo_" + uuid.uuid4().hex
    admin = create_engine(tidb_server)
    with admin.begin() as connection:
        connection.execute(text("CREATE DATABASE " + name))
    yield make_url(tidb_server).set(database=name).render_as_string(hide_password=False)
    with admin.begin() as connection:
        connection.execute(text("DROP DATABASE " + name))
    admin.dispose()


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
def settings(jina, database_url):
    """The environment for a real run: a key, the endpoint, and each of the two databases."""
    return {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url,
            "TIDB_DATABASE_URL": database_url}


@pytest.fixture
def demo(monkeypatch):
    """The demo as a module, which waits next to nothing between tries."""
    import jina_ai_embeddings_demo
    monkeypatch.setattr(jina_ai_embeddings_demo, "RETRY_WAIT", 0.001)
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


def demo_command(*arguments, **constants):
    """The command line of the demo; *constants* of the script can be set first."""
    if not constants:
        return [sys.executable, str(SCRIPT)] + list(arguments)
    return [sys.executable, "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
            "import jina_ai_embeddings_demo as demo; "
            f"vars(demo).update({constants!r}); sys.exit(demo.main())",
            *arguments]


def demo_environment(settings=None):
    """An environment with no settings but *settings*."""
    return dict(os.environ, **dict(dict.fromkeys(SETTINGS, ""), **(settings or {})))


@pytest.fixture
def run_demo(tmp_path):
    """Run the demo as a user does: run_demo(*arguments, env=settings) -> its completed process."""
    def run(*arguments, env=None, input=None, script=SCRIPT, constants=None, **options):
        command = demo_command(*arguments, **(constants or {}))
        if script != SCRIPT:
            command[1] = str(script)
        return subprocess.run(
            command, env=demo_environment(env), cwd=str(tmp_path), input=input,
            capture_output=True, timeout=120,
            text=not isinstance(input, bytes), **options)
    return run


def assert_one_line_error(done, *words, status=1):
    """Check that *done* ended as an error should: one line on stderr with *words* in it."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("no ")]
    assert done.returncode == status, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in done.stderr


def sql(url, statement, **parameters):
    """Return the rows of a statement."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement), parameters)
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        engine.dispose()


def which(*names):
    """Return the first program of these names."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)
