"""The engine, TLS and the errors of a real TiDB, and of servers that are none."""

import os
import pwd
import subprocess

import pymysql
import pytest
import trustme
from conftest import Process, assert_one_line_error, free_port, missing, sql, tidb_process, which
from sqlalchemy import event
from sqlalchemy.engine import make_url


@pytest.fixture
def real(jina):
    """Settings of a real run but for the database."""
    def settings(url):
        return {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url, "TIDB_DATABASE_URL": url}
    return settings


# URLs that cannot be used.

@pytest.mark.parametrize("url", [
    "nonsense", "mysql+pymysql:", "postgresql://root:secret@127.0.0.1/test", "sqlite://",
    "mysql+pymysql://root:secret@127.0.0.1:port/test", "mysql+pymysql://u:sec@ret@127.0.0.1/test",
    "mysql://root:secret@127.0.0.1:4000/test", "://"])
def test_a_url_that_is_none_is_an_error_that_hides_the_password(run_demo, real, url):
    done = run_demo(env=real(url))
    assert_one_line_error(done, "TIDB_DATABASE_URL", "mysql+pymysql://USER:PASSWORD@HOST:PORT")
    assert "sec" not in done.stderr and "ret" not in done.stderr


@pytest.mark.parametrize("option", ["ssl_mode=VERIFY_IDENTITY", "connect_timeout=soon", "charset=x",
                                    "ssl_cert=/no/such/file"])
def test_an_option_that_pymysql_does_not_take_is_an_error(run_demo, real, option):
    done = run_demo(env=real("mysql+pymysql://root:secret@127.0.0.1:9/test?" + option))
    assert_one_line_error(done, "an option in TIDB_DATABASE_URL cannot be used")
    assert "secret" not in done.stderr


def test_a_missing_ca_file_is_an_error_that_names_the_usual_places(demo):
    for query in "ssl_ca=/no/ca.pem", "ssl_ca=/no/ca.pem&ssl_verify_cert=true":
        with pytest.raises(ValueError, match="/no/ca.pem") as caught:
            demo.create_tidb_engine("mysql+pymysql://root@127.0.0.1:9/test?" + query)
        for place in ("/etc/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt",
                      "/etc/pki/tls/certs/ca-bundle.crt"):
            assert place in str(caught.value)


def test_the_engine_checks_and_renews_its_connections_and_waits_a_bounded_time(demo):
    engine = demo.create_tidb_engine("mysql+pymysql://root@127.0.0.1:9/test?read_timeout=7")
    assert engine.pool._recycle == 300 and engine.pool._pre_ping and engine.hide_parameters
    options = engine.dialect.create_connect_args(engine.url)[1]
    assert options["read_timeout"] == 7 and options["write_timeout"] == 60


# What a server answers.

def test_a_server_that_is_not_there_is_an_error(run_demo, real):
    assert_one_line_error(run_demo(env=real("mysql+pymysql://root:secret@127.0.0.1:9/test")),
                          "2003", "check TIDB_DATABASE_URL")


def test_a_refused_password_is_an_error_that_does_not_show_it(run_demo, real, tidb_server):
    url = make_url(tidb_server).set(username="root", password="secret")
    done = run_demo(env=real(url.render_as_string(hide_password=False)))
    assert_one_line_error(done, "1045", "Access denied", "check TIDB_DATABASE_URL")
    assert "secret" not in done.stderr


def test_an_unknown_database_is_an_error(run_demo, real, tidb_server):
    url = make_url(tidb_server).set(database="no_such_database")
    assert_one_line_error(run_demo(env=real(str(url))), "1049", "no_such_database")


def test_a_missing_database_is_an_error(run_demo, real, tidb_server):
    url = make_url(tidb_server).set(database="")
    assert_one_line_error(run_demo(env=real(str(url))), "No database selected")


def test_an_error_shows_neither_texts_nor_vectors(jina_demo, tidb, capsys, monkeypatch):
    sql(tidb, "CREATE TABLE jinaai_tidb_demo_documents (id INT PRIMARY KEY AUTO_INCREMENT, "
              "content VARCHAR(20), content_vec VECTOR(3))")
    monkeypatch.setattr(jina_demo, "TIDB_DATABASE_URL", tidb)
    assert jina_demo.main([]) == 1
    output, errors = capsys.readouterr()
    assert errors.startswith("error: TiDB:") and len(errors.splitlines()) == 1
    assert "best-in-class" not in errors and "[" not in errors and len(errors) < 250


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory):
    """The URL of a MariaDB server, which takes MySQL's protocol and is no TiDB."""
    server, install = which("mariadbd", "mysqld"), which("mariadb-install-db", "mysql_install_db")
    if not server or not install:
        missing("no MariaDB (Debian's package mariadb-server)")
    folder, port = tmp_path_factory.mktemp("mariadb"), free_port()
    user = "--user=" + pwd.getpwuid(os.getuid()).pw_name
    subprocess.run([install, "--no-defaults", user, "--auth-root-authentication-method=normal",
                    "--datadir={}".format(folder / "data")], check=True, stdout=subprocess.DEVNULL)
    process = Process(
        [server, "--no-defaults", user, "--datadir={}".format(folder / "data"),
         f"--port={port}", "--bind-address=127.0.0.1", "--skip-networking=0",
         "--socket={}".format(folder / "socket")], folder / "mariadb.log",
        lambda: pymysql.connect(host="127.0.0.1", port=port, user="root").close()).start()
    url = f"mysql+pymysql://root@127.0.0.1:{port}/test"
    sql(url.replace("/test", "/mysql"), "CREATE DATABASE IF NOT EXISTS test")
    yield url
    process.kill()


def test_a_server_that_is_no_tidb_is_an_error_that_says_so(run_demo, real, mariadb, jina):
    done = run_demo(env=real(mariadb))
    assert_one_line_error(done, "not TiDB, or older than 8.4")
    assert jina.requests == []


# TLS: with the URL that TiDB Cloud hands out, only the right server connects.

@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A TiDB server with a certificate of a test CA for localhost, and the files around it."""
    folder = tmp_path_factory.mktemp("tls")
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    other.cert_pem.write_to_path(str(folder / "other.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    with open(str(folder / "cert.pem"), "wb") as file:
        for part in certificate.cert_chain_pems:
            file.write(part.bytes())
    (folder / "tidb.toml").write_text(
        f'[security]\nssl-ca = "{folder}/ca.pem"\n'
        f'ssl-cert = "{folder}/cert.pem"\nssl-key = "{folder}/key.pem"\n')
    server = tidb_process(folder, "-config", str(folder / "tidb.toml")).start()
    server.folder = folder
    yield server
    server.kill()


def tls_url(server, host="localhost", ca="ca.pem",
            verify="ssl_verify_cert=true&ssl_verify_identity=true"):
    ca_file = f"ssl_ca={server.folder / ca}&" if ca else ""
    return f"mysql+pymysql://root@{host}:{server.port}/test?{ca_file}{verify}"


def cipher(demo, url):
    """Return the TLS cipher of the connection that the demo makes, "" without TLS."""
    engine = demo.create_tidb_engine(url)
    with engine.connect() as connection:
        cipher = connection.exec_driver_sql("SHOW STATUS LIKE 'Ssl_cipher'").fetchone()[1]
    engine.dispose()
    return cipher


def test_the_tutorials_url_connects_to_the_right_server_over_tls(run_demo, demo, real, tls):
    assert cipher(demo, tls_url(tls))
    assert run_demo(env=real(tls_url(tls))).returncode == 0


@pytest.mark.parametrize("verify", ["ssl_verify_cert=true&ssl_verify_identity=true",
                                    "ssl_verify_identity=true"])
def test_a_certificate_for_another_host_is_refused(run_demo, real, tls, verify):
    done = run_demo(env=real(tls_url(tls, host="127.0.0.1", verify=verify)))
    assert_one_line_error(done, "CERTIFICATE_VERIFY_FAILED", "127.0.0.1")


@pytest.mark.parametrize("verify", ["ssl_verify_cert=true&ssl_verify_identity=true",
                                    "ssl_verify_cert=true", "ssl_verify_identity=true"])
def test_a_certificate_of_another_ca_is_refused(run_demo, real, tls, verify):
    done = run_demo(env=real(tls_url(tls, ca="other.pem", verify=verify)))
    assert_one_line_error(done, "CERTIFICATE_VERIFY_FAILED")


def test_without_a_ca_file_the_url_verifies_against_the_public_cas(run_demo, real, tls):
    done = run_demo(env=real(tls_url(tls, ca=None)))
    assert_one_line_error(done, "CERTIFICATE_VERIFY_FAILED")


def test_without_a_ca_file_the_cas_are_certifis(demo, tls, monkeypatch):
    monkeypatch.setattr(demo.requests.certs, "where", lambda: str(tls.folder / "ca.pem"))
    assert cipher(demo, tls_url(tls, ca=None))


def test_a_ca_file_alone_verifies_too(demo, tls):
    assert cipher(demo, tls_url(tls, verify=""))
    with pytest.raises(demo.DBAPIError, match="CERTIFICATE_VERIFY_FAILED"):
        cipher(demo, tls_url(tls, ca="other.pem", verify=""))


def test_a_missing_ca_file_is_refused_before_anything_connects(run_demo, real, tls):
    url = tls_url(tls, ca="missing.pem").replace("root@", "root:wrong@")
    done = run_demo(env=real(url))
    assert_one_line_error(done, "missing.pem", "/etc/ssl/cert.pem")


# Older tables.

def test_a_table_made_by_the_tutorials_own_code_still_works(run_demo, real, tidb, jina):
    sql(tidb, "CREATE TABLE jinaai_tidb_demo_documents (id INTEGER NOT NULL AUTO_INCREMENT, "
              "content VARCHAR(255) NOT NULL, content_vec VECTOR(768), PRIMARY KEY (id))")
    for verb in "Inserting", "Already stored":
        done = run_demo(env=real(tidb))
        assert done.returncode == 0 and done.stdout.count(f"  - {verb}: ") == 2
    assert sql(tidb, "SELECT COUNT(*) FROM jinaai_tidb_demo_documents") == [(2,)]


def test_the_table_is_created_with_the_tutorials_columns(run_demo, real, tidb):
    run_demo(env=real(tidb))
    created = sql(tidb, "SHOW CREATE TABLE jinaai_tidb_demo_documents")[0][1]
    assert "`id` int NOT NULL AUTO_INCREMENT" in created
    assert "`content` varchar(255)" in created and "NOT NULL" in created
    assert "`content_vec` vector(768)" in created
    assert "COMMENT 'hnsw(distance=cosine)'" in created


def test_the_texts_are_stored_by_one_insert(jina_demo, tidb):
    engine = jina_demo.create_tidb_engine(tidb)
    jina_demo.create_table(engine)
    queries = []
    event.listen(engine, "after_cursor_execute",
                 lambda conn, cursor, *rest: queries.append(
                     cursor._executed if isinstance(cursor._executed, str)
                     else bytes(cursor._executed).decode()))
    jina_demo.store_texts(engine, jina_demo.TEXTS)
    inserts = [query for query in queries if str(query).startswith("INSERT")]
    assert len(inserts) == 1 and inserts[0].count("'[") == 2
    engine.dispose()
