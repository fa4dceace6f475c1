"""The engine, TLS and the errors of a real TiDB, and of servers that are none."""

import getpass
import re
import subprocess
from multiprocessing.pool import ThreadPool
from threading import Barrier

import pytest
import trustme
from conftest import (
    assert_one_line_error,
    free_port,
    missing,
    mysql_process,
    sql,
    tidb_process,
    which,
)
from sqlalchemy import event, make_url


@pytest.fixture
def real(jina):
    """Settings of a real run but for the database."""
    def settings(url):
        return {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url, "TIDB_DATABASE_URL": url}
    return settings


# URLs that cannot be used.

@pytest.mark.parametrize("url", [
    "nonsense", "mysql+pymysql:", "postgresql://root:secret@127.0.0.1/test", "sqlite://", "://",
    "mysql+pymysql://root:secret@127.0.0.1:port/test", "mysql+pymysql://u:sec@ret@127.0.0.1/test",
    "mysql://root:secret@127.0.0.1:4000/test", "mysql+pymysql://root:secret@[::1/test",
    "mysql+pymysql://root:secret@127.0.0.1/test?ssl_verify_cert=true;ssl_verify_identity=true"])
def test_a_url_that_is_none_is_an_error_that_hides_the_password(run_demo, real, url):
    done = run_demo(env=real(url))
    assert_one_line_error(done, "TIDB_DATABASE_URL", "mysql+pymysql://USER:PASSWORD@HOST:PORT")
    assert "sec" not in done.stderr and "ret" not in done.stderr


@pytest.mark.parametrize("option, named", [
    ("ssl_mode=VERIFY_IDENTITY", "ssl_mode"), ("connect_timeout=soon", "soon"), ("charset=x", ""),
    ("ssl_cert=/no/such/file", "No such file"), ("ssl_ca=/no/ca.pem", "/no/ca.pem"),
    ("ssl_ca=/no/ca.pem&ssl_verify_cert=true", "/no/ca.pem"),
    ("ssl_ca=/no/ca.pem&ssl_verify_cert=false", "/no/ca.pem")])
def test_an_option_that_cannot_be_used_is_an_error_that_tells_where_ca_files_are(
        run_demo, real, option, named):
    done = run_demo(env=real("mysql+pymysql://root:secret@127.0.0.1:9/test?" + option))
    assert_one_line_error(
        done, "TIDB_DATABASE_URL cannot be used: ", named, "/etc/ssl/cert.pem",
        "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
    assert "secret" not in done.stderr


def test_the_engine_checks_and_renews_its_connections_and_waits_a_bounded_time(demo):
    for query, seconds in ("", [60, 60]), ("?read_timeout=7", [7, 60]):
        engine = demo.create_tidb_engine("mysql+pymysql://root@127.0.0.1:9/test" + query)
        options = engine.dialect.create_connect_args(engine.url)[1]
        assert [options["read_timeout"], options["write_timeout"]] == seconds
    assert engine.pool._recycle == 300 and engine.pool._pre_ping and engine.hide_parameters


# What a server answers.

@pytest.mark.parametrize("changes, words", [
    ({"host": "::1", "port": 9}, ("2003", "::1")),
    ({"port": 9}, ("2003", "check TIDB_DATABASE_URL")),
    ({"password": "secret"}, ("1045", "Access denied", "check TIDB_DATABASE_URL")),
    ({"database": "no_such_database"}, ("1049", "no_such_database")),
    ({"database": ""}, ("No database selected",))])
def test_a_url_that_the_server_refuses_is_an_error(run_demo, real, tidb_server, changes, words):
    url = make_url(tidb_server).set(**changes)
    done = run_demo(env=real(url.render_as_string(hide_password=False)))
    assert_one_line_error(done, *words)
    assert "secret" not in done.stderr


@pytest.fixture
def user(tidb):
    """Return the URL of the test's database for a new user who has *privileges* on it."""
    database = make_url(tidb).database
    name = "u" + database[-12:]
    def create(privileges):
        sql(tidb, f"CREATE USER '{name}'")
        sql(tidb, f"GRANT {privileges} ON {database}.* TO '{name}'")
        return make_url(tidb).set(username=name, password=None).render_as_string()
    yield create
    sql(tidb, f"DROP USER IF EXISTS '{name}'")


def test_a_user_without_create_can_use_a_table_that_exists(run_demo, real, tidb, user):
    url = user("SELECT, INSERT, UPDATE")
    assert_one_line_error(run_demo(env=real(url)), "1142", "CREATE command denied",
                          "the user needs SELECT, INSERT, UPDATE and, for a new table, CREATE")
    run_demo(env=real(tidb))
    sql(tidb, "DELETE FROM jinaai_tidb_demo_documents")
    assert run_demo(env=real(url)).stdout.count("  - Inserting: ") == 2


def test_a_user_with_select_only_can_run_when_all_is_stored(run_demo, real, tidb, user):
    run_demo(env=real(tidb))
    url = user("SELECT")
    assert run_demo(env=real(url)).stdout.count("  - Already stored: ") == 2
    sql(tidb, "DELETE FROM jinaai_tidb_demo_documents")
    assert_one_line_error(run_demo(env=real(url)), "1142", "INSERT command denied",
                          "the user needs SELECT, INSERT, UPDATE")


def test_a_user_without_privileges_is_told_which_are_needed(run_demo, real, tidb_server, user):
    url = make_url(user("SELECT")).set(database="mysql")
    assert_one_line_error(run_demo(env=real(str(url))), "1044", "the user needs SELECT")


def test_an_error_shows_neither_texts_nor_vectors(run_demo, real, tidb):
    sql(tidb, "CREATE TABLE jinaai_tidb_demo_documents (id INT PRIMARY KEY AUTO_INCREMENT, "
              "content VARCHAR(20), content_vec VECTOR(3))")
    done = run_demo(env=real(tidb))
    assert_one_line_error(done, "check TIDB_DATABASE_URL")
    assert "best-in-class" not in done.stderr and "[" not in done.stderr
    assert len(done.stderr) < 250


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory):
    """The URL of a MariaDB server, which takes MySQL's protocol and is no TiDB."""
    server, install = which("mariadbd", "mysqld"), which("mariadb-install-db", "mysql_install_db")
    if not server or not install:
        missing("no MariaDB (Debian's package mariadb-server)")
    folder, port = tmp_path_factory.mktemp("mariadb"), free_port()
    user, data = f"--user={getpass.getuser()}", f"--datadir={folder / 'data'}"
    subprocess.run([install, "--no-defaults", user, "--auth-root-authentication-method=normal",
                    data], check=True, stdout=subprocess.DEVNULL)
    process = mysql_process(
        [server, "--no-defaults", user, data, f"--port={port}", "--bind-address=127.0.0.1",
         "--skip-networking=0", f"--socket={folder / 'socket'}"], folder, port).start()
    sql(process.url.replace("/test", "/mysql"), "CREATE DATABASE IF NOT EXISTS test")
    yield process.url
    process.kill()


def test_a_server_that_is_no_tidb_is_an_error_that_says_so(run_demo, real, mariadb):
    assert_one_line_error(run_demo(env=real(mariadb)), "this is not TiDB, or older than 8.4")


# TLS: with the URL that TiDB Cloud hands out, only the right server connects.

@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A TiDB server with a certificate of a test CA for localhost, and the files around it."""
    folder = tmp_path_factory.mktemp("tls")
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "other.pem")
    for name in "localhost", "client":
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(
            folder / f"{name}.pem")
    (folder / "tidb.toml").write_text(
        f'[security]\nssl-ca = "{folder}/ca.pem"\n'
        f'ssl-cert = "{folder}/localhost.pem"\nssl-key = "{folder}/localhost.pem"\n')
    server = tidb_process(folder, "-config", folder / "tidb.toml").start()
    server.folder = folder
    yield server
    server.kill()


def tls_url(server, query, host="localhost", user="root"):
    """Return the URL of the server; in *query*, {} stands for the folder of the files."""
    return f"mysql+pymysql://{user}@{host}:{server.port}/test?{query.format(server.folder)}"


def cipher(demo, url):
    """Return the TLS cipher of the connection that the demo makes, "" without TLS."""
    with demo.create_tidb_engine(url).connect() as connection:
        return connection.exec_driver_sql("SHOW STATUS LIKE 'Ssl_cipher'").fetchone()[1]


TIDB_CLOUD = "ssl_ca={0}/ca.pem&ssl_verify_cert=true&ssl_verify_identity=true"
VERIFYING = [  # every way to ask for verification, beside ssl_ca
    "", "ssl_disabled=false", "ssl_check_hostname=true", "ssl_verify_identity=true",
    "ssl_verify_identity=on", *("ssl_verify_cert=" + value for value in (
        "true", "on", "y", "%20true", "TRUE", "1", "true&ssl_verify_cert=true",
        "false&ssl_verify_cert=true", "true&ssl_disabled=false", "true&ssl_disabled=true",
        "true&ssl_verify_identity=true", "true&ssl_verify_identity=false"))]


def test_the_tutorials_url_connects_to_the_right_server_over_tls(run_demo, real, tls):
    assert run_demo(env=real(tls_url(tls, TIDB_CLOUD))).returncode == 0


@pytest.mark.parametrize("verifying", VERIFYING)
def test_only_the_right_server_connects_however_verification_is_asked_for(demo, tls, verifying):
    assert cipher(demo, tls_url(tls, "ssl_ca={}/ca.pem&" + verifying))
    with pytest.raises(demo.exc.DBAPIError, match="CERTIFICATE_VERIFY_FAILED"):
        cipher(demo, tls_url(tls, "ssl_ca={}/other.pem&" + verifying))


@pytest.mark.parametrize("verifying", [
    "ssl_verify_cert=true&ssl_verify_identity=true", "ssl_verify_identity=true",
    "ssl_verify_cert=true&ssl_check_hostname=true"])
def test_a_certificate_for_another_host_is_refused(run_demo, real, tls, verifying):
    url = tls_url(tls, "ssl_ca={}/ca.pem&" + verifying, host="127.0.0.1")
    assert_one_line_error(run_demo(env=real(url)), "CERTIFICATE_VERIFY_FAILED", "127.0.0.1")


@pytest.mark.parametrize("query", [
    "", "ssl_ca={}/other.pem&ssl_verify_cert=false", "ssl_ca={}/other.pem&ssl_verify_cert=0",
    "ssl_verify_cert=no", "ssl_disabled=true", "ssl_verify_identity=false"])
def test_a_clear_no_connects_without_verification(demo, tls, query):
    encrypted = cipher(demo, tls_url(tls, query, host="127.0.0.1")) != ""
    assert encrypted == ("ssl_disabled=true" not in query)


def test_without_a_ca_file_the_cas_are_certifis(demo, tls, monkeypatch):
    url = tls_url(tls, "ssl_verify_cert=true&ssl_verify_identity=true")
    with pytest.raises(demo.exc.DBAPIError, match="CERTIFICATE_VERIFY_FAILED"):
        cipher(demo, url)
    monkeypatch.setattr(demo.requests.utils, "DEFAULT_CA_BUNDLE_PATH", tls.folder / "ca.pem")
    assert cipher(demo, url)


def test_a_client_certificate_is_sent_beside_verification(demo, tls):
    sql(tls.url, "CREATE USER client REQUIRE X509")
    sql(tls.url, "GRANT SELECT ON test.* TO client")
    certificate = "&ssl_cert={0}/client.pem&ssl_key={0}/client.pem"
    assert cipher(demo, tls_url(tls, TIDB_CLOUD + certificate, user="client"))
    with pytest.raises(demo.exc.DBAPIError, match="1045"):
        cipher(demo, tls_url(tls, TIDB_CLOUD, user="client"))


def test_a_server_without_tls_is_refused_when_verification_is_asked_for(demo, tls, tmp_path):
    server = tidb_process(tmp_path).start()
    server.folder = tls.folder
    assert cipher(demo, server.url) == ""
    for verifying in VERIFYING:
        with pytest.raises(demo.exc.DBAPIError, match="SSL is required"):
            cipher(demo, tls_url(server, "ssl_ca={}/ca.pem&" + verifying))
    server.kill()


@pytest.fixture
def engine_on_tidb(jina_demo, tidb):
    """The demo's engine for TiDB, with the table and a text "a"."""
    engine = jina_demo.create_tidb_engine(tidb)
    jina_demo.create_table(engine)
    jina_demo.insert_documents(engine, ["a"], [[1.0] * 768])
    yield engine
    engine.dispose()


def sent_to(url, start):
    """Return the statements that TiDB got and that start with *start*: text, count and plan."""
    return sql(url, "SELECT digest_text, exec_count, plan FROM information_schema."
                    "statements_summary WHERE schema_name = DATABASE() AND digest_text LIKE :start",
               start=start + "%")


def test_two_first_runs_at_once_create_one_table(demo, tidb):
    engine, both = demo.create_tidb_engine(tidb), Barrier(2, timeout=10)
    event.listen(engine, "after_cursor_execute", lambda *call: both.wait())  # after each look
    with ThreadPool(2) as runs:
        runs.map(demo.create_table, [engine, engine])
    assert len(sql(tidb, "SHOW TABLES")) == 1


def test_the_table_is_the_tutorials(engine_on_tidb, tidb):
    created = sql(tidb, "SHOW CREATE TABLE jinaai_tidb_demo_documents")[0][1]
    assert re.findall(r"(?m)^  `(\w+)` (\S+)", created) == [
        ("id", "int"), ("content", "varchar(255)"), ("content_vec", "vector(768)")]
    for part in ("AUTO_INCREMENT", "utf8mb4_0900_bin NOT NULL,", "PRIMARY KEY (`id`)",
                 "UNIQUE KEY `content` (`content`)", "COMMENT 'hnsw(distance=cosine)'",
                 "COMMENT='jina-embeddings-v2-base-en'"):
        assert part in created


@pytest.mark.parametrize("old", [False, True])
def test_another_model_on_the_same_table_is_an_error_that_names_both(run_demo, real, tidb, old):
    if old:  # as the tutorial's own code made it: neither unique texts nor the name of a model
        sql(tidb, "CREATE TABLE jinaai_tidb_demo_documents (id INTEGER NOT NULL AUTO_INCREMENT, "
                  "content VARCHAR(255) NOT NULL, content_vec VECTOR(768), PRIMARY KEY (id))")
    for verb in "Inserting", "Already stored":
        assert run_demo(env=real(tidb)).stdout.count(f"  - {verb}: ") == 2
    done = run_demo(env={**real(tidb), "JINAAI_MODEL": "jina-embeddings-v3"})
    assert_one_line_error(done, "jina-embeddings-v3", "jina-embeddings-v2-base-en", "drop")
    assert done.stdout == ""
    assert sql(tidb, "SELECT COUNT(*) FROM jinaai_tidb_demo_documents") == [(2,)]


def test_the_tutorials_own_query_works(jina_demo, engine):
    jina_demo.insert_documents(engine, jina_demo.TEXTS, jina_demo.embed_texts(jina_demo.TEXTS))
    query_embedding, Document = jina_demo.generate_embeddings("What is TiDB?"), jina_demo.Document
    with jina_demo.Session(engine) as session:
        doc, distance = session.query(
            Document, Document.content_vec.cosine_distance(query_embedding).label("distance")
        ).order_by("distance").limit(1).first()
        assert doc.content.startswith("TiDB is") and 0 < distance < 1


@pytest.mark.parametrize("size", [2, 512])
def test_one_statement_stores_texts_but_not_those_that_another_run_stored_meanwhile(
        jina_demo, engine_on_tidb, tidb, size):
    texts = ["a", *map(str, range(1, size))]
    jina_demo.insert_documents(engine_on_tidb, texts, [[1.0] * 768] * size)
    assert sum(count for _, count, _ in sent_to(tidb, "insert into")) == 2  # with that of "a"
    assert sql(tidb, "SELECT content FROM jinaai_tidb_demo_documents ORDER BY id") == [
        (content,) for content in texts]


def test_neither_the_list_nor_the_search_reads_vectors_back(run_demo, real, tidb):
    run_demo(env=real(tidb))
    selected = [statement.partition(" from ")[0] for statement, *_ in sent_to(tidb, "select")]
    assert sum("vec_cosine_distance" in columns for columns in selected) >= 2
    for columns in selected:
        assert columns.count("content_vec") == columns.count("vec_cosine_distance")


@pytest.mark.parametrize("left, right", [
    ("[1,0]", "[1,0]"), ("[1,0]", "[-2,0]"), ("[1,0]", "[0,3]"), ("[1,2,3]", "[4,5,6.5]")])
def test_the_stand_ins_distance_is_tidbs(demo, tidb, left, right):
    expression = f"SELECT VEC_COSINE_DISTANCE('{left}', '{right}')"
    with demo.create_stand_in_engine().connect() as connection:
        distance = connection.exec_driver_sql(expression).scalar()
    assert sql(tidb, expression) == [(pytest.approx(distance, abs=1e-7),)]


def test_a_lost_connection_between_statements_is_replaced(jina_demo, engine_on_tidb, tidb):
    for connection, in sql(tidb, "SELECT id FROM information_schema.processlist "
                                 "WHERE db = DATABASE() AND id <> CONNECTION_ID()"):
        sql(tidb, f"KILL TIDB {connection}")
    jina_demo.insert_documents(engine_on_tidb, ["b"], [[1.0] * 768])
    assert jina_demo.new_texts(engine_on_tidb, ["a", "b", "c"]) == ["c"]


def test_a_stored_text_is_looked_up_through_the_unique_index(jina_demo, engine_on_tidb, tidb):
    jina_demo.new_texts(engine_on_tidb, ["a", "b"])
    plan, = [plan for statement, _, plan in sent_to(tidb, "select") if " in (" in statement]
    assert ("Batch_Point_Get" in plan or "IndexRangeScan" in plan) and "FullScan" not in plan
