"""Steps 2 to 5: the engine, TLS, the table, and what is stored and found, with their errors."""

import json
import re
import threading
import time
import traceback
from multiprocessing.pool import ThreadPool
from socketserver import BaseRequestHandler, ThreadingTCPServer
from types import SimpleNamespace

import pytest
import sqlalchemy.pool.base
from helpers import QUESTION, TABLE, TEXTS, TIDB_TEXT, sql, tutorial_output, without_distances
from jina_server import cosine_distance, embedding_of
from sqlalchemy import QueuePool, create_engine, event, func, make_url, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

ONES = [1.0] * 768
TWOS = [1.0, 2.0] * 384
TOO_SHORT = [1.0] * 3

# For what is an error before any database is asked.
IN_MEMORY = pytest.mark.parametrize("database_url", [""], ids=["in-memory"])


@pytest.fixture
def on(demo, tidb):
    """The demo's engine for the test's database on TiDB, without a table."""
    engine = demo.create_tidb_engine(tidb)
    yield engine
    engine.dispose()


def numbered(count):
    """So many texts."""
    return [f"text {number}" for number in range(count)]


# %% Step 2. URLs that cannot be used
NO_URLS = {
    "a word": "nonsense",
    "no host": "mysql+pymysql:",
    "no database": "mysql+pymysql://root:secret@127.0.0.1:4000",
    "another database": "postgresql://root:secret@127.0.0.1/test",
    "SQLite": "sqlite://",
    "another driver": "mysql://root:secret@127.0.0.1:4000/test",
    "a port that is none": "mysql+pymysql://root:secret@127.0.0.1:port/test",
    "half of an IPv6 address": "mysql+pymysql://root:secret@[::1/test",
    "an @ in the password": "mysql+pymysql://root:sec@ret@127.0.0.1/test",
    "an @ and a / in the password": "mysql+pymysql://root:sec@ret/x@127.0.0.1:9/test",
    "no @": "mysql+pymysql://root:secret/abc",
}


@pytest.mark.parametrize("url", NO_URLS.values(), ids=NO_URLS)
def test_a_url_of_another_form_is_an_error_without_the_password(demo, url):
    with pytest.raises(ValueError) as caught:
        demo.create_tidb_engine(url)

    form = "TIDB_DATABASE_URL must be mysql+pymysql://USER:PASSWORD@HOST:PORT/DATABASE"
    assert form in demo.one_line(caught.value)
    logged = "".join(traceback.format_exception(None, caught.value, caught.value.__traceback__))
    assert "sec" not in logged
    assert "ret" not in logged


WRONG_OPTIONS = {  # and what the error names
    "ssl_mode=ON": "ssl_mode",
    "ssl_capath=/x": "ssl_capath",
    "SSL_CA=/x": "SSL_CA",
    "SSL_VERIFY_CERT=true": "SSL_VERIFY_CERT",
    "nonsense=1": "nonsense",
    "connect_timeout=soon": "soon",
    "ssl_cert=/no/such/file": "No such file",
}


@pytest.mark.parametrize("option", WRONG_OPTIONS)
def test_an_option_that_cannot_be_used_is_an_error(run_main, option):
    error = run_main(TIDB_DATABASE_URL="mysql+pymysql://root:secret@127.0.0.1:9/test?" + option)

    assert WRONG_OPTIONS[option] in error
    assert "secret" not in error


@pytest.mark.parametrize("option", ["", "&ssl_verify_cert=false", "&ssl_disabled=true"])
def test_a_missing_ssl_ca_is_named_and_can_be_left_out(demo, option):
    url = "mysql+pymysql://root@127.0.0.1:9/test?ssl_ca=/no/ca.pem" + option

    with pytest.raises(ValueError, match="/no/ca.pem.*leave ssl_ca out"):
        demo.create_tidb_engine(url)


# %% Step 2. Servers that do not answer as TiDB does
@pytest.fixture
def start_server(request):
    """Start a server that greets with some bytes; return the URL of a database on it."""

    def start(greeting, options=""):
        class Greeter(BaseRequestHandler):
            def handle(self):
                self.request.sendall(greeting)
                self.request.settimeout(20)
                self.request.recv(9999)  # until the client gives up

        server = ThreadingTCPServer(("127.0.0.1", 0), Greeter)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        request.addfinalizer(server.shutdown)
        port = server.server_address[1]
        return f"mysql+pymysql://root:secret@127.0.0.1:{port}/test?{options}"

    return start


def test_a_server_of_another_protocol_is_an_error(run_main, start_server):
    error = run_main(TIDB_DATABASE_URL=start_server(b"SSH-2.0-OpenSSH_9.2\r\n" * 99))

    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert "secret" not in error


def test_a_server_that_does_not_answer_is_an_error_when_the_read_timeout_is_over(
        run_main, start_server):
    started = time.monotonic()

    error = run_main(TIDB_DATABASE_URL=start_server(b"", "read_timeout=1"))

    assert "2013" in error
    assert 0.9 < time.monotonic() - started < 5


TIMEOUTS = {  # the options of a URL, and the seconds to wait for an answer and for a sending
    "": ("60", "60"),
    "read_timeout=7": ("7", "60"),
    "write_timeout=8": ("60", "8"),
}


@pytest.mark.parametrize("options", TIMEOUTS)
def test_waiting_ends_after_60_seconds_unless_the_url_says_otherwise(demo, options):
    engine = demo.create_tidb_engine("mysql+pymysql://root@127.0.0.1/test?" + options)

    query = engine.url.query
    assert (query["read_timeout"], query["write_timeout"]) == TIMEOUTS[options]


MISFITS = {  # changes of the URL, and what TiDB or PyMySQL says
    "no server at the port": ({"port": 9}, "2003"),
    "an IPv6 address": ({"host": "::1", "port": 9}, "2003.*::1"),
    "a wrong password": ({"password": "secret"}, "1045.*Access denied"),
    "no such database": ({"database": "nosuch"}, "1049.*nosuch"),
}


@pytest.mark.parametrize(("changes", "words"), MISFITS.values(), ids=MISFITS)
def test_a_url_that_does_not_fit_the_server_gives_the_number_and_the_place_to_look(
        run_main, tidb_server, changes, words):
    url = make_url(tidb_server).set(**changes)

    error = run_main(TIDB_DATABASE_URL=url.render_as_string(hide_password=False))

    assert re.fullmatch(rf"error: \({words}.*\); see Troubleshooting in README.md", error)
    assert "secret" not in error


def test_a_server_that_is_no_tidb_is_an_error_with_its_number(run_main, mariadb):
    error = run_main(TIDB_DATABASE_URL=mariadb)

    assert re.fullmatch(r"error: \(\d+, .*\); see Troubleshooting in README.md", error)


# %% Step 2. TLS: with any ssl option, only the right server connects
def connect(demo, server, options, host="localhost", user="root"):
    """Connect as the demo does; return the TLS cipher, "" without TLS."""
    url = f"mysql+pymysql://{user}@{host}:{server.port}/test?{options}"
    engine = demo.create_tidb_engine(url)
    with engine.connect() as connection:
        _, cipher = connection.exec_driver_sql("SHOW STATUS LIKE 'Ssl_cipher'").one()
    engine.dispose()
    return cipher


# Each of these is meant to be TLS, or to turn a part of it off, which nothing does.
TLS_OPTIONS = [
    "ssl_verify_cert",
    "ssl_verify_cert&ssl_verify_identity",
    "ssl_verify_cert=true&ssl_verify_identity=true",
    "ssl_verify_cert=TRUE",
    "ssl_verify_cert=1;ssl_verify_identity=1",
    "ssl_verify_cert=false",
    "ssl_verify_cert=false&ssl_verify_cert=true",
    "ssl_verify_identity=false",
    "ssl_verify_identity=on&read_timeout=9",
    "ssl_disabled=true",
    "ssl_disabled=false",
    "SSL_VERIFY_CERT",
    "ssl_ca=",
]


@pytest.mark.parametrize("options", TLS_OPTIONS)
def test_any_ssl_option_refuses_a_server_that_no_public_authority_knows(demo, tls, options):
    with pytest.raises(DBAPIError, match="CERTIFICATE_VERIFY_FAILED"):
        connect(demo, tls, options)


@pytest.mark.parametrize("options", TLS_OPTIONS)
def test_any_ssl_option_refuses_a_server_without_tls(demo, own_server, options):
    with pytest.raises(DBAPIError, match="SSL is required"):
        connect(demo, own_server, options)


# The same beside the certificate of an authority.
CA_OPTIONS = [
    "ssl_ca={}",
    "ssl_ca={}&ssl_verify_cert=true&ssl_verify_identity=true",
    "ssl_ca={}&ssl_verify_cert=false&ssl_verify_identity=false",
    "ssl_ca={}&ssl_disabled=true",
    "ssl_verify_cert&ssl_ca={}",
]


@pytest.mark.parametrize("options", CA_OPTIONS)
def test_with_the_right_ssl_ca_it_connects_over_tls(demo, tls, options):
    assert connect(demo, tls, options.format(tls.folder / "ca.pem"))


@pytest.mark.parametrize("options", CA_OPTIONS)
def test_the_ssl_ca_of_another_authority_is_refused(demo, tls, options):
    with pytest.raises(DBAPIError, match="CERTIFICATE_VERIFY_FAILED"):
        connect(demo, tls, options.format(tls.folder / "other.pem"))


@pytest.mark.parametrize("options", CA_OPTIONS)
def test_a_certificate_for_another_host_is_refused(demo, tls, options):
    with pytest.raises(DBAPIError, match="CERTIFICATE_VERIFY_FAILED"):
        connect(demo, tls, options.format(tls.folder / "ca.pem"), host="127.0.0.1")


def test_without_ssl_ca_the_certificates_of_requests_are_used(run_demo, tls, jina, tmp_path):
    # requests asks the package certifi for them.
    certificates = str(tls.folder / "ca.pem")
    (tmp_path / "certifi.py").write_text(f"def where():\n    return {certificates!r}\n")

    done = run_demo(env={
        "PYTHONPATH": str(tmp_path),
        "JINAAI_API_KEY": jina.key,
        "JINAAI_API_URL": jina.url,
        "TIDB_DATABASE_URL": f"mysql+pymysql://root@localhost:{tls.port}/test?ssl_verify_cert",
    })

    assert done.stderr == ""
    assert without_distances(done.stdout) == tutorial_output("TiDB")


def test_without_an_ssl_option_it_connects_to_a_server_without_tls(demo, own_server):
    assert connect(demo, own_server, "read_timeout=9") == ""


def test_a_client_certificate_is_sent_beside_verification(demo, tls):
    client = tls.folder / "client.pem"
    sql(tls.url, "CREATE USER client REQUIRE X509")
    sql(tls.url, "GRANT SELECT ON test.* TO client")
    verified = f"ssl_ca={tls.folder / 'ca.pem'}"

    assert connect(demo, tls, f"{verified}&ssl_cert={client}&ssl_key={client}", user="client")
    with pytest.raises(DBAPIError, match="1045"):
        connect(demo, tls, verified, user="client")


# %% Step 2. The engine's connections
def connection_id(engine):
    """The number that TiDB gives to a connection of the engine."""
    with engine.connect() as connection:
        return connection.scalar(select(func.connection_id()))


def test_a_connection_that_broke_is_replaced(on, tidb):
    broken = connection_id(on)
    sql(tidb, f"KILL TIDB {broken}")

    assert connection_id(on) != broken


def test_a_connection_is_used_again_for_five_minutes(on, monkeypatch):
    first = connection_id(on)
    assert connection_id(on) == first

    later = SimpleNamespace(time=lambda: time.time() + 301)
    monkeypatch.setattr(sqlalchemy.pool.base, "time", later)

    assert connection_id(on) != first


def test_a_pool_that_is_used_up_is_an_error_in_one_line(demo):
    engine = create_engine(
        "sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01)

    with engine.connect(), pytest.raises(SQLAlchemyError) as caught:
        demo.new_texts(engine, ["a"])

    line = demo.one_line(caught.value)
    assert line.startswith("QueuePool limit")
    assert "\n" not in line


# %% Step 3. The table
def test_each_text_is_stored_once_in_a_table_of_the_tutorials_form(demo, on, tidb):
    demo.create_table(on)

    [(_, created)] = sql(tidb, "SHOW CREATE TABLE " + TABLE)
    assert re.findall(r"^  `(\w+)` (.+?),?$", created, re.M) == [
        ("id", "int NOT NULL AUTO_INCREMENT"),
        ("content", "varchar(255) COLLATE utf8mb4_0900_bin NOT NULL"),
        ("content_vec", "vector(768) NOT NULL"),
    ]
    assert "PRIMARY KEY (`id`)" in created
    assert "UNIQUE KEY `content` (`content`)" in created


def test_creating_a_table_that_exists_changes_nothing(demo, engine):
    demo.insert_documents(engine, ["a"], [ONES])

    demo.create_table(engine)

    assert demo.new_texts(engine, ["a", "b"]) == ["b"]


def test_two_first_runs_at_once_create_one_table(demo, on, tidb):
    both = threading.Barrier(2, timeout=30)

    def meet(connection, cursor, statement, *more):
        if "CREATE TABLE" in statement:  # so both have looked by now
            both.wait()

    event.listen(on, "before_cursor_execute", meet)
    with ThreadPool(2) as runs:
        runs.map(demo.create_table, [on, on])

    assert sql(tidb, "SHOW TABLES") == [(TABLE,)]


@pytest.mark.parametrize(("model", "table"), [
    ("jina-embeddings-v2-base-en", TABLE),
    ("jina-embeddings-v3", TABLE + "_jina_embeddings_v3"),
    ("Org/model.v1", TABLE + "_Org_model_v1"),
])
def test_each_model_has_a_table_of_its_own(demo, monkeypatch, model, table):
    monkeypatch.setattr(demo, "JINAAI_MODEL", model)

    assert demo.name_table(TABLE) == table


def test_another_model_starts_with_no_text_stored(run_main, run_demo, on_tidb, tidb):
    run_main(TIDB_DATABASE_URL=tidb)

    done = run_demo(env={**on_tidb, "JINAAI_MODEL": "jina-embeddings-v3"})

    assert without_distances(done.stdout) == tutorial_output("TiDB", "Inserting")
    table = TABLE + "_jina_embeddings_v3"
    [(vector,)] = sql(tidb, f"SELECT VEC_AS_TEXT(content_vec) FROM {table} ORDER BY id LIMIT 1")
    expected = embedding_of(TEXTS[0], "jina-embeddings-v3", 768, "retrieval.passage")
    assert json.loads(vector) == pytest.approx(expected, abs=1e-6)


def test_a_table_that_the_tutorials_own_code_made_works(run_main, tidb):
    sql(tidb, f"CREATE TABLE {TABLE} (id INTEGER NOT NULL AUTO_INCREMENT, "
              "content VARCHAR(255) NOT NULL, content_vec VECTOR(768), PRIMARY KEY (id))")

    assert run_main(TIDB_DATABASE_URL=tidb) == ""
    assert run_main(TIDB_DATABASE_URL=tidb) == ""
    assert sql(tidb, f"SELECT content FROM {TABLE} ORDER BY id") == [(text,) for text in TEXTS]


OTHER_TABLES = {  # columns, and the number of TiDB's error
    "vectors of 3 dimensions": ("content VARCHAR(255), content_vec VECTOR(3)", "1105"),
    "short texts": ("content VARCHAR(20), content_vec VECTOR(768)", "1406"),
    "no vectors": ("content VARCHAR(255)", "1054"),
}


@pytest.mark.parametrize(("columns", "number"), OTHER_TABLES.values(), ids=OTHER_TABLES)
def test_a_table_of_another_form_is_an_error_without_texts_or_vectors(
        run_main, tidb, columns, number):
    sql(tidb, f"CREATE TABLE {TABLE} (id INT PRIMARY KEY AUTO_INCREMENT, {columns})")

    error = run_main(TIDB_DATABASE_URL=tidb)

    assert error.startswith(f"error: ({number}, ")
    assert "best-in-class" not in error
    assert "0." not in error


@pytest.fixture
def user(tidb):
    """Create a user with *privileges* on the test's database; return the URL for the user."""
    database = make_url(tidb).database
    name = "u" + database[-12:]

    def create(privileges):
        sql(tidb, f"CREATE USER '{name}'")
        sql(tidb, f"GRANT {privileges} ON {database}.* TO '{name}'")
        return make_url(tidb).set(username=name, password=None).render_as_string()

    yield create
    sql(tidb, f"DROP USER IF EXISTS '{name}'")


def test_a_user_who_may_not_create_tables_can_use_one_that_exists(run_main, tidb, user):
    limited = user("SELECT, INSERT, UPDATE")

    assert re.search("1142.*CREATE", run_main(TIDB_DATABASE_URL=limited))
    run_main(TIDB_DATABASE_URL=tidb)
    sql(tidb, "DELETE FROM " + TABLE)

    assert run_main(TIDB_DATABASE_URL=limited) == ""
    assert sql(tidb, f"SELECT COUNT(*) FROM {TABLE}") == [(2,)]


def test_a_user_who_may_only_read_can_search_what_is_stored(run_main, tidb, user):
    run_main(TIDB_DATABASE_URL=tidb)

    assert run_main(TIDB_DATABASE_URL=user("SELECT")) == ""


# %% Step 4. What is stored already
def test_new_texts_are_those_that_are_not_stored_once_and_in_their_order(demo, engine):
    demo.insert_documents(engine, ["a", "b"], [ONES, ONES])

    assert demo.new_texts(engine, ["d", "a", "c", "d", "b"]) == ["d", "c"]


def test_more_texts_than_a_query_has_are_looked_up(demo, engine):
    texts = numbered(600)
    demo.insert_documents(engine, texts[::2], [ONES] * 300)

    assert demo.new_texts(engine, texts) == texts[1::2]


def test_without_texts_nothing_is_new_and_nothing_stored(demo, engine):
    demo.insert_documents(engine, [], [])

    assert demo.new_texts(engine, []) == []
    assert demo.find_documents(engine, ONES, 5) == []


def texts_of(*texts):
    """A generator of texts, which can be read once."""
    yield from texts


def test_generators_can_be_looked_up_and_stored(demo, engine):
    assert demo.new_texts(engine, texts_of("one", "two")) == ["one", "two"]

    demo.insert_documents(engine, texts_of("one", "two"), texts_of(ONES, TWOS))

    assert demo.new_texts(engine, texts_of("one", "two", "three")) == ["three"]


NO_TEXTS = {
    "one text": "ab",
    "bytes": b"ab",
    "None among texts": ["a", None],
    "an empty cell of pandas": ["a", float("nan")],
    "a number": ["a", 1],
    "bytes among texts": ["a", b"b"],
}


@IN_MEMORY
@pytest.mark.parametrize("texts", NO_TEXTS.values(), ids=NO_TEXTS)
def test_looking_up_what_is_no_list_of_texts_is_a_type_error(demo, engine, texts):
    with pytest.raises(TypeError, match="expected a list of texts"):
        demo.new_texts(engine, texts)


@IN_MEMORY
@pytest.mark.parametrize("texts", NO_TEXTS.values(), ids=NO_TEXTS)
def test_storing_what_is_no_list_of_texts_is_a_type_error(demo, engine, texts):
    with pytest.raises(TypeError, match="expected a list of texts"):
        demo.insert_documents(engine, texts, [ONES, ONES])

    assert demo.new_texts(engine, ["a"]) == ["a"]


UNEQUAL = {
    "an embedding too few": [ONES] * 299,
    "an embedding too many": [ONES] * 301,
    "None at the end": [ONES] * 299 + [None],
    "None beside one too many": [ONES] * 300 + [None],
}


@IN_MEMORY
@pytest.mark.parametrize("embeddings", UNEQUAL.values(), ids=UNEQUAL)
def test_a_missing_embedding_is_an_error_before_anything_is_stored(demo, engine, embeddings):
    texts = numbered(300)

    with pytest.raises(ValueError, match="each text needs one embedding"):
        demo.insert_documents(engine, texts, embeddings)

    assert demo.new_texts(engine, texts) == texts


# %% Step 4. How it is stored
ALIKE = [
    "a",
    "A",
    "\u00e4",
    "a ",
    " a",
    "a\t",
    "caf\u00e9",
    "cafe\u0301",
    "\uff41",
    "\U0001f600",
    "\U0001f601",
    "'a' \"a\" \\ % %s :a",
    "\u6587" * 255,
]


def test_texts_that_are_alike_are_stored_side_by_side(demo, engine):
    demo.insert_documents(engine, ALIKE, [ONES] * len(ALIKE))

    assert demo.new_texts(engine, ALIKE) == []
    found = demo.find_documents(engine, ONES, 99)
    assert sorted(text for text, _ in found) == sorted(ALIKE)


def test_a_stored_text_stays_as_it_is(demo, engine):
    demo.insert_documents(engine, ["a"], [ONES])

    demo.insert_documents(engine, ["b", "a", "b"], [TWOS, TWOS, ONES])

    distance = cosine_distance(ONES, TWOS)
    assert demo.find_documents(engine, ONES, 5) == [
        ("a", pytest.approx(0, abs=1e-6)),
        ("b", pytest.approx(distance, abs=1e-6)),
    ]


def test_two_programs_that_store_the_same_texts_at_once_do_not_fail(demo, on, tidb):
    demo.create_table(on)
    texts = numbered(300)

    with ThreadPool(4) as programs:
        programs.map(lambda number: demo.insert_documents(on, texts, [ONES] * 300), range(4))

    assert sql(tidb, f"SELECT COUNT(*) FROM {TABLE}") == [(300,)]


def test_after_an_error_new_texts_tells_what_is_left(demo, engine):
    texts = numbered(600)

    with pytest.raises(SQLAlchemyError):
        demo.insert_documents(engine, texts, [*[ONES] * 550, TOO_SHORT, *[ONES] * 49])
    left = demo.new_texts(engine, texts)
    demo.insert_documents(engine, left, [ONES] * len(left))

    assert texts[0] not in left
    assert texts[550:] == left[-50:]
    assert len(left) < 300
    assert demo.new_texts(engine, texts) == []


def test_5000_texts_are_stored_where_a_transaction_has_at_most_10_mib(demo, own_server):
    engine = demo.create_tidb_engine(own_server.url)
    demo.create_table(engine)

    demo.insert_documents(engine, numbered(5000), [ONES] * 5000)

    assert sql(own_server.url, f"SELECT COUNT(*) FROM {TABLE}") == [(5000,)]
    engine.dispose()


def test_a_text_of_more_than_255_characters_is_an_error_of_tidb(demo, on):
    demo.create_table(on)

    with pytest.raises(SQLAlchemyError) as caught:
        demo.insert_documents(on, ["secret " * 50], [ONES])

    assert demo.one_line(caught.value).startswith('(1406, "Data too long')


def test_an_error_shows_no_text_and_no_vector(demo, engine):
    with pytest.raises(SQLAlchemyError) as caught:
        demo.insert_documents(engine, ["secret"], [[0.125] * 3])

    assert "secret" not in str(caught.value)
    assert "0.125" not in str(caught.value)
    assert "dimensions" in demo.one_line(caught.value)


def test_stored_texts_are_looked_up_through_the_unique_index(demo, on, tidb):
    demo.create_table(on)
    demo.insert_documents(on, ["a"], [ONES])

    demo.new_texts(on, ["a", "b"])

    [(plan,)] = sql(tidb, "SELECT plan FROM information_schema.statements_summary "
                          "WHERE schema_name = DATABASE() AND digest_text LIKE '% in (%'")
    assert "index:content" in plan
    assert "FullScan" not in plan


# %% Step 5. The search
def test_the_nearest_texts_come_first_with_their_distances(jina_demo, engine):
    texts = ["red apple", "green apple", "blue sky"]
    jina_demo.insert_documents(engine, texts, jina_demo.embed_texts(texts))

    found = jina_demo.find_documents(engine, embedding_of("red apple"), 2)

    distance = cosine_distance(embedding_of("red apple"), embedding_of("green apple"))
    assert found == [
        ("red apple", pytest.approx(0, abs=1e-6)),
        ("green apple", pytest.approx(distance, abs=1e-6)),
    ]


def test_a_distance_is_0_for_the_same_direction_and_2_for_the_opposite_one(demo, engine):
    east, north, west = [1.0, 0.0] * 384, [0.0, 1.0] * 384, [-1.0, 0.0] * 384
    demo.insert_documents(engine, ["west", "east", "north"], [west, east, north])

    found = demo.find_documents(engine, east, 3)

    expected = {"east": 0, "north": 1, "west": 2}
    assert dict(found) == pytest.approx(expected, abs=1e-6)
    assert [text for text, _ in found] == list(expected)


def test_the_tutorials_own_query_works(jina_demo, engine):
    Document = jina_demo.Document
    jina_demo.insert_documents(engine, TEXTS, jina_demo.embed_texts(TEXTS))
    query_embedding = jina_demo.generate_embeddings(QUESTION)
    distance = Document.content_vec.cosine_distance(query_embedding).label("distance")

    with Session(engine) as session:
        query = session.query(Document, distance).order_by("distance").limit(1)
        document, nearest = query.first()

    assert document.content == TIDB_TEXT
    assert 0 < nearest < 1
