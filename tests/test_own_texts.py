"""examples/own_texts.py: a user's own texts, loads that survive anything, and the index."""

import functools
import io
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from pathlib import Path

import command_line
import own_texts
import pytest
from helpers import assert_one_line_error, demo_environment, sql, tidb_process, tiflash_process
from jina_server import cosine_distance, drop, embedding_of, hang, status

EXAMPLE = Path(own_texts.__file__)
TABLE = "jinaai_tidb_demo_documents"
COUNT = f"SELECT COUNT(*), COUNT(DISTINCT content) FROM {TABLE}"
INDEX = f"SHOW INDEX FROM {TABLE} WHERE Index_type = 'HNSW'"
WIDE = "\u3000"  # a space as wide as a Chinese character
IN_MEMORY = pytest.mark.parametrize("database_url", [""], ids=["in-memory"])
HOSTILE = [
    "it's \"quoted\"", "back\\slash \\' \\", "%s %(name)s %", ":name", "{} {0} {name}", "`tick`",
    "\U0001f600" * 255, "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627", " leading",
    "trailing ", "trailing", "Case", "case", "caf\u00e9", "cafe\u0301", "a\u2028b", "tab\tinside",
    "x" * 255, "'; DROP TABLE x; --", "NULL", "\u200b", "[1,2]", "\x7f\x1b[31m", "-", "--",
    "\ufeffinside"]


@pytest.fixture
def run_own(run_demo):
    """Run the example as a user does: run_own(*arguments, env=settings)."""
    return functools.partial(run_demo, script=EXAMPLE)


@pytest.fixture
def start(request):
    """Start the example without waiting for it, with *batch_size* texts a request."""
    def start(settings, *arguments, texts=(), batch_size=2):
        code = f"from own_texts import *; demo.BATCH_SIZE = {batch_size}; demo.main(run)"
        process = subprocess.Popen(
            [sys.executable, "-c", code, "--texts", "-", *arguments], text=True,
            env=demo_environment(dict(settings, PYTHONPATH=str(EXAMPLE.parent))),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        request.addfinalizer(process.kill)
        print(*texts, sep="\n", file=process.stdin, flush=True)
        return process
    return start


def numbered(count):
    return [f"text number {number}" for number in range(count)]


def lines(texts):
    return "".join(text + "\n" for text in texts)


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_stopped(done, stored, *words):
    """Check that a load on TiDB told how much is stored, and its error unless it was Ctrl-C."""
    told, *errors = [line for line in done.stderr.splitlines() if "texts are done" not in line]
    assert told == f"{stored} texts were stored; the same command goes on with the rest"
    assert (done.returncode, len(errors)) == ((1, 1) if words else (130, 0)), done.stderr
    assert all(word in errors[0] for word in words)


def test_any_systems_line_ends_and_a_byte_order_mark_are_read(
        run_own, jina, real_settings, tmp_path):
    (tmp_path / "texts").write_bytes(b"\xef\xbb\xbfone\r\n\r\n  \t\ntwo \xe6\x96\x87\rthree")
    done = run_own("--texts", "texts", env=real_settings)
    assert done.returncode == 0 and jina.requests[1].texts == ["one", "two \u6587", "three"]


@pytest.mark.parametrize(("line", "texts"), [
    ("", []), (" \t", []), (" " * 300, []), (WIDE * 300, []), (" a ", [" a "]),
    ("x" * 255, ["x" * 255]), ("x" * 255 + " ", ["x" * 255]), ("x" * 256, ["x" * 255, "x"]),
    ("x" * 253 + " y z", ["x" * 253 + " y", "z"]), ("x" * 254 + " y", ["x" * 254, "y"]),
    ("a" + WIDE * 300 + "b", ["a", "b"]), ("a " + "x" * 300, ["a", "x" * 255, "x" * 45]),
    ("word " * 99 + "word", ["word " * 50 + "word", "word " * 48 + "word"])])
def test_a_line_of_more_than_255_characters_is_split_at_spaces_and_blanks_are_no_texts(line, texts):
    assert own_texts.split_line(line) == texts


@pytest.mark.parametrize("character", ["x", " ", WIDE])
def test_a_line_is_split_in_linear_time(character):
    def seconds(size):
        line, started = character * size, time.thread_time()
        own_texts.split_line(line)
        return time.thread_time() - started
    assert seconds(16_000_000) < 10 * seconds(4_000_000)


@pytest.mark.parametrize(("texts", "sizes"), [
    (numbered(1025), [512, 512, 1]),
    ([f"{number:03}" + "\u6587" * 252 for number in range(512)], [196, 196, 120]),
    ([f"{number:03}" + "\u6587" * 247 for number in range(200)], [200])])
def test_a_request_has_at_most_512_texts_and_50000_characters(texts, sizes):
    batches = list(own_texts.read_batches(io.StringIO(lines(texts)), Counter()))
    assert list(map(len, batches)) == sizes and sum(map(list, batches), []) == texts


def test_each_text_comes_once_with_its_first_line(demo, monkeypatch):
    monkeypatch.setattr(demo, "BATCH_SIZE", 2)
    texts, count = ["a", "", "b", "a", "b", "c" * (255 * 9999 + 90), "b", "d"], Counter()
    assert list(own_texts.read_batches(io.StringIO(lines(texts)), count)) == [
        {"a": 1, "b": 3}, {"c" * 255: 6, "c" * 90: 6}, {"d": 8}]
    assert count == {"repeated in the file": 9998 + 3, "lines split": 1}


@pytest.mark.parametrize("bad", [
    b"caf\xe9", "\u6587".encode()[:2], b"\xed\xa0\x80", b"a\0b", "one".encode("utf-16")],
    ids=["an undecodable byte", "a cut character", "a surrogate", "a NUL", "UTF-16"])
def test_a_bad_line_is_an_error_that_names_it_and_what_came_before_is_stored(
        run_own, on_tidb, jina, bad):
    done = run_own("--texts", "-", input=b"one\n\ntwo\nthree\n" + bad + b"\nsix", env=on_tidb)
    done.stderr = done.stderr.decode()
    assert_stopped(done, 3, "line 5 ", "UTF-8")
    assert [request.texts for request in jina.requests[1:]] == [["one", "two", "three"]]
    assert sql(on_tidb["TIDB_DATABASE_URL"], COUNT) == [(3, 3)]


def test_a_device_that_never_ends_is_an_error(run_own):
    assert_one_line_error(run_own("--texts", "/dev/zero"), "line 1 ", "UTF-8")


def test_stdout_has_the_results_alone_nearest_first(run_own, real_settings):
    texts, query = ["red apple", "green apple", "red car", "blue sky"], "red apple"
    done = run_own("--texts", "-", "--query", query, "--limit", "3", input=lines(texts),
                   env=real_settings)
    result = r"  - distance: (\S+)\n    content: (.*)\n"
    database = "TiDB" if real_settings["TIDB_DATABASE_URL"] else "In-Memory SQLite"
    assert re.sub(result, "", done.stdout) == (
        f"- Inserting Data to {database}...\n"
        "  - Stored: 4, already stored: 0, repeated in the file: 0, lines split: 0\n"
        "- The 3 Most Relevant Documents and Their Distances to the Query:\n")
    nearest = sorted((cosine_distance(embedding_of(query), embedding_of(text)), text)
                     for text in texts)[:3]
    assert [(pytest.approx(float(distance), abs=1e-6), text)
            for distance, text in re.findall(result, done.stdout)] == nearest


def test_loading_again_embeds_and_stores_only_what_is_new(run_own, on_tidb, jina):
    run_own("--texts", "-", input="one\n", env=on_tidb)
    texts, new = ["one", "two", "two", "two", "x" * 256], ["two", "x" * 255, "x"]
    done = run_own("--texts", "-", input=lines(texts), env=on_tidb)
    assert done.stdout.endswith(
        "  - Stored: 3, already stored: 1, repeated in the file: 2, lines split: 1\n")
    assert [request.texts for request in jina.requests] == [
        ["What is TiDB?"], ["one"], ["What is TiDB?"], new]
    stored = sql(on_tidb["TIDB_DATABASE_URL"], f"SELECT content FROM {TABLE}")
    assert sorted(row[0] for row in stored) == sorted(["one", *new])


def test_hostile_texts_come_back_byte_for_byte(run_own, real_settings):
    done = run_own("--texts", "-", "--query", "x", "--limit", "99", input=lines(HOSTILE).encode(),
                   env=dict(real_settings, PYTHONUTF8="1"))
    assert sorted(re.findall("    content: (.*)", done.stdout.decode())) == sorted(HOSTILE)


def test_asking_finds_what_an_earlier_run_stored_and_another_model_has_none_of_it(
        run_own, on_tidb, jina):
    run_own("--texts", "-", input="a text\n", env=on_tidb)
    done = run_own("--query", "What is TiDB?", "--limit", "9", env=on_tidb)
    title = "- The Most Relevant Document and Its Distance to the Query:"
    assert re.sub("distance: .*", "", done.stdout) == f"{title}\n  - \n    content: a text\n"
    v3 = dict(on_tidb, JINAAI_MODEL="jina-embeddings-v3")
    done = run_own("--query", "What is TiDB?", env=v3)
    assert_one_line_error(done, "no text is stored for jina-embeddings-v3", "--texts")
    run_own("--texts", "-", input="a text\n", env=v3)
    assert [request.json["task"] for request in jina.requests[-2:]] == [
        "retrieval.query", "retrieval.passage"]


def test_asking_the_stand_in_without_texts_says_that_it_forgets(run_own):
    assert_one_line_error(run_own("--query", "Where?"), "has forgotten what", "in one command")


@pytest.mark.parametrize("arguments", [
    ["--query", ""], ["--query", "  "], ["--query", "\udcff"], ["--texts"],
    ["--limit", "0"], ["--limit", "-1"], ["--limit", "many"], ["--limit", "1.5"],
    ["--limit", "9" * 30], ["--requests", "0"], ["--requests", "11"], ["--requests", "x"],
    ["--texts", "", "--query", "a"], ["--nonsense"], ["argument"], []])
def test_a_wrong_option_is_one_line_and_status_2(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["own_texts.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        own_texts.demo.main(own_texts.run)
    done = types.SimpleNamespace(stderr=capsys.readouterr().err, returncode=ended.value.code)
    assert_one_line_error(done, *arguments[:1], "--help", status=2)


@pytest.mark.parametrize(("file", "model", "words", "requests"), [
    ("none", "", ["No such file", "none"], 0), (".", "", ["directory"], 0),
    ("-", "jina-embeddings-v2-small-en", ["768 dimensions"], 1)])
def test_a_file_that_cannot_be_opened_or_a_model_that_fails_leaves_no_table(
        run_own, on_tidb, jina, file, model, words, requests):
    done = run_own("--texts", file, input="a text\n", env=dict(on_tidb, JINAAI_MODEL=model))
    assert_one_line_error(done, *words)
    assert len(jina.requests) == requests and done.stdout == ""
    assert sql(on_tidb["TIDB_DATABASE_URL"], "SHOW TABLES") == []


def test_few_batches_are_read_ahead_of_those_that_are_stored():
    read = []
    batches = (read.append(str(line)) or {str(line): line} for line in range(100, 200))
    stream = own_texts.embed_batches(batches, lambda texts, *rest: texts, 3, lambda: None)
    stored = next(stream)[0]
    time.sleep(0.2)
    assert len(read) <= 3 + 2  # one by each thread, one that waits, one that is stored
    assert sorted(sum((texts for texts, _ in stream), stored)) == read


@IN_MEMORY
@pytest.mark.parametrize(("arguments", "most"), [([], 2), (["--requests", "10"], 10)])
def test_two_run_at_a_time_unless_told_each_on_one_connection(
        start, jina, real_settings, monkeypatch, arguments, most):
    meeting = threading.Barrier(most, timeout=60)  # that many at once, or none goes on
    monkeypatch.setattr(jina, "embed", lambda text, *rest: [
        1.0 if text == "What is TiDB?" else 2.0 + meeting.wait()] * 768)
    process = start(real_settings, *arguments, texts=numbered(4 * most))
    process.communicate(timeout=120)
    assert (process.returncode, jina.most_open, jina.connections) == (0, most, most)


@IN_MEMORY
def test_a_request_is_tried_for_an_hour(jina_demo, engine, jina, waits):
    jina.faults = [status(429)] * 100
    assert own_texts.load(engine, jina_demo.embed_texts, io.StringIO("a"), 1)["stored"] == 1
    assert sum(waits) > 600
    waits.clear()
    jina.faults = [status(429)] * 1000
    with pytest.raises(ValueError, match="^line 1: the service answered 429"):
        own_texts.load(engine, jina_demo.embed_texts, io.StringIO("b"), 1)
    assert 3500 < sum(waits) <= 3600


@IN_MEMORY
@pytest.mark.parametrize("requests", [2, 10])
def test_a_load_of_three_minutes_of_tokens_runs_through_a_free_keys_limits(
        jina_demo, engine, jina, monkeypatch, requests):
    admitted, texts, over_limit = [], numbered(3000), jina.over_limit
    clock = types.SimpleNamespace(monotonic=lambda: 30 * time.monotonic(),
                                  sleep=lambda seconds: time.sleep(seconds / 30))
    monkeypatch.setattr(
        jina, "over_limit", lambda tokens: over_limit(tokens) or admitted.append(tokens))
    monkeypatch.setattr(jina, "embed", lambda *ignored: [1.0] * 768)
    monkeypatch.setattr(jina_demo, "time", clock)
    jina.limit(tokens=13000, requests=100, at_once=2, clock=clock)
    file = io.StringIO(lines(text + " has nine words in all here" for text in texts))
    count = own_texts.load(engine, jina_demo.embed_texts, file, requests)
    assert count["stored"] == 3000 and sum(admitted) == 9 * 3000  # none is embedded twice


def test_without_tqdm_a_line_is_shown_every_ten_seconds(demo, monkeypatch, capsys):
    now = [0]
    monkeypatch.setattr(command_line, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    progress = command_line.Progress(demo.logger)
    for now[0] in range(30):
        progress.show(now[0])
        if now[0] == 15:
            demo.logger.warning("a limit (next try in %d s)", 4)
    progress.close()
    assert capsys.readouterr().err == (
        "11 texts are done\n22 texts are done; a limit (next try in 4 s)\n")
    assert demo.logger.handlers == []


@IN_MEMORY
@pytest.mark.parametrize("answered", [0, 1])
def test_on_a_terminal_a_bar_tells_texts_speed_and_why_it_waits(
        jina_demo, engine, jina, monkeypatch, answered):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(jina_demo, "time", time)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    jina.faults = [None] * answered + [status(429, {"Retry-After": "2"})]
    own_texts.load(engine, jina_demo.embed_texts, io.StringIO(lines(numbered(600))), 1)
    shown = sys.stderr.getvalue().strip().split("\r")
    assert any("429" in bar and "next try in 2 s" in bar for bar in shown), shown
    assert re.match("600 texts .* texts/s", shown[-1]) and "429" not in shown[-1]


@pytest.mark.parametrize(("odd", "named"), [
    (["odd", "text"], "lines 5 to 6"), (["odd" * 84 + " more text"], "line 5")])
def test_a_refused_text_is_named_by_its_lines_and_all_before_it_is_stored(
        jina_demo, engine, monkeypatch, capsys, odd, named):
    monkeypatch.setattr(jina_demo, "BATCH_SIZE", 2)
    asked, later = [], threading.Event()

    def embed(batch, *rest):
        name = batch[0][:3]
        asked.append(name)
        if name in ("odd", "thr"):  # are on their way for longer than what is refused later
            assert later.wait(60)
            time.sleep(0.3 if name == "odd" else 0.6)
        if name in ("odd", "lat"):
            later.set()
            raise jina_demo.EmbeddingError(f"the service answered 422: {name}")
        return [[1.0] * 768 for _ in batch]

    good, rest = ["one", "two", "three", "four"], [*odd, "later", "refused", "never", "begun"]
    with pytest.raises(ValueError, match=f"^{named}: the service answered 422: odd"):
        own_texts.load(engine, embed, io.StringIO(lines(good + rest)), 3)
    assert sorted(asked) == ["lat", "odd", "one", "thr"]
    assert jina_demo.new_texts(engine, good + rest[-4:]) == rest[-4:]
    assert capsys.readouterr().err == (
        "4 texts were stored; the same command goes on with the rest\n"
        if engine.dialect.name == "mysql" else "")


def test_a_file_with_a_refused_text_is_mended_and_loaded_to_its_end(run_own, on_tidb, jina):
    texts = numbered(1200)
    jina.faults = [None, None, status(422, body={"detail": "an odd text"})]
    done = run_own("--texts", "-", "--requests", "1", input=lines(texts), env=on_tidb)
    assert_stopped(done, 512, "lines 513 to 1024: the service answered 422", "an odd text")
    assert len(jina.requests) == 3 and sql(on_tidb["TIDB_DATABASE_URL"], COUNT) == [(512, 512)]
    texts[600], jina.faults = "mended", [drop]  # which is tried again
    done = run_own("--texts", "-", input=lines(texts), env=on_tidb)
    assert "  - Stored: 688, already stored: 512, " in done.stdout
    assert sorted(sum((request.texts for request in jina.requests[5:]), [])) == sorted(texts[512:])


@pytest.mark.parametrize(("faults", "count", "words"), [
    ([None, None] + [hang(300)] * 9, 10, []), ([None, None] + [status(429)] * 99, 10, []),
    ([], 3, []), ([None, None, status(422)], 5, ["lines ", "422"])],
    ids=["an answer", "the limit", "its input", "its input, and a text is refused"])
def test_a_load_that_waits_is_stopped_at_once_and_goes_on_when_run_again(
        start, run_own, on_tidb, jina, faults, count, words):
    jina.faults = faults
    process = start(on_tidb, texts=numbered(count))
    process.stdout.readline()
    wait_until(lambda: sql(on_tidb["TIDB_DATABASE_URL"], COUNT) == [(2, 2)])
    time.sleep(0.5)
    if not words:
        process.send_signal(signal.SIGINT)
    process.wait(30)
    process.stderr = process.stderr.read()
    assert_stopped(process, 2, *words)
    jina.reset()
    done = run_own("--texts", "-", input=lines(numbered(10)), env=on_tidb)
    assert "  - Stored: 8, already stored: 2, " in done.stdout


def test_kill_9_and_three_loads_at_once_lose_and_double_nothing(start, on_tidb, jina):
    texts, moments, jina.latency = numbered(400), random.Random(9), 0.02
    for killed in True, True, False:
        loads = [start(on_tidb, texts=texts, batch_size=10) for _ in range(3)]
        for load in loads * killed:
            load.stdout.readline()
            time.sleep(moments.uniform(0, 0.2))
            load.kill()
    assert [load.communicate() and load.returncode for load in loads] == [0, 0, 0]
    rows = sql(on_tidb["TIDB_DATABASE_URL"],
               f"SELECT content, VEC_AS_TEXT(content_vec) FROM {TABLE}")
    assert sorted(content for content, _ in rows) == sorted(texts)
    for content, vector in rows:
        assert json.loads(vector) == pytest.approx(embedding_of(content), abs=1e-6)


@pytest.fixture
def begin(jina, request):
    """Start a TiDB of the test's own; return the settings of a real run."""
    def begin(server):
        request.addfinalizer(lambda: server.kill())
        return {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url,
                "TIDB_DATABASE_URL": server.start().url}
    return begin


def test_tidb_killed_in_a_load_is_an_error_and_the_rerun_completes(
        start, run_own, jina, begin, tmp_path):
    server, jina.latency = tidb_process(tmp_path), 0.05
    settings = begin(server)
    process = start(settings, texts=numbered(200), batch_size=10)
    wait_until(lambda: len(jina.requests) > 6)
    server.kill()
    process.stderr = process.communicate(timeout=60)[1]
    told = int(re.findall("([0-9]+) texts were stored", process.stderr)[0])
    assert_stopped(process, told, "check TIDB_DATABASE_URL")
    server.start()
    [(stored, _)] = sql(server.url, COUNT)
    assert 0 < told <= stored < 200
    done = run_own("--texts", "-", input=lines(numbered(200)), env=settings)
    assert f"  - Stored: {200 - stored}, already stored: {stored}, " in done.stdout


def test_a_build_longer_than_the_read_timeout_is_waited_for_and_explain_shows_the_index(
        run_own, begin, tmp_path):
    env = begin(tiflash_process(tmp_path, "-build-for", "4s"))
    env["TIDB_DATABASE_URL"] += "?read_timeout=2"
    done = run_own("--texts", "-", "--vector-index", input=lines(numbered(50)), env=env)
    assert done.returncode == 0 and "waiting for the vector index" in done.stderr, done.stderr
    assert "EXPLAIN says" in done.stderr and sql(env["TIDB_DATABASE_URL"], INDEX)
    ask = functools.partial(run_own, "--vector-index", "--query", "number 7", env=env)
    wait_until(lambda: "the search uses the vector index" in ask().stderr)  # once it is ready
    assert "    content: text number 7\n" in ask().stdout


def test_ctrl_c_leaves_the_build_to_tidb_and_a_second_run_says_that_it_is_being_built(
        start, run_own, begin, tmp_path):
    env = begin(tiflash_process(tmp_path, "-build-for", "600s"))
    process = start(env, "--vector-index", texts=numbered(5))
    process.stdin.close()
    assert "after a Ctrl-C, TiDB goes on building it" in process.stderr.readline()
    adding = "SELECT 1 FROM information_schema.ddl_jobs WHERE state = 'running'"
    wait_until(lambda: sql(env["TIDB_DATABASE_URL"], adding))
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130 and process.stderr.read() == ""
    done = run_own("--vector-index", "--query", "number 3", env=env)
    assert done.returncode == 0 and "    content: text number 3\n" in done.stdout
    assert "1061" in done.stderr and "the search is exact" in done.stderr
    assert sql(env["TIDB_DATABASE_URL"], adding)


@pytest.mark.parametrize("words", [
    ["9014", "disk is full"], ["1105"], ["without TiDB"]], ids=["TiFlash fails", "no TiFlash", ""])
def test_without_an_index_a_line_says_why_and_that_the_search_is_exact(
        run_own, request, begin, tmp_path, words):
    env = request.getfixturevalue("on_tidb") if words == ["1105"] else {}
    if words[0] == "9014":
        env = begin(tiflash_process(tmp_path, "-build-error", "disk is full"))
    done = run_own("--texts", "-", "--vector-index", "--query", "a", input="a\nb\n", env=env)
    assert done.returncode == 0 and "    content: a\n" in done.stdout
    line, = [line for line in done.stderr.splitlines() if "no vector index" in line]
    assert all(word in line for word in ["the search is exact", *words])
