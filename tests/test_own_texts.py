"""examples/own_texts.py: a user's own texts, loads that survive anything, and the index."""

import contextlib
import fcntl
import os
import random
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import tracemalloc
import types

import pytest
from conftest import (
    ROOT,
    assert_one_line_error,
    demo_environment,
    sql,
    tidb_process,
    tiflash_process,
)
from jina_server import cosine_distance, drop, embedding_of, hang, status
from sqlalchemy import event as sqlalchemy_event

EXAMPLE = ROOT / "examples" / "own_texts.py"
TABLE = "jinaai_tidb_demo_documents"
COUNT = f"SELECT COUNT(*), COUNT(DISTINCT content) FROM {TABLE}"
HOSTILE = [
    "it's \"quoted\"", "back\\slash \\' \\", "%s %(name)s %", ":name", "{} {0} {name}", "`tick`",
    "\U0001f600" * 255, "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627", " leading",
    "trailing ", "trailing", "Case", "case", "caf\u00e9", "cafe\u0301", "a\u2028b", "tab\tinside",
    "x" * 255, "'; DROP TABLE x; --", "NULL", "\u200b", "[1,2]", "\x7f\x1b[31m", "-", "--",
    "\ufeffinside"]


@pytest.fixture
def own_texts(monkeypatch):
    """The example as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    import own_texts
    return own_texts


@pytest.fixture
def small_batches(demo, monkeypatch):
    """Two texts a request, for what runs in this process."""
    monkeypatch.setattr(demo, "BATCH_SIZE", 2)


@pytest.fixture
def run_own(run_demo):
    """Run the example as a user does: run_own(*arguments, env=settings)."""
    def run(*arguments, **options):
        return run_demo(*arguments, script=EXAMPLE, **options)
    return run


@pytest.fixture
def texts_file(tmp_path):
    """Write texts to a file; return its path."""
    def write(texts, end="\n", encoding="utf-8"):
        path = tmp_path / "texts.txt"
        path.write_bytes("".join(text + end for text in texts).encode(encoding))
        return str(path)
    return write


def numbered(count, start=0):
    return [f"text number {number}" for number in range(start, start + count)]


def start(settings, *arguments, batch_size=512):
    """Start the example without waiting for it, with *batch_size* texts a request."""
    code = ("import sys; sys.path[:0] = sys.argv.pop(1).split(); import own_texts as own; "
            f"own.demo.BATCH_SIZE = {batch_size}; own.demo.main(own.run)")
    return subprocess.Popen(
        [sys.executable, "-c", code, f"{EXAMPLE.parent} {ROOT}", *arguments], text=True,
        env=demo_environment(settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_until(condition, process, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


# Loading.

def test_texts_are_stored_and_stdout_has_the_results_alone(
        run_own, real_settings, jina, texts_file):
    done = run_own("--texts", texts_file(numbered(5)), "--query", "number 3", env=real_settings)
    assert done.returncode == 0, done.stderr
    database = "TiDB" if real_settings["TIDB_DATABASE_URL"] else "In-Memory SQLite"
    assert re.sub("distance: .*", "distance: D", done.stdout) == (
        f"- Inserting Data to {database}...\n  - Stored: 5, already stored: 0\n"
        "- The Most Relevant Document and Its Distance to the Query:\n"
        "  - distance: D\n    content: text number 3\n")
    assert [request.texts for request in jina.requests] == [["number 3"], numbered(5)]


def test_asking_leaves_the_tutorials_texts_out(run_own, on_tidb, texts_file):
    run_own("--texts", texts_file(["a text"]), env=on_tidb)
    run_own("--query", "What is TiDB?", env=on_tidb)
    assert sql(on_tidb["TIDB_DATABASE_URL"], f"SELECT content FROM {TABLE}") == [("a text",)]


def test_loading_again_embeds_and_stores_only_what_is_new(run_own, on_tidb, jina, texts_file):
    run_own("--texts", texts_file(numbered(3)), env=on_tidb)
    jina.requests.clear()
    done = run_own("--texts", texts_file(numbered(5)), env=on_tidb)
    assert "  - Stored: 2, already stored: 3\n" in done.stdout
    assert [request.texts for request in jina.requests[1:]] == [numbered(2, start=3)]
    assert sql(on_tidb["TIDB_DATABASE_URL"], COUNT) == [(5, 5)]


def test_a_text_repeated_in_the_file_is_sent_and_stored_once(
        own_texts, jina_demo, engine, jina, small_batches, texts_file):
    jina.latency = 0.1  # so that it comes again while it is still on its way
    progress = own_texts.Progress()
    stored = own_texts.load(engine, jina_demo.embed_texts, texts_file("abcabcab"), 3, progress)
    assert (stored, progress.done) == (3, 8)
    assert sorted(text for request in jina.requests for text in request.texts) == ["a", "b", "c"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_any_systems_line_ends_and_a_byte_order_mark_are_read(own_texts, texts_file, end, encoding):
    path = texts_file(["one", "", "  \t", "two \u6587", ""], end, encoding)
    assert list(own_texts.read_batches(path)) == [["one", "two \u6587"]]


def test_a_dash_reads_standard_input_and_a_last_line_needs_no_end(run_own, real_settings, jina):
    done = run_own("--texts", "-", input=b"\xef\xbb\xbfone\n\ntwo", env=real_settings)
    assert done.returncode == 0 and jina.requests[1].texts == ["one", "two"]


def test_a_long_line_is_split_at_spaces_and_no_word_is_lost(own_texts, texts_file, capsys):
    words = [f"word{number}" for number in range(200)]
    texts = [text for batch in own_texts.read_batches(texts_file(
        ["short", " ".join(words), "\u6587" * 300])) for text in batch]
    assert texts[0] == "short" and max(map(len, texts)) <= 255
    assert " ".join(texts[1:-2]).split(" ") == words
    assert [len(text) for text in texts[-2:]] == [255, 45]
    [unended] = own_texts.read_batches(texts_file(["x" * 256], end=""))
    assert [len(text) for text in unended] == [255, 1]
    assert "2 lines" in capsys.readouterr().err


def test_hostile_texts_come_back_byte_for_byte(run_own, on_tidb, texts_file):
    path = texts_file(HOSTILE)
    for stored in len(HOSTILE), 0:
        done = run_own("--texts", path, env=on_tidb)
        assert f"  - Stored: {stored}, " in done.stdout, done.stderr
    assert [row[0] for row in sql(
        on_tidb["TIDB_DATABASE_URL"], f"SELECT content FROM {TABLE} ORDER BY id")] == HOSTILE


def test_hostile_texts_are_found_by_their_own_words(jina_demo, engine):
    jina_demo.insert_documents(engine, HOSTILE, jina_demo.embed_texts(HOSTILE))
    for text in HOSTILE:
        (found, distance), = jina_demo.find_documents(engine, embedding_of(text), 1)
        assert found == text and distance == pytest.approx(0, abs=1e-6)


def test_reading_a_file_takes_no_more_memory_for_more_lines(own_texts, texts_file):
    peaks = []
    for count in 2000, 100000:
        path = texts_file(numbered(count))
        tracemalloc.start()
        assert sum(map(len, own_texts.read_batches(path))) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


# Requests side by side.

@pytest.mark.parametrize("requests", [1, 3])
def test_so_many_requests_run_at_a_time_and_one_batch_more_is_in_memory(
        own_texts, jina_demo, engine, jina, small_batches, texts_file, monkeypatch, requests):
    jina.latency, running, held, most_running, most_held = 0.05, set(), set(), [], []

    def embed(texts):
        running.add(texts[0])
        most_running.append(len(running))
        embeddings = jina_demo.embed_texts(texts)
        running.discard(texts[0])
        return embeddings

    def read(path, read_batches=own_texts.read_batches):
        for batch in read_batches(path):
            held.update(batch[:1])
            most_held.append(len(held))
            yield batch

    def insert(engine, texts, embeddings, insert_documents=jina_demo.insert_documents):
        insert_documents(engine, texts, embeddings)
        held.discard(texts[0])

    monkeypatch.setattr(own_texts, "read_batches", read)
    monkeypatch.setattr(jina_demo, "insert_documents", insert)
    own_texts.load(engine, embed, texts_file(numbered(20)), requests, own_texts.Progress())
    assert max(most_running) == requests and max(most_held) == requests + 1


def test_two_run_at_a_time_unless_told(run_own, real_settings, jina, texts_file):
    jina.latency = 0.3
    run_own("--texts", texts_file(numbered(1500)), env=real_settings)
    assert jina.most_open == 2


def test_the_database_is_the_main_threads_alone(
        own_texts, jina_demo, engine, small_batches, texts_file):
    threads = set()
    sqlalchemy_event.listen(engine, "before_cursor_execute",
                            lambda *call: threads.add(threading.current_thread()))
    own_texts.load(engine, jina_demo.embed_texts, texts_file("abcdef"), 3, own_texts.Progress())
    assert threads == {threading.main_thread()}


# The rate limit.

def test_a_load_of_three_minutes_of_tokens_runs_through_a_free_keys_limits(
        own_texts, jina_demo, engine, jina, texts_file, monkeypatch):
    minute = 3.0  # in place of 60, and so are the pauses between tries
    monkeypatch.setattr(jina_demo, "random", types.SimpleNamespace(
        uniform=lambda low, high: random.uniform(low, high) * minute / 60))
    monkeypatch.setattr(jina_demo, "BATCH_SIZE", 100)
    jina.limit(tokens=1800, requests=100, at_once=2, minute=minute)  # a text has 3 tokens
    started = time.monotonic()
    stored = own_texts.load(engine, jina_demo.embed_texts, texts_file(numbered(1800)), 2,
                            own_texts.Progress())
    assert stored == 1800  # the limit itself takes two minutes for three minutes' worth
    assert 2 * minute <= time.monotonic() - started < 1.5 * 2 * minute


# Progress.

def test_elsewhere_than_on_a_terminal_a_line_is_shown_every_ten_seconds_at_the_most(
        own_texts, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(own_texts.time, "monotonic", lambda: now[0])
    progress = own_texts.Progress()
    for now[0] in range(1, 31):
        progress.emit(own_texts.logging.makeLogRecord({"msg": "a limit (next try in 4 s)"}))
        progress.show(10 if now[0] % 2 else 0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("60 texts, 5 a second")
    assert "a limit (next try in 4 s)" in lines[0]


def test_on_a_terminal_a_bar_tells_texts_speed_and_why_it_waits(real_settings, jina, texts_file):
    pytest.importorskip("tqdm")
    jina.faults = [None, status(429, {"Retry-After": "2"})]
    terminal, its_end = os.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("4H", 24, 200, 0, 0))
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLE), "--texts", texts_file(numbered(600))],
        env=demo_environment(real_settings), stdout=subprocess.PIPE, stderr=its_end)
    os.close(its_end)
    shown = b""
    with contextlib.suppress(OSError):  # at its end
        while True:
            shown += os.read(terminal, 10000)
    os.close(terminal)
    output = process.communicate(timeout=60)[0].decode()
    assert b"600 texts" in shown
    assert b"texts/s" in shown and b"429" in shown and b"next try in 2 s" in shown
    assert output.endswith("  - Stored: 600, already stored: 0\n")


# Bad files and options.

BAD_LINES = {
    "an undecodable byte": b"caf\xe9",
    "a cut character": "\u6587".encode()[:2],
    "an encoded surrogate": b"\xed\xa0\x80",
    "a NUL": b"a\0b",
    "UTF-16": "one".encode("utf-16"),
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_an_error_that_names_it_and_what_came_before_is_stored(
        run_own, real_settings, jina, bad):
    done = run_own("--texts", "-", input=b"one\n\ntwo\nthree\n" + bad + b"\nsix", env=real_settings)
    done.stderr = done.stderr.decode()
    assert_one_line_error(done, "line 5 ", "UTF-8")
    assert [request.texts for request in jina.requests[1:]] == [["one", "two", "three"]]
    if real_settings["TIDB_DATABASE_URL"]:
        assert sql(real_settings["TIDB_DATABASE_URL"], COUNT) == [(3, 3)]


def test_a_missing_file_a_folder_and_an_unreadable_file_are_errors(run_own, tmp_path):
    assert_one_line_error(run_own("--texts", str(tmp_path / "none")), "No such file", "none")
    assert_one_line_error(run_own("--texts", str(tmp_path)), "directory")
    (tmp_path / "locked").touch(mode=0)
    if os.getuid():  # root may read everything
        assert_one_line_error(run_own("--texts", str(tmp_path / "locked")), "Permission denied")


def test_asking_an_empty_table_is_an_error(run_own, real_settings):
    done = run_own("--texts", "-", "--query", "Where?", input="\n \n", env=real_settings)
    assert_one_line_error(done, "no text is stored", "--texts")


@pytest.mark.parametrize("arguments", [
    ["--query", ""], ["--query", "  "], ["--query", b"\xed\xa0\x80"], ["--query", b"\xff"],
    ["--limit", "0"], ["--limit", "-1"], ["--limit", "many"], ["--limit", "1.5"],
    ["--limit", "9" * 30], ["--requests", "0"], ["--requests", "x"], ["--texts"], ["--nonsense"],
    ["argument"], []])
def test_a_wrong_option_is_one_line_and_status_2(run_own, arguments):
    done = run_own(*arguments)
    assert_one_line_error(done, *arguments[:1], "--help", status=2)
    assert done.stdout == ""


def test_help_tells_the_options_and_an_example(run_own):
    done = run_own("--help")
    assert done.returncode == 0 and done.stderr == ""
    for word in "texts", "query", "limit", "vector-index", "requests", "python examples/own_texts":
        assert word in done.stdout


def test_a_model_that_fails_leaves_no_table(run_own, on_tidb):
    done = run_own("--texts", "-", input="a text",
                   env=dict(on_tidb, JINAAI_MODEL="jina-embeddings-v2-small-en"))
    assert_one_line_error(done, "512 dimensions")
    assert sql(on_tidb["TIDB_DATABASE_URL"], "SHOW TABLES") == []


def test_a_console_without_a_character_does_not_stop_the_run(run_own, real_settings):
    done = run_own("--texts", "-", "--query", "x", input="\u6587 \U0001f600\n".encode(),
                   env=dict(real_settings, PYTHONIOENCODING="ascii"))
    assert done.returncode == 0 and b"content: \\u6587 \\U0001f600" in done.stdout


# Asking.

def test_limit_finds_the_n_nearest_nearest_first(run_own, real_settings, texts_file):
    texts = ["red apple", "green apple", "red car", "blue sky"]
    done = run_own("--texts", texts_file(texts), "--query", "red apple", "--limit", "3",
                   env=real_settings)
    title = "- The 3 Most Relevant Documents and Their Distances to the Query:\n"
    assert title in done.stdout
    found = re.findall(r"  - distance: (\S+)\n    content: (.*)\n", done.stdout)
    query = embedding_of("red apple")
    nearest = sorted((cosine_distance(query, embedding_of(text)), text) for text in texts)[:3]
    assert [text for _, text in found] == [text for _, text in nearest]
    assert [float(distance) for distance, _ in found] == pytest.approx(
        [distance for distance, _ in nearest], abs=1e-6)
    more = run_own("--texts", texts_file(texts), "--query", "a", "--limit", "9", env=real_settings)
    assert more.stdout.count("distance:") == 4


# Stop and go on.

def test_a_service_that_goes_away_leaves_what_was_stored_and_the_rerun_completes(
        run_own, on_tidb, jina, texts_file):
    path = texts_file(numbered(10))
    jina.faults = [None, None, None] + [status(403)] * 2
    process = start(on_tidb, "--texts", path, "--requests", "1", batch_size=2)
    _, process.stderr = process.communicate(timeout=60)
    assert_one_line_error(process, "403", "balance")
    assert sql(on_tidb["TIDB_DATABASE_URL"], COUNT) == [(4, 4)]
    jina.requests.clear()
    jina.faults = [drop]  # which is tried again
    assert "  - Stored: 6, already stored: 4\n" in run_own("--texts", path, env=on_tidb).stdout
    assert jina.requests[-1].texts == numbered(6, start=4)


@pytest.mark.parametrize("busy", [hang(30), status(429)], ids=["in flight", "waiting"])
def test_ctrl_c_ends_a_load_within_two_seconds_and_leaves_what_was_stored(
        on_tidb, jina, run_own, texts_file, busy):
    run_own("--texts", texts_file(numbered(2)), env=on_tidb)
    path, before = texts_file(numbered(10)), len(jina.requests)
    jina.faults = [None] + [busy] * 20
    process = start(on_tidb, "--texts", path, batch_size=2)
    wait_until(lambda: len(jina.requests) >= before + 3, process)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "error" not in errors and "Traceback" not in errors
    assert time.monotonic() - started < 2
    jina.reset()
    assert "  - Stored: 8, already stored: 2\n" in run_own("--texts", path, env=on_tidb).stdout


def test_an_error_in_one_request_ends_a_load_while_another_is_in_flight(on_tidb, jina, texts_file):
    jina.faults = [None, hang(30), status(401)]
    process = start(on_tidb, "--texts", texts_file(numbered(10)), batch_size=2)
    wait_until(lambda: len(jina.requests) >= 3, process)
    started = time.monotonic()
    _, process.stderr = process.communicate(timeout=30)
    assert_one_line_error(process, "401", "JINAAI_API_KEY")
    assert time.monotonic() - started < 2


def test_kill_9_at_random_moments_loses_and_doubles_nothing(on_tidb, jina, texts_file):
    path, texts = texts_file(numbered(300)), numbered(300)
    jina.latency = 0.02
    moments = random.Random(9)
    for _ in range(6):
        process = start(on_tidb, "--texts", path, batch_size=10)
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
    assert start(on_tidb, "--texts", path, batch_size=10).communicate()[1] == ""
    rows = sql(on_tidb["TIDB_DATABASE_URL"],
               f"SELECT content, VEC_AS_TEXT(content_vec) FROM {TABLE}")
    assert sorted(content for content, _ in rows) == sorted(texts)
    for content, vector in rows:
        assert [float(number) for number in vector[1:-1].split(",")] == pytest.approx(
            embedding_of(content), abs=1e-6)


def test_three_loads_of_the_same_file_at_once_store_each_text_once(on_tidb, jina, texts_file):
    path = texts_file(numbered(200))
    jina.latency = 0.02
    loads = [start(on_tidb, "--texts", path, batch_size=10) for _ in range(3)]
    for load in loads:
        assert load.communicate(timeout=60)[1] == "" and load.returncode == 0
    assert sql(on_tidb["TIDB_DATABASE_URL"], COUNT) == [(200, 200)]


def test_tidb_killed_in_a_load_is_an_error_and_the_rerun_completes(
        run_own, jina, texts_file, tmp_path):
    (tmp_path / "tidb").mkdir()
    server = tidb_process(tmp_path / "tidb").start()
    settings = {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url,
                "TIDB_DATABASE_URL": server.url}
    path = texts_file(numbered(200))
    jina.latency = 0.05
    process = start(settings, "--texts", path, batch_size=10)
    wait_until(lambda: len(jina.requests) > 6, process)
    server.kill()
    _, process.stderr = process.communicate(timeout=60)
    assert_one_line_error(process, "run again to go on")
    server.start()
    stored = sql(server.url, COUNT)[0][0]
    assert 0 < stored < 200
    done = run_own("--texts", path, env=settings)
    assert f"  - Stored: {200 - stored}, already stored: {stored}\n" in done.stdout
    assert sql(server.url, COUNT) == [(200, 200)]
    server.kill()


# The vector index.

@pytest.fixture
def with_tiflash(tmp_path, jina):
    """Start a TiDB with a stand-in for TiFlash; return the settings of a real run."""
    servers = []

    def begin(*options):
        servers.append(tiflash_process(tmp_path, *options).start())
        return {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url,
                "TIDB_DATABASE_URL": servers[0].url}
    yield begin
    for server in servers:
        server.kill()


def test_the_index_is_built_and_explain_shows_that_the_search_uses_it(
        run_own, with_tiflash, texts_file):
    env = with_tiflash("-build-for", "1s")
    done = run_own("--texts", texts_file(numbered(50)), "--vector-index", env=env)
    assert done.returncode == 0 and "waiting for the vector index" in done.stderr, done.stderr
    assert sql(env["TIDB_DATABASE_URL"], f"SHOW INDEX FROM {TABLE} WHERE Index_type = 'HNSW'")
    deadline = time.monotonic() + 20
    while "the search uses the vector index" not in done.stderr and time.monotonic() < deadline:
        done = run_own("--vector-index", "--query", "number 7", env=env)  # once TiFlash is ready
    assert "the search uses the vector index" in done.stderr
    assert "    content: text number 7\n" in done.stdout


def test_a_build_longer_than_the_read_timeout_is_waited_for(run_own, with_tiflash, texts_file):
    env = with_tiflash("-build-for", "5s")
    env["TIDB_DATABASE_URL"] += "?read_timeout=2"
    done = run_own("--texts", texts_file(numbered(5)), "--vector-index", env=env)
    assert done.returncode == 0 and "EXPLAIN says" in done.stderr, done.stderr


def test_ctrl_c_leaves_the_build_to_tidb_and_a_second_run_says_that_it_is_being_built(
        run_own, with_tiflash, texts_file):
    env = with_tiflash("-build-for", "8s")
    process = start(env, "--texts", texts_file(numbered(5)), "--vector-index")
    assert "after a Ctrl-C, TiDB goes on building it" in process.stderr.readline()
    adding = "SELECT 1 FROM information_schema.ddl_jobs WHERE state = 'running'"
    wait_until(lambda: sql(env["TIDB_DATABASE_URL"], adding), process)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[1] == "" and process.returncode == 130
    done = run_own("--vector-index", "--query", "number 3", env=env)
    assert done.returncode == 0 and "    content: text number 3\n" in done.stdout
    assert "1061" in done.stderr and "the search is exact" in done.stderr
    deadline = time.monotonic() + 30
    index = f"SHOW INDEX FROM {TABLE} WHERE Index_type = 'HNSW'"
    while not sql(env["TIDB_DATABASE_URL"], index):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_build_that_fails_gives_tiflashs_reason_and_the_search_stays_exact(
        run_own, with_tiflash, texts_file):
    env = with_tiflash("-build-error", "disk is full")
    done = run_own("--texts", texts_file(numbered(5)), "--vector-index", "--query", "number 3",
                   env=env)
    assert done.returncode == 0 and "    content: text number 3\n" in done.stdout
    line, = [line for line in done.stderr.splitlines() if "9014" in line]
    assert "disk is full" in line and "the search is exact" in line
    assert sql(env["TIDB_DATABASE_URL"], COUNT) == [(5, 5)]


def test_without_tiflash_a_line_says_that_the_search_is_exact(run_own, real_settings, texts_file):
    done = run_own("--texts", texts_file("ab"), "--vector-index", "--query", "a", env=real_settings)
    assert done.returncode == 0 and "    content: a\n" in done.stdout
    line, = [line for line in done.stderr.splitlines() if "no vector index" in line]
    assert "exact" in line


def test_a_user_who_may_not_build_the_index_is_told_the_privilege(run_own, on_tidb, texts_file):
    run_own("--texts", texts_file("ab"), env=on_tidb)
    tidb = on_tidb["TIDB_DATABASE_URL"]
    user = "u" + tidb[-10:]
    sql(tidb, f"CREATE USER {user}")
    try:
        sql(tidb, f"GRANT SELECT, INSERT, UPDATE, CREATE ON {TABLE} TO {user}")
        done = run_own("--vector-index", env=dict(
            on_tidb, TIDB_DATABASE_URL=tidb.replace("//root@", f"//{user}@")))
        done.stderr = done.stderr.replace("waiting for", "no waiting for")
        assert_one_line_error(done, "1142", "ALTER")
    finally:
        sql(tidb, f"DROP USER {user}")


# The example as a file.

def test_the_inline_metadata_is_the_requirements_and_tqdm():
    block = re.search(r"(?ms)^# /// script$(.*?)^# ///$", EXAMPLE.read_text(encoding="utf-8"))
    dependencies = re.findall(r'"(\S+?)"', block.group(1).partition("dependencies")[2])
    assert dependencies == [*(ROOT / "requirements.txt").read_text().split(), "tqdm>=4.66"]
