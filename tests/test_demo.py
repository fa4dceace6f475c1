"""The demo's run, as a user starts it: on the stand-ins, and on the real TiDB."""

import re
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.pool import ThreadPool

import pytest
import requests
from conftest import (
    ROOT,
    SCRIPT,
    SETTINGS,
    assert_one_line_error,
    demo_command,
    demo_environment,
    sql,
)
from jina_server import cosine_distance, drop, embedding_of, hang, status
from sqlalchemy import event, text

QUESTION = "What is TiDB?"
JINA_TEXT, TIDB_TEXT = (
    "Jina AI offers best-in-class embeddings, reranker and prompt optimizer, enabling advanced "
    "multimodal AI.",
    "TiDB is an open-source MySQL-compatible database that supports Hybrid Transactional and "
    "Analytical Processing (HTAP) workloads.")
TUTORIAL_OUTPUT = """\
- Inserting Data to {database}...
  - {verb}: {jina}
  - {verb}: {tidb}
- List All Documents and Their Distances to the Query:
  - distance: DISTANCE
    content: {jina}
  - distance: DISTANCE
    content: {tidb}
- The Most Relevant Document and Its Distance to the Query:
  - distance: DISTANCE
    content: {tidb}
"""
OLD_TABLE = ("CREATE TABLE jinaai_tidb_demo_documents (id INTEGER NOT NULL AUTO_INCREMENT, "
             "content VARCHAR(255) NOT NULL, content_vec VECTOR(768), PRIMARY KEY (id))")
STORED = "SELECT content FROM jinaai_tidb_demo_documents ORDER BY id"


def tutorial_output(database="In-Memory SQLite", verb="Inserting"):
    return TUTORIAL_OUTPUT.format(database=database, verb=verb, jina=JINA_TEXT, tidb=TIDB_TEXT)


def without_distances(output):
    return re.sub(r"distance: [\d.e-]+\n", "distance: DISTANCE\n", output)


def distances(output):
    return [float(number) for number in re.findall(r"distance: (\S+)", output)]


def header(database_url):
    return "TiDB" if database_url else "In-Memory SQLite"


def store(demo, url, texts):
    """Store *texts*, with embeddings of the stand-in, in the demo's table on TiDB."""
    engine = demo.create_tidb_engine(url)
    demo.create_table(engine)
    demo.insert_documents(engine, texts, demo.stand_in_embeddings(texts))
    engine.dispose()


@pytest.fixture
def on_tidb(jina, tidb):
    """The environment for a real run on TiDB."""
    return {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url, "TIDB_DATABASE_URL": tidb}


# With nothing, or not everything, configured.

@pytest.mark.parametrize("settings", [
    {}, {"JINAAI_API_KEY": " \n", "TIDB_DATABASE_URL": "  ", "JINAAI_API_URL": " "}])
def test_without_settings_the_stand_ins_print_the_tutorials_output(run_demo, settings):
    done = run_demo(env=settings)
    assert done.returncode == 0 and without_distances(done.stdout) == tutorial_output()
    no_key, no_url = done.stderr.splitlines()
    assert no_key.startswith("no JINAAI_API_KEY: ") and "https://jina.ai/embeddings/" in no_key
    assert no_url.startswith("no TIDB_DATABASE_URL: ") and "SQLite" in no_url


def test_a_tidb_url_without_a_key_is_an_error_and_stores_nothing(run_demo, tidb):
    done = run_demo(env={"TIDB_DATABASE_URL": tidb})
    assert_one_line_error(done, "JINAAI_API_KEY", "https://jina.ai/embeddings/")
    assert done.stdout == "" and sql(tidb, "SHOW TABLES") == []


def test_an_endpoint_of_ones_own_may_need_no_key(run_demo, real_settings, jina, monkeypatch):
    monkeypatch.setattr(jina, "key", None)
    done = run_demo(env={**real_settings, "JINAAI_API_KEY": ""})
    assert done.returncode == 0 and "JINAAI_API_KEY" not in done.stderr
    assert distances(done.stdout)[0] == pytest.approx(
        cosine_distance(embedding_of(QUESTION), embedding_of(JINA_TEXT)), abs=1e-6)
    assert [request.headers.get("Authorization") for request in jina.requests] == [None, None]


# With everything configured, on both databases.

def test_a_real_run_prints_the_tutorials_output_with_the_distances_of_the_embeddings(
        run_demo, real_settings):
    done = run_demo(env=real_settings)
    database = header(real_settings["TIDB_DATABASE_URL"])
    assert done.returncode == 0 and without_distances(done.stdout) == tutorial_output(database)
    assert done.stderr == "" or database != "TiDB" and "JINAAI_API_KEY" not in done.stderr
    expected = [cosine_distance(embedding_of(QUESTION), embedding_of(content))
                for content in (JINA_TEXT, TIDB_TEXT, TIDB_TEXT)]
    assert distances(done.stdout) == pytest.approx(expected, abs=1e-6)


def test_a_first_run_asks_for_the_question_and_then_for_the_texts(run_demo, real_settings, jina):
    run_demo(env=real_settings)
    assert [request.json for request in jina.requests] == [
        {"input": [QUESTION], "model": "jina-embeddings-v2-base-en"},
        {"input": [JINA_TEXT, TIDB_TEXT], "model": "jina-embeddings-v2-base-en"}]
    for request in jina.requests:
        assert request.path == "/v1/embeddings"
        assert request.headers["Authorization"] == "Bearer " + jina.key
        assert request.headers["Content-Type"] == "application/json"


def test_running_again_embeds_only_the_question_and_stores_nothing_twice(run_demo, jina, on_tidb):
    first, second = run_demo(env=on_tidb), run_demo(env=on_tidb)
    assert without_distances(second.stdout) == tutorial_output("TiDB", "Already stored")
    assert second.stderr == "" and distances(second.stdout) == distances(first.stdout)
    assert len(jina.requests) == 3 and jina.requests[2].texts == [QUESTION]
    assert sql(on_tidb["TIDB_DATABASE_URL"], STORED) == [(JINA_TEXT,), (TIDB_TEXT,)]


def test_the_list_of_all_documents_stops_at_20_and_says_how_many_more_there_are(
        run_demo, demo, on_tidb):
    store(demo, on_tidb["TIDB_DATABASE_URL"], [f"text {number}" for number in range(21)])
    output = run_demo(env=on_tidb).stdout
    listed = output[output.index("- List All"):output.index("- The Most Relevant")]
    assert listed.count("distance:") == 20
    assert listed.endswith("    content: text 19\n  ... and 3 more\n")
    assert output.endswith(f"content: {TIDB_TEXT}\n")


def test_main_runs_in_a_process_of_ones_own(jina_demo, capsys):
    assert jina_demo.main() is None
    assert without_distances(capsys.readouterr().out) == tutorial_output()


# Settings.

@pytest.mark.parametrize("name", ["JINAAI_API_KEY", "JINA_API_KEY", "JINA_AI_API_KEY",
                                  "JINAAI_APIKEY"])
def test_the_key_is_read_under_each_of_its_names(run_demo, jina, name):
    done = run_demo(env={name: f" {jina.key}\n", "JINAAI_API_URL": jina.url})
    assert done.returncode == 0 and len(jina.requests) == 2


def test_the_tutorials_name_for_the_key_comes_first(run_demo, jina):
    run_demo(env={"JINAAI_API_KEY": jina.key, "JINA_API_KEY": "another",
                  "JINAAI_API_URL": jina.url})
    assert jina.requests[0].headers["Authorization"] == "Bearer " + jina.key


@pytest.fixture
def run_beside_env_file(tmp_path, monkeypatch):
    """Run the script below a folder with a file .env, from another folder with a wrong one."""
    def run(content, *command, **environment):
        (tmp_path / "code").mkdir(exist_ok=True)
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (tmp_path / ".env").write_bytes(content)
        (tmp_path / "elsewhere" / ".env").write_text("JINAAI_API_KEY=wrong\n")
        script = shutil.copy(SCRIPT, tmp_path / "code")
        for name in SETTINGS:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
        return subprocess.run([sys.executable, *(command or [script])],
                              cwd=tmp_path / "elsewhere", capture_output=True, text=True)
    return run


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_settings_come_from_an_env_file_in_a_folder_of_the_script(
        run_beside_env_file, jina, encoding):
    content = f'JINAAI_API_KEY="{jina.key}"\nJINAAI_API_URL={jina.url}\n'
    assert run_beside_env_file(content.encode(encoding)).returncode == 0
    assert len(jina.requests) == 2


def test_the_environment_wins_over_the_env_file(run_beside_env_file, jina):
    content = f"JINAAI_API_KEY=wrong\nJINAAI_API_URL={jina.url}\n"
    done = run_beside_env_file(content.encode(), JINAAI_API_KEY=jina.key)
    assert done.returncode == 0 and len(jina.requests) == 2


@pytest.mark.xfail(reason="the line is Python's own and does not name the file", strict=True)
def test_an_env_file_that_is_not_utf8_is_an_error(run_beside_env_file):
    assert_one_line_error(run_beside_env_file("KEY=1".encode("utf-16")), ".env", "UTF-8")


def test_an_import_goes_on_beside_an_env_file_that_is_not_utf8(run_beside_env_file):
    done = run_beside_env_file(
        "KEY=1".encode("utf-16"), "-c", "import jina_ai_embeddings_demo; print('imported')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "imported\n", "")


def test_the_env_example_names_every_setting():
    example = (ROOT / ".env.example").read_text()
    for name in SETTINGS:
        assert name in example
    assert "tidbcloud.com:4000" in example and "root@127.0.0.1:4000" in example


@pytest.mark.parametrize("arguments", [
    ["--texts", "notes.txt"], ["--nonsense"], ["--limit"], ["argument"], ["-x", "y"]])
def test_any_argument_is_an_error_that_names_the_script_with_options(run_demo, on_tidb, arguments):
    done = run_demo(*arguments, env=on_tidb)
    assert_one_line_error(done, "examples/own_texts.py", status=2)
    assert sql(on_tidb["TIDB_DATABASE_URL"], "SHOW TABLES") == []


def test_help_names_the_settings_and_the_script_with_options(run_demo):
    done = run_demo("--help")
    assert done.returncode == 0 and done.stderr == ""
    for word in ("JINAAI_API_KEY", "TIDB_DATABASE_URL", "JINAAI_MODEL", "JINAAI_API_URL",
                 "examples/own_texts.py"):
        assert word in done.stdout


# What goes wrong is told in one line.

@pytest.mark.parametrize("key", ["jina\nkey", "jina_kéy…", "jina_\u200bkey", "키"])
def test_a_key_that_no_header_can_carry_is_an_error_that_does_not_show_it(run_demo, jina, key):
    done = run_demo(env={"JINAAI_API_KEY": key, "JINAAI_API_URL": jina.url})
    assert_one_line_error(done, "JINAAI_API_KEY")
    assert key not in done.stderr and jina.requests == []


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/v1", "http://",
                                 "http://[::1", "http://" + "a" * 70 + ".b/"])
def test_an_endpoint_that_is_no_url_is_an_error_at_once(run_demo, url):
    started = time.monotonic()
    assert_one_line_error(run_demo(env={"JINAAI_API_KEY": "key", "JINAAI_API_URL": url}),
                          "JINAAI_API_URL")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("code, says, advice", [
    (401, "Invalid API key", "check JINAAI_API_KEY"),
    (401, "no such key:\n{key}", "no such key: ***"),
    (403, "Insufficient account balance", "check JINAAI_API_KEY and its balance"),
    (429, "Rate limit exceeded", "(Retry-After: 100 s); run again"),
    (503, "Service unavailable", "(Retry-After: 100 s); run again"),
    (400, "No such model", "check JINAAI_API_URL and JINAAI_MODEL")])
def test_a_refusal_says_what_the_service_says_and_what_to_do(
        run_demo, real_settings, jina, code, says, advice):
    jina.faults = [status(code, {"Retry-After": "100"} if code in (429, 503) else {},
                          {"detail": says.format(key=jina.key)})]
    done = run_demo(env=real_settings)
    assert_one_line_error(done, str(code), says.partition(":")[0], advice)
    assert jina.key not in done.stderr and done.stdout == "" and len(jina.requests) == 1


@pytest.mark.parametrize("settings", [
    {"REQUESTS_CA_BUNDLE": "/no/such/file"}, {"HTTPS_PROXY": "socks5://user:secret@127.0.0.1:9"}])
def test_a_network_setting_that_cannot_be_used_is_named_without_its_password(run_demo, settings):
    done = run_demo(env={"JINAAI_API_KEY": "a-key", **settings,
                         "JINAAI_API_URL": "https://127.0.0.1:9/v1/embeddings"})
    assert_one_line_error(done, "JINAAI_API_URL", *settings)
    assert "secret" not in done.stderr and "a-key" not in done.stderr


def test_a_refused_connection_names_what_to_check(jina_demo, capsys, monkeypatch):
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", "http://127.0.0.1:9/v1/embeddings")
    with pytest.raises(SystemExit, match="1"):
        jina_demo.main()
    error = capsys.readouterr().err.splitlines()[-1]
    for word in "network", "JINAAI_API_URL", "HTTPS_PROXY", "REQUESTS_CA_BUNDLE":
        assert word in error


def test_a_wait_before_another_try_is_told(run_demo, real_settings, jina):
    jina.faults = [drop, None, status(503, {"Retry-After": "1"})]
    done = run_demo(env=real_settings)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("no TIDB")]
    assert done.returncode == 0 and len(lines) == 2 and len(jina.requests) == 4
    assert "no answer" in lines[0] and "503" in lines[1]
    for line in lines:
        assert re.search(r"\(next try in \d s\)$", line) and "run again" not in line


def test_a_key_or_a_model_that_fails_leaves_no_table_and_the_next_run_works(run_demo, on_tidb):
    for wrong, told in ({"JINAAI_API_KEY": "wrong"}, "401"), (
            {"JINAAI_MODEL": "jina-embeddings-v2-small-en"}, "512 dimensions, the table has 768"):
        done = run_demo(env={**on_tidb, **wrong})
        assert_one_line_error(done, told, *wrong)
        assert done.stdout == "" and sql(on_tidb["TIDB_DATABASE_URL"], "SHOW TABLES") == []
    assert run_demo(env=on_tidb).returncode == 0


def test_an_error_leaves_the_table_as_it_was_and_the_next_run_completes(run_demo, on_tidb, jina):
    jina.faults = [None, status(200, body={"data": []})]
    assert_one_line_error(run_demo(env=on_tidb), "0 embeddings", "2 texts")
    assert sql(on_tidb["TIDB_DATABASE_URL"], STORED) == []
    assert run_demo(env=on_tidb).returncode == 0


@pytest.mark.parametrize("old_table", [False, True])
def test_another_model_on_the_same_table_is_an_error_that_names_both(run_demo, on_tidb, old_table):
    if old_table:  # without a comment, as the tutorial's own code made it
        sql(on_tidb["TIDB_DATABASE_URL"], OLD_TABLE)
    assert run_demo(env=on_tidb).returncode == 0
    done = run_demo(env={**on_tidb, "JINAAI_MODEL": "jina-embeddings-v3"})
    assert_one_line_error(done, "jina-embeddings-v3", "jina-embeddings-v2-base-en", "drop")
    assert done.stdout == ""


@pytest.mark.parametrize("error, code", [
    (RuntimeError("a\nb"), 1), (OSError("a"), 1), (ValueError("a"), 1), (KeyboardInterrupt(), 130)])
def test_main_ends_a_run_that_raises_with_a_status(demo, capsys, error, code):
    def run():
        raise error
    with pytest.raises(SystemExit, match=str(code)):
        demo.main(run)
    assert len(capsys.readouterr().err.splitlines()) == (code == 1)


def test_main_shows_where_a_bug_is(demo):
    with pytest.raises(ZeroDivisionError):
        demo.main(lambda: 1 / 0)


def start(settings):
    """Start the demo; return its process when it has printed a line."""
    process = subprocess.Popen(demo_command(), env=demo_environment(settings),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("- Inserting Data")
    return process


def test_ctrl_c_ends_with_status_130_and_no_traceback(real_settings, jina):
    jina.faults = [None, hang(30)]
    process = start(real_settings)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "Traceback" not in errors and "error" not in errors


def test_a_closed_pipe_ends_quietly(real_settings, jina):
    jina.latency = 0.3
    process = start(real_settings)
    process.stdout.close()  # before the texts have embeddings
    errors = process.stderr.read()
    assert process.wait(timeout=30) == 141 and "Traceback" not in errors and "error" not in errors


def test_a_console_without_a_character_does_not_stop_the_run(run_demo, demo, on_tidb):
    store(demo, on_tidb["TIDB_DATABASE_URL"], ["\u6587 \U0001f600"])
    done = run_demo(env={**on_tidb, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "content: \\u6587 \\U0001f600\n" in done.stdout


# The functions.

def test_new_texts_are_those_not_stored_each_once_in_their_order(jina_demo, engine):
    jina_demo.insert_documents(engine, ["b"], [[1.0] * 768])
    assert jina_demo.new_texts(engine, ["d", "b", "a", "d", "c"]) == ["d", "a", "c"]


def test_documents_are_stored_with_their_embeddings_and_found(jina_demo, engine):
    texts = [f"text {number}" for number in range(512)]
    jina_demo.insert_documents(engine, texts, jina_demo.embed_texts(texts))
    found = jina_demo.find_documents(engine, jina_demo.generate_embeddings("text 7"), 2)
    assert found[0][0] == "text 7" and found[0][1] == pytest.approx(0, abs=1e-6) < found[1][1]
    assert jina_demo.new_texts(engine, texts) == []


def test_an_empty_list_stores_nothing(jina_demo, engine):
    jina_demo.insert_documents(engine, [], [])
    assert jina_demo.find_documents(engine, [1.0] * 768, 5) == []


def test_one_embedding_too_few_is_an_exception_and_stores_nothing(jina_demo, engine):
    with pytest.raises(IndexError):
        jina_demo.insert_documents(engine, ["a", "b"], [[1.0] * 768])
    assert jina_demo.new_texts(engine, ["a", "b"]) == ["a", "b"]


def test_a_text_that_the_database_refuses_leaves_the_others_out_too(jina_demo, engine):
    with pytest.raises(jina_demo.exc.SQLAlchemyError):
        jina_demo.insert_documents(engine, ["a", None], [[1.0] * 768] * 2)
    assert jina_demo.new_texts(engine, ["a"]) == ["a"]


def test_a_text_that_another_run_stored_meanwhile_is_stored_once(demo, tidb):
    for texts in ["a", "b"], ["b", "c"]:
        store(demo, tidb, texts)
    assert sql(tidb, STORED) == [("a",), ("b",), ("c",)]


@pytest.mark.parametrize("size", [2, 512])
def test_documents_are_stored_by_one_statement(jina_demo, tidb, size):
    store(jina_demo, tidb, [f"text {number}" for number in range(size)])
    assert sql(tidb, "SELECT exec_count FROM information_schema.statements_summary WHERE "
                     "schema_name = DATABASE() AND digest_text LIKE 'insert %'") == [(1,)]


def test_neither_the_list_nor_the_search_reads_vectors_back(jina_demo, tidb, monkeypatch, capsys):
    monkeypatch.setattr(jina_demo, "TIDB_DATABASE_URL", tidb)
    jina_demo.main()
    lists, searches = sql(
        tidb, "SELECT query_sample_text, digest_text FROM information_schema.statements_summary "
              "WHERE schema_name = DATABASE() AND digest_text LIKE '%`vec_cosine%'")
    assert lists == searches


def test_the_tutorials_own_query_works(jina_demo, engine):
    Document, Session = jina_demo.Document, jina_demo.Session
    jina_demo.insert_documents(engine, jina_demo.TEXTS, jina_demo.embed_texts(jina_demo.TEXTS))
    query_embedding = jina_demo.generate_embeddings(QUESTION)
    with Session(engine) as session:
        doc, distance = session.query(
            Document, Document.content_vec.cosine_distance(query_embedding).label("distance")
        ).order_by("distance").limit(1).first()
        assert doc.content == TIDB_TEXT and 0 < distance < 1


def test_the_table_is_the_tutorials(demo, tidb):
    store(demo, tidb, ["a"])
    created = sql(tidb, "SHOW CREATE TABLE jinaai_tidb_demo_documents")[0][1]
    for part in ("`id` int NOT NULL AUTO_INCREMENT", "PRIMARY KEY (`id`)",
                 "`content` varchar(255)", "NOT NULL,", "UNIQUE KEY `content` (`content`)",
                 "`content_vec` vector(768)", "COMMENT 'hnsw(distance=cosine)'",
                 "COMMENT='jina-embeddings-v2-base-en'"):
        assert part in created
    assert demo.Document.__table__.columns.keys() == ["id", "content", "content_vec"]


# The stand-ins.

def test_the_stand_in_vectors_are_the_same_in_every_run_and_version(demo):
    vector, = demo.stand_in_embeddings([QUESTION])
    assert len(vector) == 768
    assert {index: number for index, number in enumerate(vector) if number} == dict.fromkeys(
        [175, 354, 407], pytest.approx(3 ** -0.5))


@pytest.mark.parametrize("content", ["", " ", "?!", "\U0001f600", "data", "\u6570\u636e",
                                     "\0", "a " * 99])
def test_a_stand_in_vector_has_length_1_whatever_the_text(demo, content):
    vector, = demo.stand_in_embeddings([content])
    assert sum(number ** 2 for number in vector) == pytest.approx(1)


@pytest.mark.parametrize("question, near, far", [
    ("TiDB \u662f\u4ec0\u4e48\uff1f", "TiDB \u662f\u6570\u636e\u5e93", "\u5411\u91cf\u6a21\u578b"),
    ("\u732b\u306f\u3069\u3053", "\u732b\u306f\u5ead", "\u72ac\u3068\u5bb6")])
def test_the_stand_in_finds_shared_words_in_chinese_and_japanese_too(demo, question, near, far):
    question, near, far = demo.stand_in_embeddings([question, near, far])
    assert cosine_distance(question, near) < cosine_distance(question, far)


@pytest.mark.parametrize("left, right", [
    ("[1,0]", "[1,0]"), ("[1,0]", "[-2,0]"), ("[1,0]", "[0,3]"), ("[1,2,3]", "[4,5,6.5]")])
def test_the_stand_ins_distance_is_tidbs(demo, tidb, left, right):
    found = []
    for engine in demo.create_tidb_engine(tidb), demo.create_stand_in_engine():
        with engine.connect() as connection:
            found.append(connection.execute(
                text(f"SELECT VEC_COSINE_DISTANCE('{left}', '{right}')")).scalar())
        engine.dispose()
    assert found[0] == pytest.approx(found[1], abs=1e-7)


def test_threads_share_the_stand_ins_database(demo):
    engine = demo.create_stand_in_engine()
    demo.create_table(engine)
    store_one = lambda content: demo.insert_documents(engine, [content], [[1.0] * 768])
    with ThreadPool(4) as pool:
        pool.map(lambda number: demo.new_texts(engine, [str(number)]), range(40))
        pool.map(store_one, "abcd")
    assert demo.new_texts(engine, ["a", "b", "c", "d", "e"]) == ["e"]


# The script as a file.

def test_importing_the_script_neither_connects_nor_sends(run_demo, on_tidb, jina):
    done = subprocess.run(
        [sys.executable, "-c", "import jina_ai_embeddings_demo as demo; print(demo.TEXTS[0])"],
        cwd=ROOT, env=demo_environment(on_tidb), capture_output=True, text=True)
    assert done.stdout == JINA_TEXT + "\n" and jina.requests == []
    assert sql(on_tidb["TIDB_DATABASE_URL"], "SHOW TABLES") == []


def test_the_inline_metadata_equals_the_requirements():
    block = re.search(r"(?ms)^# /// script$(.*?)^# ///$", SCRIPT.read_text(encoding="utf-8"))
    dependencies = re.findall(r'"(\S+?)"', block[1].partition("dependencies")[2])
    assert dependencies == (ROOT / "requirements.txt").read_text().split()
