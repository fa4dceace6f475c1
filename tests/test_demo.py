"""The tutorial's run, as a user starts it: on the stand-ins, and on the real TiDB."""

import importlib.util
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import (
    ROOT,
    SCRIPT,
    SETTINGS,
    assert_one_line_error,
    demo_command,
    demo_environment,
    sql,
)
from jina_server import cosine_distance, embedding_of, hang, status
from sqlalchemy import event, text

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


def tutorial_output(database, verb):
    return TUTORIAL_OUTPUT.format(database=database, verb=verb, jina=JINA_TEXT, tidb=TIDB_TEXT)


def without_distances(output):
    return re.sub(r"distance: [\d.e-]+\n", "distance: DISTANCE\n", output)


def distances(output):
    return [float(number) for number in re.findall(r"distance: (\S+)", output)]


def header(database_url):
    return "TiDB" if database_url else "In-Memory SQLite"


# With nothing configured.

def test_with_nothing_configured_it_prints_the_tutorials_output(run_demo):
    done = run_demo()
    assert done.returncode == 0
    assert without_distances(done.stdout) == tutorial_output("In-Memory SQLite", "Inserting")


def test_with_nothing_configured_stderr_names_both_stand_ins_in_a_line_each(run_demo):
    lines = run_demo().stderr.splitlines()
    assert len(lines) == 2
    assert "no JINAAI_API_KEY" in lines[0] and "https://jina.ai/embeddings/" in lines[0]
    assert "no TIDB_DATABASE_URL" in lines[1] and "SQLite" in lines[1]


def test_blank_settings_count_as_unset(run_demo):
    blank = {"JINAAI_API_KEY": " \n", "TIDB_DATABASE_URL": "  ", "JINAAI_API_URL": " "}
    assert run_demo(env=blank).stdout == run_demo().stdout


def test_a_tidb_url_without_a_key_is_an_error_and_stores_nothing(run_demo, tidb):
    done = run_demo(env={"TIDB_DATABASE_URL": tidb})
    assert_one_line_error(done, "JINAAI_API_KEY", "https://jina.ai/embeddings/")
    assert sql(tidb, "SHOW TABLES") == []


def test_a_key_without_a_tidb_url_embeds_for_real_in_memory(run_demo, jina):
    done = run_demo(env={"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url})
    assert without_distances(done.stdout) == tutorial_output("In-Memory SQLite", "Inserting")
    assert "JINAAI_API_KEY" not in done.stderr and "no TIDB_DATABASE_URL" in done.stderr
    assert len(jina.requests) == 2


# With everything configured, on both databases.

def test_a_real_run_prints_the_tutorials_output_with_the_distances_of_the_embeddings(
        run_demo, settings):
    done = run_demo(env=settings)
    assert done.returncode == 0, done.stderr
    assert without_distances(done.stdout) == tutorial_output(
        header(settings["TIDB_DATABASE_URL"]), "Inserting")
    query = embedding_of("What is TiDB?")
    expected = [cosine_distance(query, embedding_of(text))
                for text in (JINA_TEXT, TIDB_TEXT, TIDB_TEXT)]
    assert distances(done.stdout) == pytest.approx(expected, abs=1e-6)


def test_a_first_run_sends_two_requests_as_the_interface_wants_them(run_demo, settings, jina):
    run_demo(env=settings)
    assert [request.json for request in jina.requests] == [
        {"input": [JINA_TEXT, TIDB_TEXT], "model": "jina-embeddings-v2-base-en"},
        {"input": ["What is TiDB?"], "model": "jina-embeddings-v2-base-en"}]
    for request in jina.requests:
        assert request.path == "/v1/embeddings"
        assert request.headers["Authorization"] == "Bearer " + jina.key
        assert request.headers["Content-Type"] == "application/json"


def test_running_again_on_tidb_embeds_only_the_query_and_stores_nothing_twice(
        run_demo, jina, tidb):
    settings = {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url, "TIDB_DATABASE_URL": tidb}
    first, second = run_demo(env=settings), run_demo(env=settings)
    assert without_distances(second.stdout) == tutorial_output("TiDB", "Already stored")
    assert second.stderr == "" and distances(second.stdout) == distances(first.stdout)
    assert len(jina.requests) == 3 and jina.requests[2].texts == ["What is TiDB?"]
    assert sql(tidb, "SELECT content FROM jinaai_tidb_demo_documents ORDER BY id") == [
        (JINA_TEXT,), (TIDB_TEXT,)]


def test_the_list_of_all_documents_stops_at_20_and_says_how_many_more_there_are(
        run_demo, jina, tidb, tmp_path):
    settings = {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url, "TIDB_DATABASE_URL": tidb}
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"text {number}\n" for number in range(21)))
    run_demo("--texts", str(texts), env=settings)
    output = run_demo(env=settings).stdout
    listed = output[output.index("- List All"):output.index("- The Most Relevant")]
    assert listed.count("distance:") == 20
    assert listed.endswith("    content: text 19\n  ... and 3 more\n")
    assert TIDB_TEXT in output[output.index("- The Most Relevant"):]


def test_both_sections_stop_reading_vectors_back(jina_demo, engine):
    jina_demo.store_texts(engine, jina_demo.TEXTS)
    statements = []
    event.listen(engine, "before_cursor_execute",
                 lambda conn, cursor, statement, *rest: statements.append(statement))
    embedding = jina_demo.generate_embeddings("What is TiDB?")
    (nearest, distance), = jina_demo.find_documents(engine, embedding, 1)
    assert nearest == TIDB_TEXT and 0 < distance < 1
    selected = statements[-1].split("FROM")[0].replace("VEC_COSINE_DISTANCE(", "")
    assert "content_vec," in selected and selected.count("content_vec") == 1


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


def without_settings(**more):
    environment = demo_environment()
    for name in SETTINGS:
        del environment[name]
    return dict(environment, **more)


def run_beside_env_file(folder, content, **environment):
    shutil.copy(str(SCRIPT), str(folder))
    (folder / ".env").write_bytes(content)
    return subprocess.run(
        [sys.executable, str(folder / SCRIPT.name)], env=without_settings(**environment),
        cwd="/", capture_output=True, text=True)


def test_settings_come_from_the_env_file_beside_the_script(tmp_path, jina):
    content = f'JINAAI_API_KEY="{jina.key}"\nJINAAI_API_URL={jina.url}\n'
    for encoding in "utf-8", "utf-8-sig":
        jina.reset()
        assert run_beside_env_file(tmp_path, content.encode(encoding)).returncode == 0
        assert len(jina.requests) == 2


def test_the_environment_wins_over_the_env_file(tmp_path, jina):
    content = f"JINAAI_API_KEY=wrong\nJINAAI_API_URL={jina.url}\n"
    done = run_beside_env_file(tmp_path, content.encode(), JINAAI_API_KEY=jina.key)
    assert done.returncode == 0 and len(jina.requests) == 2


def test_an_env_file_that_is_not_utf8_is_an_error(tmp_path):
    done = run_beside_env_file(tmp_path, "JINAAI_API_KEY=key".encode("utf-16"))
    assert_one_line_error(done, ".env", "UTF-8")


def test_the_env_example_names_every_setting():
    example = (ROOT / ".env.example").read_text()
    for name in SETTINGS:
        assert name in example
    assert "tidbcloud.com:4000" in example and "root@127.0.0.1:4000" in example


# What bad input gets.

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


@pytest.mark.parametrize("code, words", [
    (401, ("Invalid API key", "check JINAAI_API_KEY")),
    (403, ("Insufficient account balance", "balance")),
    (429, ("Rate limit exceeded", "run again")),
    (503, ("Service unavailable", "run again"))])
def test_a_refusal_says_what_the_service_says_and_what_to_do(run_demo, settings, jina, code, words):
    jina.faults = [status(code, body={"detail": words[0], "code": "X", "request_id": "1"})] * 5
    done = run_demo(env=settings, constants={"RETRY_WAIT": 0.01})
    assert_one_line_error(done, str(code), *words)
    assert jina.key not in done.stderr


def test_a_detail_that_repeats_the_key_is_shown_without_it(run_demo, settings, jina):
    jina.faults = [status(401, body={"detail": "no such key:\n" + jina.key})]
    done = run_demo(env=settings)
    assert_one_line_error(done, "no such key: ***")
    assert jina.key not in done.stderr


def test_a_refused_connection_is_an_error(run_demo, settings):
    settings["JINAAI_API_URL"] = "http://127.0.0.1:9/v1/embeddings"
    assert_one_line_error(run_demo(env=settings, constants={"RETRY_WAIT": 0.01}),
                          "JINAAI_API_URL", "network")


def test_an_error_leaves_the_table_as_it_was_and_the_next_run_completes(run_demo, settings, jina):
    jina.faults = [status(200, body={"data": []})]
    assert_one_line_error(run_demo(env=settings), "0 ", "2 texts")
    if settings["TIDB_DATABASE_URL"]:
        assert sql(settings["TIDB_DATABASE_URL"],
                   "SELECT COUNT(*) FROM jinaai_tidb_demo_documents") == [(0,)]
    assert run_demo(env=settings).returncode == 0


def test_ctrl_c_ends_with_status_130_and_no_traceback(settings, jina):
    jina.faults = [hang(30)]
    process = subprocess.Popen(demo_command(), env=demo_environment(settings),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not jina.requests and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and b"Traceback" not in errors and b"error" not in errors


def test_a_closed_pipe_ends_quietly(settings):
    process = subprocess.Popen(demo_command(), env=demo_environment(settings),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"- Inserting Data")
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(timeout=30) in (0, 141)
    assert [line for line in errors.splitlines() if not line.startswith("no ")] == []


def test_a_console_without_a_character_does_not_stop_the_run(run_demo, settings):
    done = run_demo("--texts", "-", input="\u6587 \U0001f600\n".encode(),
                    env=dict(settings, PYTHONIOENCODING="ascii"))
    assert done.returncode == 0 and b"content: \\u6587 \\U0001f600" in done.stdout


def test_a_wrong_option_is_one_line_and_status_2(run_demo):
    for arguments in (["--nonsense"], ["--limit"], ["argument"]):
        assert_one_line_error(run_demo(*arguments), "--help", status=2)


# The stand-ins.

def test_the_stand_in_vectors_are_the_same_in_every_run_and_version(demo):
    vector, = demo.stand_in_embeddings(["What is TiDB?"])
    assert len(vector) == 768
    assert {index: number for index, number in enumerate(vector) if number} == dict.fromkeys(
        [175, 354, 407], 0.5773502691896258)


@pytest.mark.parametrize("text", ["", " ", "?!", "\U0001f600", "data", "\u6570\u636e",
                                  "\0", "a " * 99])
def test_a_stand_in_vector_has_length_1_whatever_the_text(demo, text):
    vector, = demo.stand_in_embeddings([text])
    assert sum(number ** 2 for number in vector) == pytest.approx(1)


def test_the_stand_in_finds_shared_words_in_chinese_and_japanese_too(demo):
    query, near, far = demo.stand_in_embeddings([
        "TiDB \u662f\u4ec0\u4e48\uff1f", "TiDB \u662f\u6570\u636e\u5e93",
        "\u5411\u91cf\u6a21\u578b"])
    assert cosine_distance(query, near) < cosine_distance(query, far)


def on_database(demo, url, expression):
    engine = demo.create_tidb_engine(url) if url else demo.create_stand_in_engine()
    with engine.connect() as connection:
        return connection.execute(text("SELECT " + expression)).scalar()


@pytest.mark.parametrize("left, right", [
    ("'[1,0]'", "'[1,0]'"), ("'[1,0]'", "'[-2,0]'"), ("'[1,2,3]'", "'[4,5,6.5]'"),
    ("'[0,0]'", "'[1,0]'"), ("'[1,0]'", "'[0,0]'"), ("NULL", "'[1,0]'"), ("'[1,0]'", "NULL")])
def test_the_stand_ins_distance_is_tidbs(demo, tidb, left, right):
    expression = f"VEC_COSINE_DISTANCE({left}, {right})"
    expected = on_database(demo, tidb, expression)
    assert on_database(demo, "", expression) == (
        None if expected is None else pytest.approx(expected, abs=1e-7))


# The script as a file.

def test_importing_the_script_neither_connects_nor_sends(jina):
    code = ("import socket; socket.socket.connect = None; "
            "import jina_ai_embeddings_demo as demo; print(demo.Document.__tablename__)")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=str(ROOT), stdout=subprocess.PIPE,
        env=demo_environment({"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url,
                              "TIDB_DATABASE_URL": "mysql+pymysql://root@127.0.0.1:9/test"}))
    assert done.stdout.strip() == b"jinaai_tidb_demo_documents"
    assert jina.requests == []


def test_the_inline_metadata_equals_the_requirements():
    block = re.search(r"(?ms)^# /// script$(.*?)^# ///$", SCRIPT.read_text(encoding="utf-8"))
    dependencies = re.findall(r'"(\S+?)"', block.group(1).partition("dependencies")[2])
    assert dependencies == (ROOT / "requirements.txt").read_text().split()
    assert importlib.util.find_spec("tidb_vector")


def test_the_table_is_the_tutorials(demo):
    table = demo.Document.__table__
    assert table.name == "jinaai_tidb_demo_documents"
    assert list(table.columns.keys()) == ["id", "content", "content_vec"]
    assert table.c.id.primary_key and table.c.content.type.length == 255
    assert not table.c.content.nullable and table.c.content.unique
    assert table.c.content_vec.type.dim == 768
    assert table.c.content_vec.comment == "hnsw(distance=cosine)"
