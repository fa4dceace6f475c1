"""The demo's run, as a user starts it: on the stand-ins, and on the real TiDB."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.pool import ThreadPool

import pytest
from helpers import ROOT, SCRIPT, SETTINGS, assert_one_line_error, demo_environment, sql
from jina_server import JinaServer, cosine_distance, drop, embedding_of, hang, status

QUESTION = "What is TiDB?"
JINA_TEXT, TIDB_TEXT = TEXTS = (
    "Jina AI offers best-in-class embeddings, reranker and prompt optimizer, enabling advanced "
    "multimodal AI.",
    "TiDB is an open-source MySQL-compatible database that supports Hybrid Transactional and "
    "Analytical Processing (HTAP) workloads.")
STORED = "SELECT content FROM jinaai_tidb_demo_documents ORDER BY id"
HTTPS = {"JINAAI_API_URL": "https://127.0.0.1:9/v1"}


def tutorial_output(database="In-Memory SQLite", verb="Inserting"):
    listed = [f"  - distance: DISTANCE\n    content: {content}\n" for content in TEXTS]
    return "".join([
        f"- Inserting Data to {database}...\n", *(f"  - {verb}: {content}\n" for content in TEXTS),
        "- List All Documents and Their Distances to the Query:\n", *listed,
        "- The Most Relevant Document and Its Distance to the Query:\n", listed[1]])


def without_distances(output):
    return re.sub(r"distance: [\d.e-]+\n", "distance: DISTANCE\n", output)


def distances(output):
    return [float(number) for number in re.findall(r"distance: (\S+)", output)]


def store(demo, url, texts):
    """Store *texts*, with embeddings of the stand-in, in the demo's table on TiDB."""
    engine = demo.create_tidb_engine(url)
    demo.create_table(engine)
    demo.insert_documents(engine, texts, demo.stand_in_embeddings(texts))
    engine.dispose()


@pytest.mark.parametrize("settings", [
    {}, {"JINAAI_API_KEY": " \n", "TIDB_DATABASE_URL": "  ", "JINAAI_API_URL": " "}])
def test_without_settings_the_stand_ins_print_the_tutorials_output(run_demo, settings):
    done = run_demo(env=settings)
    assert done.returncode == 0 and without_distances(done.stdout) == tutorial_output()
    no_url, no_key = done.stderr.splitlines()
    assert no_url.startswith("no TIDB_DATABASE_URL: ") and "SQLite" in no_url
    assert no_key.startswith("no JINAAI_API_KEY: ") and "https://jina.ai/embeddings/" in no_key


def test_a_tidb_url_without_a_key_is_an_error_and_stores_nothing(run_demo, tidb):
    done = run_demo(env={"TIDB_DATABASE_URL": tidb})
    assert_one_line_error(done, "JINAAI_API_KEY", "https://jina.ai/embeddings/")
    assert done.stdout == "" and sql(tidb, "SHOW TABLES") == []


@pytest.mark.parametrize("key", [JinaServer.key, None])  # an endpoint of one's own may need none
def test_a_real_run_prints_the_tutorials_output_with_the_distances_of_the_embeddings(
        run_demo, real_settings, jina, key):
    jina.key = key
    done = run_demo(env={**real_settings, "JINAAI_API_KEY": key or ""})
    database = "TiDB" if real_settings["TIDB_DATABASE_URL"] else "In-Memory SQLite"
    assert without_distances(done.stdout) == tutorial_output(database)
    assert done.returncode == 0 and [line.partition(":")[0] for line in done.stderr.splitlines()] \
        == ["no TIDB_DATABASE_URL"] * (database != "TiDB")
    assert distances(done.stdout) == pytest.approx(
        [cosine_distance(embedding_of(QUESTION), embedding_of(content))
         for content in (*TEXTS, TIDB_TEXT)], abs=1e-6)
    assert [request.json for request in jina.requests] == [
        {"input": [QUESTION], "model": "jina-embeddings-v2-base-en"},
        {"input": [*TEXTS], "model": "jina-embeddings-v2-base-en"}]


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
    assert listed.endswith("    content: text 8\n  ... and 3 more\n")  # they were stored sorted
    assert output.endswith(f"content: {TIDB_TEXT}\n")


@pytest.mark.parametrize("other", [
    {"JINAAI_API_KEY": f" {JinaServer.key}\n"}, {"JINA_API_KEY": JinaServer.key},
    {"JINA_AI_API_KEY": JinaServer.key}, {"JINAAI_APIKEY": JinaServer.key},
    {"JINAAI_API_KEY": JinaServer.key, "JINA_API_KEY": "another"}])
def test_the_key_is_read_under_each_of_its_names_the_tutorials_first(run_demo, jina, other):
    assert run_demo(env={"JINAAI_API_URL": jina.url, **other}).returncode == 0
    assert jina.requests[0].headers["Authorization"] == "Bearer " + jina.key


def run_below_env_file(folder, content, *command, **settings):
    """Run Python, or the script, below a file .env, and from a folder with a wrong one."""
    for name in "code", "elsewhere":
        (folder / name).mkdir(exist_ok=True)
    (folder / "elsewhere" / ".env").write_text("JINAAI_API_KEY=wrong\n")
    (folder / ".env").write_bytes(content)
    script = shutil.copy(SCRIPT, folder / "code")
    (folder / "code" / "program.py").write_text("import jina_ai_embeddings_demo")
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run(
        [sys.executable, *(command or [script])], cwd=folder / "elsewhere", capture_output=True,
        env={**environment, "PYTHONPATH": str(folder / "code"), **settings}, text=True)


@pytest.mark.parametrize("encoding, key, settings", [
    ("utf-8", JinaServer.key, {}), ("utf-8-sig", JinaServer.key, {}),
    ("utf-8", "overridden", {"JINAAI_API_KEY": JinaServer.key})])
def test_settings_are_the_environments_or_those_of_an_env_file_above_the_script(
        tmp_path, jina, encoding, key, settings):
    content = f'JINAAI_API_KEY="{key}"\nJINAAI_API_URL={jina.url}\n'.encode(encoding)
    assert run_below_env_file(tmp_path, content, **settings).returncode == 0
    assert len(jina.requests) == 2


@pytest.mark.parametrize("program, output", [
    ("jina_ai_embeddings_demo.py", tutorial_output()), ("program.py", "")])
def test_an_env_file_that_is_not_utf8_is_a_warning_and_a_run_or_an_import_goes_on(
        tmp_path, program, output):
    done = run_below_env_file(tmp_path, "A=1".encode("utf-16"), tmp_path / "code" / program)
    assert (done.returncode, without_distances(done.stdout)) == (0, output)
    warning, *others = done.stderr.splitlines()
    assert ".env" in warning and "UTF-8" in warning and len(others) == (2 if output else 0)


def test_the_env_example_names_every_setting():
    example = (ROOT / ".env.example").read_text()
    assert [name for name in SETTINGS if name not in example] == []
    assert "tidbcloud.com:4000" in example and "root@127.0.0.1:4000" in example


@pytest.mark.parametrize("arguments", [
    ["--texts", "notes.txt"], ["--nonsense"], ["--limit"], ["argument"], ["-x", "y"]])
def test_any_argument_is_an_error_that_names_the_script_with_options(run_demo, on_tidb, arguments):
    assert_one_line_error(run_demo(*arguments, env=on_tidb), "examples/own_texts.py", status=2)
    assert sql(on_tidb["TIDB_DATABASE_URL"], "SHOW TABLES") == []


def test_help_names_the_settings_and_the_script_with_options(run_demo):
    done = run_demo("--help")
    assert done.returncode == 0 and done.stderr == ""
    for word in (".env", "JINAAI_API_KEY", "TIDB_DATABASE_URL", "JINAAI_MODEL", "JINAAI_API_URL",
                 "examples/own_texts.py"):
        assert word in done.stdout


# What goes wrong is told in one line.

@pytest.mark.parametrize("wrong", [
    {"JINAAI_API_KEY": "a-key\n-"}, {"JINAAI_API_KEY": "키"}, {"JINAAI_API_URL": "nonsense"},
    {"TIDB_DATABASE_URL": "mysql+pymysql://root:secret@[::1/test"},
    {**HTTPS, "REQUESTS_CA_BUNDLE": "/no/such/file"}, *(
        {**HTTPS, "HTTPS_PROXY": url} for url in ("socks5://u:secret@host", "http://u:secret@"))])
def test_a_setting_that_cannot_be_used_is_named_and_no_key_or_password_shown(run_demo, jina, wrong):
    done = run_demo(env={"JINAAI_API_KEY": "a-key", "JINAAI_API_URL": jina.url, **wrong})
    assert_one_line_error(done, *wrong)
    assert not re.search("a-key|secret|키", done.stderr)


def test_a_wait_before_another_try_is_told(run_demo, real_settings, jina):
    jina.faults = [drop, None, status(503, {"Retry-After": "1"})]
    done = run_demo(env=real_settings)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("no TIDB")]
    assert done.returncode == 0 and len(lines) == 2 and len(jina.requests) == 4
    assert "no answer" in lines[0] and "503" in lines[1]
    for line in lines:
        assert re.search(r"\(next try in \d s\)$", line)


@pytest.mark.parametrize("wrong, faults, told, tables", [
    ({"JINAAI_API_KEY": "wrong"}, [], "JINAAI_API_KEY", 0),
    ({"JINAAI_MODEL": "jina-embeddings-v2-small-en"}, [], "JINAAI_MODEL", 0),
    ({}, [None, status(200, body={"data": []})], "not 2 embeddings of 768 dimensions", 1)])
def test_a_run_that_fails_stores_nothing_and_the_next_one_works(
        run_demo, on_tidb, jina, wrong, faults, told, tables):
    jina.faults = list(faults)
    assert_one_line_error(run_demo(env={**on_tidb, **wrong}), told)
    assert len(sql(on_tidb["TIDB_DATABASE_URL"], "SHOW TABLES")) == tables
    done = run_demo(env=on_tidb)
    assert without_distances(done.stdout) == tutorial_output("TiDB") and done.stderr == ""


def start(settings):
    """Start the demo; return its process when it has printed a line."""
    process = subprocess.Popen([sys.executable, SCRIPT], env=demo_environment(settings),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("- Inserting Data")
    return process


def test_ctrl_c_ends_with_status_130_and_no_traceback(real_settings, jina):
    jina.faults = [None, hang(30)]
    process = start(real_settings)
    while len(jina.requests) < 2:
        time.sleep(0.01)
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


def test_texts_are_stored_once_and_found(jina_demo, engine):
    texts = [f"text {number}" for number in range(512)]
    jina_demo.insert_documents(engine, texts, jina_demo.embed_texts(texts))
    (nearest, distance), (_, farther) = jina_demo.find_documents(engine, embedding_of("text 7"), 2)
    assert nearest == "text 7" and distance == pytest.approx(0, abs=1e-6) and farther > distance
    jina_demo.insert_documents(engine, [], [])
    assert jina_demo.new_texts(engine, ["d", *texts, "a", "d", "c"]) == ["d", "a", "c"]


ONES, TWOS = [1.0] * 768, [1.0, 2.0] * 384


@pytest.mark.parametrize("texts, embeddings", [
    (["a", "b"], [ONES]), (["a"], [ONES, ONES]), (["a", None], [ONES] * 2),
    (["a", "b"], [ONES, None]), (["a", "b"], [ONES, None, ONES]),
    ([*"abcdefg"] * 99, [ONES] * 692 + [[1.0] * 3])])
def test_texts_that_cannot_all_be_stored_are_not_stored_at_all(
        jina_demo, engine, texts, embeddings):
    with pytest.raises((TypeError, ValueError, jina_demo.exc.SQLAlchemyError)):
        jina_demo.insert_documents(engine, texts, embeddings)
    assert jina_demo.new_texts(engine, ["a"]) == ["a"]


def test_a_text_that_is_stored_already_is_left_alone(jina_demo, engine):
    jina_demo.insert_documents(engine, ["a"], [ONES])
    jina_demo.create_table(engine)
    jina_demo.insert_documents(engine, ["b", "a", "b"], [TWOS, TWOS, ONES])
    assert jina_demo.find_documents(engine, ONES, 5) == [
        ("a", pytest.approx(0, abs=1e-6)), ("b", pytest.approx(cosine_distance(ONES, TWOS)))]


@pytest.mark.parametrize("content, counts", [
    (QUESTION + " TiDB!", {175: 2, 354: 1, 407: 1}), ("", {0: 1}), ("?!", {0: 1}), ("\0", {0: 1}),
    ("a " * 99, {579: 99}), ("\U0001f600", {580: 1}), ("\u6570\u636e", {233: 1, 467: 1})])
def test_a_stand_in_vector_counts_the_words_and_is_the_same_everywhere(demo, content, counts):
    vector, = demo.stand_in_embeddings([content], "retrieval.query", 75)
    assert len(vector) == 768
    assert {index: number for index, number in enumerate(vector) if number} == counts


def test_threads_use_the_stand_ins_database_side_by_side(demo):
    engine = demo.create_stand_in_engine()
    demo.create_table(engine)
    texts = [str(number) for number in range(100)]
    with ThreadPool(4) as threads:
        threads.map(lambda text: demo.insert_documents(engine, [text], [[1.0] * 768]), texts)
        assert threads.map(lambda text: demo.new_texts(engine, [text]), texts) == [[]] * 100
