"""Fixtures: the demo as a process and as a module, Jina AI's endpoint, and databases to run on."""

import getpass
import os
import shutil
import signal
import subprocess
import sys
import uuid

import pytest
import trustme
from helpers import (
    ROOT,
    SCRIPT,
    SETTINGS,
    Clock,
    demo_command,
    demo_environment,
    free_port,
    missing,
    mysql_process,
    sql,
    tidb_process,
    which,
)
from jina_server import JinaServer
from sqlalchemy import make_url

# For `import jina_ai_embeddings_demo` and `from examples import own_texts`.
sys.path.insert(0, str(ROOT))


def pytest_configure():
    """Run before any test module is imported."""
    # A blank variable hides a developer's own .env from the tests and from what they start.
    os.environ.update(dict.fromkeys(SETTINGS, ""))
    # With it, Python would flush what an example has to flush by itself.
    os.environ.pop("PYTHONUNBUFFERED", None)
    # A shell that starts the tests in the background has them ignore Ctrl-C, and what they
    # start would ignore it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Report skipped tests by their reasons alone: a line for each server that is missing."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        report.longrepr = ("tests", None, reason)
    return report


# %% Databases. Each process of pytest-xdist starts its own servers, when a test needs them.
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


@pytest.fixture(scope="session")
def own_server(tmp_path_factory):
    """A TiDB server without TLS, whose transactions are limited as TiDB Cloud Starter's are."""
    folder = tmp_path_factory.mktemp("own")
    config = folder / "tidb.toml"
    config.write_text("[performance]\ntxn-total-size-limit = 10485760\n")

    server = tidb_process(folder, "-config", config).start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def tls(tmp_path_factory):
    """A TiDB server with a test CA's certificate for localhost, and the files in its `folder`."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    for name in "localhost", "client":
        certificate = authority.issue_cert(name)
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")

    config = folder / "tidb.toml"
    config.write_text(f"""\
[security]
ssl-ca = "{folder}/ca.pem"
ssl-cert = "{folder}/localhost.pem"
ssl-key = "{folder}/localhost.pem"
""")
    server = tidb_process(folder, "-config", config).start()
    server.folder = folder
    yield server
    server.kill()


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory):
    """The URL of a MariaDB server, which takes MySQL's protocol and is no TiDB."""
    server = which("mariadbd", "mysqld")
    install = which("mariadb-install-db", "mysql_install_db")
    if not server or not install:
        missing("no MariaDB (Debian's package mariadb-server)")

    folder = tmp_path_factory.mktemp("mariadb")
    common = ["--no-defaults", f"--user={getpass.getuser()}", f"--datadir={folder / 'data'}"]
    subprocess.run(
        [install, *common, "--auth-root-authentication-method=normal"],
        check=True,
        stdout=subprocess.DEVNULL,
    )

    port = free_port()
    network = [f"--port={port}", "--bind-address=127.0.0.1", "--skip-networking=0"]
    socket = f"--socket={folder / 'socket'}"
    process = mysql_process([server, *common, *network, socket], folder, port).start()
    sql(process.url.replace("/test", "/mysql"), "CREATE DATABASE IF NOT EXISTS test")
    yield process.url
    process.kill()


@pytest.fixture(params=["in-memory", "tidb"])
def database_url(request):
    """Each of the two databases: "" for the one in memory, else the URL of TiDB."""
    return request.getfixturevalue("tidb") if request.param == "tidb" else ""


# %% Jina AI's endpoint
@pytest.fixture(scope="session")
def jina_server():
    with JinaServer() as server:
        yield server


@pytest.fixture
def jina(jina_server):
    """Jina AI's endpoint, for one test."""
    jina_server.reset()
    return jina_server


# %% The demo as a module
@pytest.fixture
def demo(monkeypatch):
    """The demo as a module, whose waits are noted, not waited."""
    import jina_ai_embeddings_demo

    monkeypatch.setattr(jina_ai_embeddings_demo, "time", Clock())
    return jina_ai_embeddings_demo


@pytest.fixture
def waits(demo):
    """The seconds that the demo has waited between tries."""
    return demo.time.waits


@pytest.fixture
def jina_demo(demo, jina, monkeypatch):
    """The demo as a module that talks to the test's endpoint."""
    monkeypatch.setattr(demo, "JINAAI_API_KEY", jina.key)
    monkeypatch.setattr(demo, "JINAAI_API_URL", jina.url)
    return demo


@pytest.fixture
def run_main(jina_demo, monkeypatch):
    """Call the demo's main() with other settings; return the line of its error, or ""."""

    def run(**settings):
        for name, value in settings.items():
            monkeypatch.setattr(jina_demo, name, value)
        try:
            jina_demo.main()
        except SystemExit as ended:
            return ended.code
        return ""

    return run


@pytest.fixture
def engine(jina_demo, database_url):
    """The demo's engine for each of the two databases, with the table."""
    from examples.stand_ins import create_stand_in_engine

    if database_url:
        engine = jina_demo.create_tidb_engine(database_url)
    else:
        engine = create_stand_in_engine()
    jina_demo.create_table(engine)
    yield engine
    engine.dispose()


# %% The demo as a process
@pytest.fixture
def on_tidb(jina, tidb):
    """The environment for a real run on TiDB."""
    return {
        "JINAAI_API_KEY": jina.key,
        "JINAAI_API_URL": jina.url,
        "TIDB_DATABASE_URL": tidb,
    }


@pytest.fixture
def real_settings(jina, database_url):
    """The environment for a real run: a key, the endpoint, and each of the two databases."""
    return {
        "JINAAI_API_KEY": jina.key,
        "JINAAI_API_URL": jina.url,
        "TIDB_DATABASE_URL": database_url,
    }


@pytest.fixture
def run_demo(tmp_path):
    """Run a script as a user does: run_demo(*arguments, env=settings) -> its completed process."""

    def run(*arguments, env=None, input=None, script=SCRIPT, **options):
        return subprocess.run(
            demo_command(*arguments, script=script),
            env=demo_environment(env),
            input=input,
            cwd=tmp_path,
            timeout=120,
            capture_output=True,
            text=not isinstance(input, bytes),
            **options,
        )

    return run


@pytest.fixture
def clone(tmp_path):
    """A folder with the script and examples/, as in a clone of the repository."""
    folder = tmp_path / "clone"
    folder.mkdir()
    shutil.copy(SCRIPT, folder)
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder
