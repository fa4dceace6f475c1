"""--texts, --query and --limit: a user's own texts, loaded in batches that survive anything."""

import os
import random
import re
import signal
import subprocess
import threading
import time
import tracemalloc

import pytest
from conftest import (
    assert_one_line_error,
    demo_command,
    demo_environment,
    sql,
    tidb_process,
)
from jina_server import cosine_distance, drop, embedding_of, hang, status
from test_demo import header

COUNT = "SELECT COUNT(*), COUNT(DISTINCT content) FROM jinaai_tidb_demo_documents"
HOSTILE = [
    "it's \"quoted\"", "back\\slash \\' \\", "%s %(name)s %", ":name", "{} {0} {name}", "`tick`",
    "\U0001f600" * 255, "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627", " leading",
    "trailing ", "trailing", "Case", "case", "caf\u00e9", "cafe\u0301", "a\u2028b", "tab\tinside",
    "x" * 255, "'; DROP TABLE x; --", "NULL", "\u200b", "[1,2]", "\x7f\x1b[31m", "-", "--",
    "\ufeffinside"]


@pytest.fixture
def texts_file(tmp_path):
    """Write texts to a file; return its path."""
    def write(texts, end="\n", encoding="utf-8"):
        path = tmp_path / "texts.txt"
        path.write_bytes("".join(text + end for text in texts).encode(encoding))
        return str(path)
    return write


@pytest.fixture
def on_tidb(jina, tidb):
    """Settings of a real run on TiDB."""
    return {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url, "TIDB_DATABASE_URL": tidb}


def numbered(count, start=0):
    return [f"text number {number}" for number in range(start, start + count)]


# Loading.

def test_texts_are_stored_instead_of_the_tutorials_with_a_line_a_batch(
        run_demo, settings, jina, texts_file):
    done = run_demo("--texts", texts_file(numbered(5)), "--query", "number 3", env=settings,
                    constants={"BATCH_SIZE": 2})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:5] == [
        "- Inserting Data to {}...".format(header(settings["TIDB_DATABASE_URL"])),
        "  - Stored: 2, already stored: 0", "  - Stored: 4, already stored: 0",
        "  - Stored: 5, already stored: 0",
        "- The Most Relevant Document and Its Distance to the Query:"]
    assert lines[-1] == "    content: text number 3" and len(lines) == 7
    assert [len(request.texts) for request in jina.requests] == [2, 2, 1, 1]


def test_loading_again_embeds_and_stores_only_what_is_new(run_demo, on_tidb, jina, texts_file):
    run_demo("--texts", texts_file(numbered(3)), env=on_tidb)
    jina.requests.clear()
    done = run_demo("--texts", texts_file(numbered(5)), env=on_tidb)
    assert "  - Stored: 2, already stored: 3\n" in done.stdout
    assert jina.requests[0].texts == numbered(2, start=3) and len(jina.requests) == 2
    assert sql(on_tidb["TIDB_DATABASE_URL"], COUNT) == [(5, 5)]


def test_a_text_repeated_in_the_file_is_stored_once(run_demo, settings, jina, texts_file):
    done = run_demo("--texts", texts_file(["a", "b", "a", "b", "a"]), env=settings,
                    constants={"BATCH_SIZE": 3})
    assert "  - Stored: 2, already stored: 3\n" in done.stdout
    assert [request.texts for request in jina.requests[:-1]] == [["a", "b"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_any_systems_line_ends_and_a_byte_order_mark_are_read(
        run_demo, jina, texts_file, end, encoding):
    path = texts_file(["one", "", "  \t", "two \u6587", ""], end, encoding)
    env = {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url}
    assert run_demo("--texts", path, env=env).returncode == 0
    assert jina.requests[0].texts == ["one", "two \u6587"]


def test_a_dash_reads_standard_input_and_a_last_line_needs_no_end(run_demo, settings, jina):
    done = run_demo("--texts", "-", input=b"\xef\xbb\xbfone\n\ntwo", env=settings)
    assert done.returncode == 0 and jina.requests[0].texts == ["one", "two"]


def test_hostile_texts_come_back_byte_for_byte(run_demo, on_tidb, texts_file):
    path = texts_file(HOSTILE)
    for stored in len(HOSTILE), 0:
        done = run_demo("--texts", path, env=on_tidb)
        assert f"  - Stored: {stored}, " in done.stdout, done.stderr
    assert [row[0] for row in sql(
        on_tidb["TIDB_DATABASE_URL"],
        "SELECT content FROM jinaai_tidb_demo_documents ORDER BY id")] == HOSTILE


def test_hostile_texts_are_found_by_their_own_words(jina_demo, engine):
    assert jina_demo.store_texts(engine, HOSTILE) == HOSTILE
    for text in HOSTILE:
        (found, distance), = jina_demo.find_documents(engine, embedding_of(text), 1)
        assert found == text and distance == pytest.approx(0, abs=1e-6)


def test_progress_is_shown_while_the_load_goes_on(settings, jina):
    process = subprocess.Popen(
        demo_command("--texts", "-", BATCH_SIZE=1), env=demo_environment(settings),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    watchdog = threading.Timer(20, process.kill)
    watchdog.start()
    assert process.stdout.readline().startswith(b"- Inserting")
    for number in range(3):  # the next line is written only when the last one is reported
        process.stdin.write(b"text %d\n" % number)
        process.stdin.flush()
        assert process.stdout.readline() == b"  - Stored: %d, already stored: 0\n" % (number + 1)
    process.communicate(timeout=30)
    watchdog.cancel()
    assert process.returncode == 0


def test_reading_a_file_takes_no_more_memory_for_more_lines(demo, texts_file):
    peaks = []
    for count in 1000, 100000:
        path = texts_file(numbered(count))
        tracemalloc.start()
        assert sum(map(len, demo.read_batches(path))) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


# Bad files and options.

BAD_LINES = {
    "256 characters": ("x" * 256).encode(),
    "an undecodable byte": b"caf\xe9",
    "a cut character": "\u6587".encode()[:2],
    "an encoded surrogate": b"\xed\xa0\x80",
    "a NUL": b"a\0b",
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_an_error_that_names_it_before_its_batch_is_sent(
        run_demo, settings, jina, bad):
    content = b"one\n\ntwo\nthree\n" + bad + b"\n"
    done = run_demo("--texts", "-", input=content, env=settings, constants={"BATCH_SIZE": 2})
    done.stderr = done.stderr.decode()
    assert_one_line_error(done, "line 5 ")
    assert done.stdout.splitlines()[-1] == b"  - Stored: 2, already stored: 0"
    assert [request.texts for request in jina.requests] == [["one", "two"]]
    if settings["TIDB_DATABASE_URL"]:
        assert sql(settings["TIDB_DATABASE_URL"], COUNT) == [(2, 2)]


def test_255_characters_of_four_bytes_fit(run_demo, settings):
    done = run_demo("--texts", "-", input=("\U0001f600" * 255).encode(), env=settings)
    assert done.returncode == 0, done.stderr


def test_a_utf16_file_is_an_error(run_demo, texts_file):
    assert_one_line_error(run_demo("--texts", texts_file(["one"], encoding="utf-16")), "line 1 ")


def test_a_missing_file_a_folder_and_an_unreadable_file_are_errors(run_demo, tmp_path):
    assert_one_line_error(run_demo("--texts", str(tmp_path / "none")), "No such file", "none")
    assert_one_line_error(run_demo("--texts", str(tmp_path)), "directory")
    locked = tmp_path / "locked"
    locked.touch(mode=0)
    if not os.access(str(locked), os.R_OK):  # root may read everything
        assert_one_line_error(run_demo("--texts", str(locked)), "Permission denied")


def test_a_file_without_texts_on_an_empty_table_is_an_error(run_demo, settings):
    assert_one_line_error(run_demo("--texts", "-", input="\n \n", env=settings), "--texts")


@pytest.mark.parametrize("arguments", [
    ["--query", ""], ["--query", "  "], ["--query", b"\xed\xa0\x80"], ["--query", b"\xff"],
    ["--limit", "0"], ["--limit", "-1"], ["--limit", "many"], ["--limit", "1.5"],
    ["--limit", "9" * 30]])
def test_a_bad_query_or_limit_is_an_error(run_demo, arguments):
    assert_one_line_error(run_demo(*arguments), arguments[0], status=2)


# Asking.

def test_query_asks_another_question_and_leaves_out_the_list(run_demo, settings):
    done = run_demo("--query", "Who offers a reranker?", env=settings)
    assert "- List All" not in done.stdout and done.stdout.count("distance:") == 1
    assert "content: Jina AI offers" in done.stdout


def test_limit_finds_the_n_nearest_nearest_first(run_demo, settings, texts_file):
    texts = ["red apple", "green apple", "red car", "blue sky"]
    done = run_demo("--texts", texts_file(texts), "--query", "red apple", "--limit", "3",
                    env=settings)
    title = "- The 3 Most Relevant Documents and Their Distances to the Query:\n"
    assert title in done.stdout
    found = re.findall(r"  - distance: (\S+)\n    content: (.*)\n", done.stdout)
    query = embedding_of("red apple")
    nearest = sorted((cosine_distance(query, embedding_of(text)), text) for text in texts)[:3]
    assert [text for _, text in found] == [text for _, text in nearest]
    assert [float(distance) for distance, _ in found] == pytest.approx(
        [distance for distance, _ in nearest], abs=1e-6)


def test_a_limit_beyond_the_table_finds_all(run_demo, settings):
    assert run_demo("--limit", "50", env=settings).stdout.count("distance:") == 2


def test_help_tells_options_settings_and_two_examples(run_demo):
    done = run_demo("--help")
    assert done.returncode == 0 and done.stderr == ""
    for word in ("--texts", "--query", "--limit", "JINAAI_API_KEY", "TIDB_DATABASE_URL",
                 "JINAAI_API_URL", "JINAAI_MODEL", "Examples:"):
        assert word in done.stdout
    assert done.stdout.count("python jina_ai_embeddings_demo.py") == 2


# Stop and go on.

def test_a_service_that_goes_away_leaves_what_was_stored_and_the_rerun_completes(
        run_demo, on_tidb, jina, texts_file):
    path = texts_file(numbered(10))
    small = {"BATCH_SIZE": 2, "RETRY_WAIT": 0.01}
    jina.faults = [None, None] + [status(503)] * 5
    assert_one_line_error(run_demo("--texts", path, env=on_tidb, constants=small), "503")
    assert sql(on_tidb["TIDB_DATABASE_URL"], COUNT) == [(4, 4)]
    done = run_demo("--texts", path, env=on_tidb, constants=small)
    assert "  - Stored: 6, already stored: 4\n" in done.stdout
    sent = [text for request in jina.requests[7:-1] for text in request.texts]
    assert sent == numbered(6, start=4)


def test_ctrl_c_in_a_load_leaves_what_was_stored(on_tidb, jina, run_demo, texts_file):
    path = texts_file(numbered(10))
    jina.faults = [None, None, hang(30)]
    process = subprocess.Popen(demo_command("--texts", path, BATCH_SIZE=2),
                               env=demo_environment(on_tidb), stderr=subprocess.PIPE)
    while len(jina.requests) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == b"" and process.returncode == 130
    assert sql(on_tidb["TIDB_DATABASE_URL"], COUNT) == [(4, 4)]
    assert "  - Stored: 6, already stored: 4\n" in run_demo("--texts", path, env=on_tidb).stdout


def test_kill_9_at_random_moments_loses_and_doubles_nothing(on_tidb, jina, texts_file):
    path, texts = texts_file(numbered(300)), numbered(300)
    jina.latency = 0.02
    moments = random.Random(9)
    command = demo_command("--texts", path, BATCH_SIZE=10)
    for _ in range(6):
        process = subprocess.Popen(command, env=demo_environment(on_tidb),
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
    done = subprocess.run(command, env=demo_environment(on_tidb), stdout=subprocess.PIPE)
    assert done.returncode == 0
    rows = sql(on_tidb["TIDB_DATABASE_URL"],
               "SELECT content, VEC_AS_TEXT(content_vec) FROM jinaai_tidb_demo_documents")
    assert sorted(content for content, _ in rows) == sorted(texts)
    for content, vector in rows:
        assert [float(number) for number in vector[1:-1].split(",")] == pytest.approx(
            embedding_of(content), abs=1e-6)


def test_two_loads_of_the_same_file_at_once_store_each_text_once(on_tidb, jina, texts_file):
    path = texts_file(numbered(200))
    jina.latency = 0.02
    loads = [subprocess.Popen(demo_command("--texts", path, BATCH_SIZE=10),
                              env=demo_environment(on_tidb), stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE) for _ in range(3)]
    for load in loads:
        assert load.communicate(timeout=60)[1] == b"" and load.returncode == 0
    assert sql(on_tidb["TIDB_DATABASE_URL"], COUNT) == [(200, 200)]


def test_tidb_killed_in_a_load_is_an_error_and_the_rerun_completes(
        run_demo, jina, texts_file, tmp_path):
    (tmp_path / "tidb").mkdir()
    server = tidb_process(tmp_path / "tidb").start()
    settings = {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url,
                "TIDB_DATABASE_URL": server.url}
    path = texts_file(numbered(200))
    jina.latency = 0.05
    process = subprocess.Popen(
        demo_command("--texts", path, BATCH_SIZE=10), env=demo_environment(settings),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    for _ in range(4):
        reported = process.stdout.readline()
    server.kill()
    _, process.stderr = process.communicate(timeout=60)
    assert_one_line_error(process, "TiDB", "run again to go on")
    server.start()
    stored = sql(server.url, COUNT)[0][0]
    assert stored >= int(re.search(r"Stored: (\d+)", reported).group(1))
    done = run_demo("--texts", path, env=settings, constants={"BATCH_SIZE": 10})
    assert f"  - Stored: {200 - stored}, already stored: {stored}\n" in done.stdout
    assert sql(server.url, COUNT) == [(200, 200)]
    server.kill()


def test_a_lost_connection_between_batches_is_replaced(on_tidb, jina_demo):
    engine = jina_demo.create_tidb_engine(on_tidb["TIDB_DATABASE_URL"])
    jina_demo.create_table(engine)
    jina_demo.store_texts(engine, ["a"])
    for connection, *_ in sql(on_tidb["TIDB_DATABASE_URL"], """
            SELECT id FROM information_schema.processlist
            WHERE db = DATABASE() AND id <> CONNECTION_ID()"""):
        sql(on_tidb["TIDB_DATABASE_URL"], f"KILL TIDB {connection}")
    assert jina_demo.store_texts(engine, ["a", "b"]) == ["b"]
    engine.dispose()


def test_a_stored_text_is_looked_up_through_the_unique_index(jina_demo, tidb):
    engine = jina_demo.create_tidb_engine(tidb)
    jina_demo.create_table(engine)
    jina_demo.store_texts(engine, numbered(3))
    engine.dispose()
    plan = str(sql(tidb, "EXPLAIN SELECT content FROM jinaai_tidb_demo_documents "
                         "WHERE content IN ('text number 1', 'text number 2')"))
    assert "Batch_Point_Get" in plan or "IndexRangeScan" in plan
    assert "FullScan" not in plan


def test_a_dropped_connection_in_a_load_is_tried_again(run_demo, settings, jina, texts_file):
    jina.faults = [drop, None, drop]
    done = run_demo("--texts", texts_file(numbered(4)), env=settings,
                    constants={"BATCH_SIZE": 2, "RETRY_WAIT": 0.01})
    assert done.returncode == 0 and "  - Stored: 4, already stored: 0\n" in done.stdout
