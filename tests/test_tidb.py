"""The engine, TLS, the table and the errors of a real TiDB, and of servers that are none."""

import json
import re
import threading
from multiprocessing.pool import ThreadPool
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest
from helpers import sql
from jina_server import embedding_of
from sqlalchemy import event, make_url
from test_demo import TEXTS, tutorial_output, without_distances

TABLE = "jinaai_tidb_demo_documents"
NEEDS = "; the user needs SELECT, INSERT, UPDATE and, for a new table, CREATE$"


@pytest.fixture
def run(jina_demo, monkeypatch):
    """Run the demo on the database of a URL; return the line of its error, "" for none."""
    def run(url):
        monkeypatch.setattr(jina_demo, "TIDB_DATABASE_URL", url)
        try:
            jina_demo.main()
        except SystemExit as end:
            assert end.code.startswith("error: ") and len(end.code.splitlines()) == 1
            return end.code
        return ""
    return run


@pytest.fixture
def on(demo, tidb):
    """The demo's engine for the test's database, without a table."""
    engine = demo.create_tidb_engine(tidb)
    yield engine
    engine.dispose()


# URLs that cannot be used.

@pytest.mark.parametrize("url", [
    "nonsense", "mysql+pymysql:", "postgresql://root:secret@127.0.0.1/test", "sqlite://", "://",
    "mysql+pymysql://root:secret@127.0.0.1:port/test", "mysql+pymysql://u:sec@ret@127.0.0.1/test",
    "mysql+pymysql://u:sec@ret/x@127.0.0.1:9/test", "mysql+pymysql://root:secret/abc",
    "mysql://root:secret@127.0.0.1:4000/test", "mysql+pymysql://root:secret@[::1/test"])
def test_a_url_that_is_none_is_an_error_that_shows_no_part_of_the_password(run, url):
    error = run(url)
    assert "must be mysql+pymysql://USER:PASSWORD@HOST:PORT/DATABASE" in error
    assert "sec" not in error and "ret" not in error


@pytest.mark.parametrize("option, named", [
    *((option, option.partition("=")[0]) for option in (
        "ssl_mode=ON", "ssl_capath=/x", "ssl_check_hostname=true", "nonsense=1", "SSL_CA=/x")),
    ("connect_timeout=soon", "soon"), ("ssl_cert=/no/such/file", "No such file"),
    ("ssl_ca=/no/ca.pem", "/no/ca.pem"),
    ("ssl_ca=/no/ca.pem&ssl_verify_cert=false", "/no/ca.pem")])
def test_an_option_that_cannot_be_used_is_named(run, option, named):
    error = run("mysql+pymysql://root:secret@127.0.0.1:9/test?" + option)
    assert named in error and "secret" not in error


def test_the_engine_checks_and_renews_its_connections_and_waits_a_bounded_time(demo):
    for query, both in ("", [60, 60]), ("?read_timeout=7", [7, 60]), ("?write_timeout=8", [60, 8]):
        engine = demo.create_tidb_engine("mysql+pymysql://root@127.0.0.1/test" + query)
        options = engine.dialect.create_connect_args(engine.url)[1]
        assert [options["read_timeout"], options["write_timeout"]] == both
    assert engine.pool._recycle == 300 and engine.pool._pre_ping and engine.hide_parameters


# What a server answers.

@pytest.mark.parametrize("changes, words", [
    ({"host": "::1", "port": 9}, "2003.*::1.*; check TIDB_DATABASE_URL"),
    ({"port": 9}, "2003.*; check TIDB_DATABASE_URL"),
    ({"password": "secret"}, "1045.*Access denied.*; check TIDB_DATABASE_URL"),
    ({"database": "nosuch"}, "1049.*nosuch.*; check TIDB_DATABASE_URL"),
    ({"database": ""}, "(?i)database"), ({"query": {"charset": "binary"}}, "binary")])
def test_a_url_that_does_not_fit_the_server_is_an_error(run, tidb_server, changes, words):
    error = run(make_url(tidb_server).set(**changes).render_as_string(hide_password=False))
    assert re.search(words, error) and "secret" not in error


@pytest.mark.parametrize("greeting, words", [
    (b"", "2013.*; check TIDB"), (b"SSH-2.0\r\n", "Packet"), (b"\0" * 99, "IndexError")])
def test_another_protocol_at_the_port_is_an_error(run, greeting, words):
    class Greeter(BaseRequestHandler):
        def handle(self):
            self.request.sendall(greeting)

    with ThreadingTCPServer(("127.0.0.1", 0), Greeter) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        error = run(f"mysql+pymysql://root:secret@127.0.0.1:{server.server_address[1]}/test")
        server.shutdown()
    assert re.search(words, error) and "secret" not in error


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


@pytest.mark.parametrize("privileges, words", [
    ("SELECT", "1142.*INSERT command denied.*" + NEEDS), ("SELECT, INSERT, UPDATE", "^$")])
def test_a_user_without_create_can_use_a_table_that_exists(run, tidb, user, privileges, words):
    url = user(privileges)
    assert re.search("1142.*CREATE command denied.*" + NEEDS, run(url))
    assert run(tidb) == "" and run(url) == ""  # when all is stored, SELECT will do
    sql(tidb, "DELETE FROM " + TABLE)
    assert re.search(words, run(url))


def test_a_user_without_privileges_is_told_which_are_needed(run, user):
    assert re.search("1044.*" + NEEDS, run(str(make_url(user("SELECT")).set(database="mysql"))))


@pytest.mark.parametrize("columns, stored, words", [
    ("content VARCHAR(255), content_vec VECTOR(3)", [], "1105.*; .*another table.*DIMENSIONS"),
    ("content VARCHAR(255), content_vec VECTOR(3)", TEXTS, "1105.*; .*another table.*DIMENSIONS"),
    ("content VARCHAR(20), content_vec VECTOR(768)", [], "1406[^;]*$"),
    ("content VARCHAR(255)", [], "1054[^;]*content_vec[^;]*$")])
def test_a_table_of_another_form_is_an_error_without_texts_or_vectors(
        run, tidb, columns, stored, words):
    sql(tidb, f"CREATE TABLE {TABLE} (id INT PRIMARY KEY AUTO_INCREMENT, {columns})")
    for text in stored:
        sql(tidb, f"INSERT INTO {TABLE} VALUES (NULL, :text, '[1,2,3]')", text=text)
    error = run(tidb)
    assert re.search(words, error)
    assert "best-in-class" not in error and "[" not in error and len(error) < 250


def test_a_read_only_tidb_is_an_error_that_says_so(run, own_server):
    sql(own_server.url, "SET GLOBAL tidb_restricted_read_only = ON")
    try:
        error = run(own_server.url)
    finally:
        sql(own_server.url, "SET GLOBAL tidb_restricted_read_only = OFF")
        sql(own_server.url, "SET GLOBAL tidb_super_read_only = OFF")
    assert re.search("1836.*; TiDB is read-only", error)
    assert run(own_server.url) == ""


def test_a_server_that_is_no_tidb_is_an_error_that_says_so(run, mariadb):
    assert run(mariadb).endswith("; this is not TiDB, or older than 8.4")


# TLS: with any ssl_ option, only the right server connects.

def cipher(demo, server, query, host="localhost", user="root"):
    """Return the TLS cipher of the connection that the demo makes, "" without TLS."""
    engine = demo.create_tidb_engine(f"mysql+pymysql://{user}@{host}:{server.port}/test?{query}")
    with engine.connect() as connection:
        return connection.exec_driver_sql("SHOW STATUS LIKE 'Ssl_cipher'").fetchone()[1]


WITHOUT_CA = [
    "ssl_verify_cert&ssl_verify_identity", "SSL_VERIFY_CERT", "ssl_ca=", "ssl_disabled=true",
    "ssl_disabled=false", "ssl_verify_identity=false", "read_timeout=9&ssl_verify_identity=on",
    "ssl_verify_cert=1;ssl_verify_identity=1", "ssl_verify_cert=true&ssl_verify_identity=true",
    "ssl_verify_cert=false&ssl_verify_cert=true", "%73sl_verify_cert=true",
    *("ssl_verify_cert=" + value for value in ("true", "TRUE", "on", "1", "y", "no", "false"))]
WITH_CA = ["ssl_ca={}", "ssl_ca={}&ssl_verify_cert=true&ssl_verify_identity=true", "%73sl_ca={}",
           "ssl_verify_cert=false&ssl_ca={}", "ssl_ca={}&ssl_disabled=true"]


@pytest.mark.parametrize("query", [*WITHOUT_CA, *WITH_CA])
def test_with_any_ssl_option_only_the_right_server_connects(
        demo, tls, own_server, monkeypatch, query):
    good, bad = tls.folder / "ca.pem", tls.folder / "other.pem"
    for ca, host in (bad, "localhost"), (good, "127.0.0.1"), (good, "localhost"):
        certifis = good if (ca is bad) == (query in WITH_CA) else bad  # which ssl_ca replaces
        monkeypatch.setattr(demo.requests.utils, "DEFAULT_CA_BUNDLE_PATH", certifis)
        if (ca, host) == (good, "localhost"):
            assert cipher(demo, tls, query.format(ca), host)
        else:
            with pytest.raises(demo.exc.DBAPIError, match="CERTIFICATE_VERIFY_FAILED"):
                cipher(demo, tls, query.format(ca), host)
    with pytest.raises(demo.exc.DBAPIError, match="SSL is required"):
        cipher(demo, own_server, query.format(good))


def test_without_an_ssl_option_it_connects_to_any_server(demo, tls, own_server):
    assert cipher(demo, tls, "read_timeout=9", "127.0.0.1") and not cipher(demo, own_server, "")


def test_a_client_certificate_is_sent_beside_verification(demo, tls):
    sql(tls.url, "CREATE USER client REQUIRE X509")
    sql(tls.url, "GRANT SELECT ON test.* TO client")
    query, client = f"ssl_ca={tls.folder / 'ca.pem'}", tls.folder / "client.pem"
    assert cipher(demo, tls, f"{query}&ssl_cert={client}&ssl_key={client}", user="client")
    with pytest.raises(demo.exc.DBAPIError, match="1045"):
        cipher(demo, tls, query, user="client")


# The table, and what is stored in it.

def test_two_first_runs_at_once_create_one_table(demo, on, tidb):
    both = threading.Barrier(2, timeout=30)
    def meet(connection, cursor, statement, *more):
        if "CREATE TABLE" in statement:  # so both have looked by now
            both.wait()

    event.listen(on, "before_cursor_execute", meet)
    with ThreadPool(2) as runs:
        runs.map(demo.create_table, [on, on])
    assert sql(tidb, "SHOW TABLES") == [(TABLE,)]


def test_the_table_is_the_tutorials_with_each_text_once(demo, on, tidb):
    demo.create_table(on)
    created = sql(tidb, "SHOW CREATE TABLE " + TABLE)[0][1]
    assert re.findall(r"(?m)^  `(\w+)` (.+?),?$", created) == [
        ("id", "int NOT NULL AUTO_INCREMENT"),
        ("content", "varchar(255) COLLATE utf8mb4_0900_bin NOT NULL"),
        ("content_vec", "vector(768) NOT NULL COMMENT 'hnsw(distance=cosine)'")]
    assert "PRIMARY KEY (`id`)" in created and "UNIQUE KEY `content` (`content`)" in created
    assert "COMMENT=" not in created


def test_each_model_has_a_table_of_its_own(run_demo, on_tidb, tidb):
    models = {"jina-embeddings-v2-base-en": TABLE,
              "jina-embeddings-v3": TABLE + "_jina_embeddings_v3"}
    for verb in "Inserting", "Already stored":
        for model in models:
            output = run_demo(env={**on_tidb, "JINAAI_MODEL": model}).stdout
            assert without_distances(output) == tutorial_output("TiDB", verb)
    assert sorted(sql(tidb, "SHOW TABLES")) == [(table,) for table in models.values()]
    for model, table in models.items():
        task = "retrieval.passage" if model.endswith("v3") else None
        assert [json.loads(vector) for vector, in sql(
            tidb, f"SELECT VEC_AS_TEXT(content_vec) FROM {table} ORDER BY id")] == [
                pytest.approx(embedding_of(text, model, 768, task), abs=1e-6) for text in TEXTS]


def test_a_table_that_the_tutorials_own_code_made_works(run, tidb):
    sql(tidb, f"CREATE TABLE {TABLE} (id INTEGER NOT NULL AUTO_INCREMENT, "
              "content VARCHAR(255) NOT NULL, content_vec VECTOR(768), PRIMARY KEY (id))")
    assert run(tidb) == run(tidb) == ""
    assert sql(tidb, f"SELECT content FROM {TABLE} ORDER BY id") == [(text,) for text in TEXTS]


@pytest.mark.parametrize("null, mode", [("", "STRICT_TRANS_TABLES"), ("NOT NULL", "ANSI_QUOTES")])
def test_a_missing_embedding_is_an_error_whatever_the_table_and_the_mode(demo, tidb, null, mode):
    sql(tidb, f"CREATE TABLE {TABLE} (id INT PRIMARY KEY AUTO_INCREMENT, content VARCHAR(255), "
              f"content_vec VECTOR(768) {null})")
    engine = demo.create_tidb_engine(f"{tidb}?sql_mode={mode}")
    with pytest.raises((ValueError, demo.exc.SQLAlchemyError)):
        demo.insert_documents(engine, ["a", "b"], [[1.0] * 768, None])
    assert demo.new_texts(engine, ["a", "b"]) == ["a", "b"]


def test_the_tutorials_own_query_works(jina_demo, engine):
    jina_demo.insert_documents(engine, jina_demo.TEXTS, jina_demo.embed_texts(jina_demo.TEXTS))
    query_embedding, Document = jina_demo.generate_embeddings("What is TiDB?"), jina_demo.Document
    with jina_demo.Session(engine) as session:
        doc, distance = session.query(
            Document, Document.content_vec.cosine_distance(query_embedding).label("distance")
        ).order_by("distance").limit(1).first()
        assert doc.content.startswith("TiDB is") and 0 < distance < 1


def test_5000_texts_are_stored_by_one_call_all_or_none(demo, on, tidb):
    demo.create_table(on)
    texts = [f"text {number}" for number in range(5000)]
    with pytest.raises(demo.exc.DBAPIError, match="1406"):
        demo.insert_documents(on, [*texts[:1000], "x" * 256], [[1.0] * 768] * 1001)
    assert demo.new_texts(on, texts) == texts
    demo.insert_documents(on, texts, [[1.0] * 768] * 5000)
    assert demo.new_texts(on, [*texts, "new"]) == ["new"]


def test_loaders_of_the_same_texts_in_opposite_orders_do_not_fail(demo, on):
    demo.create_table(on)
    texts = [f"text {number}" for number in range(512)]
    with ThreadPool(4) as loaders:
        loaders.map(lambda order: demo.insert_documents(on, order, [[0.1234567] * 768] * 512),
                    [texts, texts[::-1]] * 2)
    assert demo.new_texts(on, texts) == []


def sent_to(url, start):
    """Return the statements that TiDB got and that start with *start*, and their plans."""
    return sql(url, "SELECT digest_text, plan FROM information_schema.statements_summary "
                    "WHERE schema_name = DATABASE() AND digest_text LIKE :start", start=start + "%")


def test_neither_the_list_nor_the_search_reads_vectors_back(run, tidb):
    run(tidb)
    statements = [statement for statement, _ in sent_to(tidb, "select")]
    assert sum(statement.endswith(". `id` limit ?") for statement in statements) == 1  # the list
    selected = [statement.partition(" from ")[0] for statement in statements]
    assert sum("vec_cosine_distance" in columns for columns in selected) == 2
    for columns in selected:
        assert columns.count("content_vec") == columns.count("vec_cosine_distance")


def test_a_stored_text_is_looked_up_through_the_unique_index(demo, on, tidb):
    demo.create_table(on)
    demo.insert_documents(on, ["a"], [[1.0] * 768])
    demo.new_texts(on, ["a", "b"])
    plan, = [plan for statement, plan in sent_to(tidb, "select") if " in (" in statement]
    assert ("Batch_Point_Get" in plan or "IndexRangeScan" in plan) and "FullScan" not in plan


@pytest.mark.parametrize("left, right", [
    ("[1,0]", "[1,0]"), ("[1,0]", "[-2,0]"), ("[1,0]", "[0,3]"), ("[1,2,3]", "[4,5,6.5]")])
def test_the_stand_ins_distance_is_tidbs(demo, tidb, left, right):
    expression = f"SELECT VEC_COSINE_DISTANCE('{left}', '{right}')"
    with demo.create_stand_in_engine().connect() as connection:
        distance = connection.exec_driver_sql(expression).scalar()
    assert sql(tidb, expression) == [(pytest.approx(distance, abs=1e-7),)]


def test_a_lost_connection_between_statements_is_replaced(demo, on, tidb):
    demo.create_table(on)
    for connection, in sql(tidb, "SELECT id FROM information_schema.processlist "
                                 "WHERE db = DATABASE() AND id <> CONNECTION_ID()"):
        sql(tidb, f"KILL TIDB {connection}")
    demo.insert_documents(on, ["b"], [[1.0] * 768])
    assert demo.new_texts(on, ["a", "b", "c"]) == ["a", "c"]
