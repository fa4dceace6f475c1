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
from multiprocessing.pool import ThreadPool

import pytest
from helpers import (
    QUESTION,
    ROOT,
    TABLE,
    assert_one_line_error,
    demo_command,
    demo_environment,
    sql,
    tidb_process,
    tiflash_process,
)
from jina_server import cosine_distance, detail, drop, embedding_of, hang, status

from examples import command_line, own_texts
from examples.text_files import Text

EXAMPLE = ROOT / "examples" / "own_texts.py"
COUNT = f"SELECT COUNT(*), COUNT(DISTINCT content) FROM {TABLE}"
IN_MEMORY = pytest.mark.parametrize("database_url", [""], ids=["in-memory"])

HOSTILE = [
    "it's \"quoted\"", "back\\slash \\' \\", "%s %(name)s %", ":name", "{} {0} {name}", "`tick`",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627", " leading", "trailing ", "trailing",
    "Case", "case", "caf\u00e9", "cafe\u0301", "a\u2028b", "tab\tinside", "'; DROP TABLE x; --",
    "NULL", "\u200b", "[1,2]", "\x7f\x1b[31m", "-", "--", "in\ufeffside"]
LONGEST = ["\U0001f600" * 255, "x" * 255]


# %% What the tests share
@pytest.fixture
def run_own(run_demo):
    """Run the example as a user does: run_own(*arguments, env=settings)."""
    return functools.partial(run_demo, script=EXAMPLE)


@pytest.fixture
def start(request):
    """Start the example without waiting for it, with *batch_size* texts a request."""

    def start(settings, *arguments, texts=(), batch_size=2):
        code = (
            "from examples import command_line, own_texts;"
            f"own_texts.demo.BATCH_SIZE = {batch_size};"
            "command_line.main(own_texts.run)")
        process = subprocess.Popen(
            [sys.executable, "-c", code, "--texts", "-", *arguments],
            env=demo_environment({**settings, "PYTHONPATH": str(ROOT)}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True)
        request.addfinalizer(process.kill)
        print(*texts, sep="\n", file=process.stdin, flush=True)
        return process

    return start


def numbered(count):
    return [f"text number {number}" for number in range(count)]


def lines(texts):
    return "".join(text + "\n" for text in texts)


def in_file(texts):
    """The texts as they come from a file."""
    return [Text(text, f"notes.txt, line {line}") for line, text in enumerate(texts, 1)]


def same_embedding(texts, *ignored):
    return [[1.0] * 768 for _ in texts]


def stored_texts(url):
    return sorted(content for content, in sql(url, f"SELECT content FROM {TABLE}"))


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def results(output):
    """The questions of the output, and for each its list of (distance, text)."""
    found = {}
    for question, block in re.findall("- Query: (.*)\n((?:  .*\n)*)", output):
        found[question] = re.findall("  - distance: (.*)\n    content: (.*)\n", block)
    return found


def summary(done):
    """What a load says of its texts, for example {"stored": 3}, without what is 0."""
    [line] = [line for line in done.stderr.splitlines() if line.startswith("stored: ")]
    counts = re.findall("([a-z ]+): ([0-9]+)", line)
    return {name.strip(): int(count) for name, count in counts if count != "0"}


def assert_stopped(process, stored, *words):
    """Check that a load on TiDB told how much is stored, and its error."""
    told, *errors = process.stderr.splitlines()

    assert told == f"{stored} texts were stored; another run skips them"
    assert process.returncode == 1
    assert len(errors) == 1
    assert [word for word in words if word not in errors[0]] == [], errors[0]


# %% Load files, and ask
def test_stdout_has_the_results_alone_nearest_first(run_own, real_settings):
    texts = ["red apple", "green apple", "red car", "blue sky"]
    done = run_own(
        "--texts", "-", "--query", "red apple", "--limit", "3",
        input=lines(texts), env=real_settings)

    query = embedding_of("red apple")
    nearest = sorted((cosine_distance(query, embedding_of(text)), text) for text in texts)
    found = results(done.stdout)["red apple"]
    assert [text for _, text in found] == [text for _, text in nearest[:3]]
    for (shown, _), (distance, _) in zip(found, nearest):
        assert float(shown) == pytest.approx(distance, abs=1e-6)
    assert re.fullmatch("- Query: red apple\n(  - distance: .*\n    content: .*\n){3}", done.stdout)


def test_each_question_has_its_own_results(run_own, real_settings):
    done = run_own(
        "--texts", "-", "--query", "red", "blue", "--query", "a car",
        input="red apple\nblue sky\nold car\n", env=real_settings)

    found = results(done.stdout)
    assert list(found) == ["red", "blue", "a car"]
    assert [text for [(_, text)] in found.values()] == ["red apple", "blue sky", "old car"]


def test_several_files_are_loaded(run_own, on_tidb, tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(f"text of {name}\n")

    done = run_own("--texts", "a", "-", "--texts", "b", "c", input="typed\n", env=on_tidb)

    assert done.returncode == 0
    assert summary(done) == {"stored": 4}
    assert stored_texts(on_tidb["TIDB_DATABASE_URL"]) == [
        "text of a", "text of b", "text of c", "typed"]


def test_loading_again_embeds_only_what_is_new(run_own, on_tidb, jina):
    run_own("--texts", "-", input="one\n", env=on_tidb)
    jina.reset()

    texts = ["one", "two", "two", "two", "x" * 256]
    done = run_own("--texts", "-", input=lines(texts), env=on_tidb)

    assert summary(done) == {"stored": 3, "already stored": 1, "repeated": 2, "lines split": 1}
    assert [request.texts for request in jina.requests] == [
        [QUESTION], ["two", "x" * 255, "x"]]


def test_hostile_texts_come_back_byte_for_byte(run_own, real_settings):
    texts = HOSTILE + LONGEST
    done = run_own(
        "--texts", "-", "--query", "x", "--limit", "99",
        input=lines(texts).encode(), env={**real_settings, "PYTHONUTF8": "1"})

    found = re.findall("    content: (.*)", done.stdout.decode())
    assert sorted(found) == sorted(texts)


def test_asking_finds_what_an_earlier_run_stored(run_own, on_tidb):
    run_own("--texts", "-", input="a text\n", env=on_tidb)

    done = run_own("--query", QUESTION, "--limit", "9", env=on_tidb)

    [(_, text)] = results(done.stdout)[QUESTION]
    assert text == "a text"


def test_another_model_has_texts_of_its_own(run_own, on_tidb, jina):
    run_own("--texts", "-", input="a text\n", env=on_tidb)
    v3 = {**on_tidb, "JINAAI_MODEL": "jina-embeddings-v3"}

    done = run_own("--query", QUESTION, env=v3)
    assert_one_line_error(done, "no text is stored for jina-embeddings-v3", "--texts")

    run_own("--texts", "-", input="a text\n", env=v3)
    assert [request.json["task"] for request in jina.requests[-2:]] == [
        "retrieval.query", "retrieval.passage"]


def test_asking_the_stand_in_needs_texts_in_the_same_command(run_own):
    assert_one_line_error(run_own("--query", "Where?"), "no text is stored", "in the same command")


# %% Options and files that are refused
@pytest.mark.parametrize("arguments", [
    ["--query", ""], ["--query", "  "], ["--query", "\udcff"], ["--query"], ["--texts"],
    ["--limit", "0"], ["--limit", "-1"], ["--limit", "many"], ["--limit", "1.5"],
    ["--limit", "1000001"], ["--limit", "9" * 5000],
    ["--requests", "0"], ["--requests", "11"], ["--requests", "x"],
    ["--nonsense"], ["argument"], []], ids=lambda arguments: " ".join(arguments)[:20])
def test_a_wrong_option_is_one_line_and_status_2(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["own_texts.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        command_line.main(own_texts.run)

    done = types.SimpleNamespace(stderr=capsys.readouterr().err, returncode=ended.value.code)
    assert_one_line_error(done, *arguments[:1], "--help", status=2)


@pytest.mark.parametrize(("option", "most"), [("--limit", 1_000_000), ("--requests", 10)])
def test_a_number_that_is_refused_tells_what_the_option_takes(run_own, option, most):
    done = run_own(option, str(most + 1), "--query", "Where?")

    assert_one_line_error(done, option, f"from 1 to {most}", status=2)


@pytest.mark.parametrize(("file", "words"), [
    ("missing.txt", ["No such file", "missing.txt"]),
    (".", ["directory"]),
    ("picture", ["picture, line 1 has a NUL", "binary"])])
def test_a_file_that_is_refused_ends_the_run_before_anything_is_sent_or_stored(
        run_own, on_tidb, jina, tmp_path, file, words):
    (tmp_path / "good.txt").write_text("a good text\n")
    (tmp_path / "picture").write_bytes(b"GIF\0")

    done = run_own("--texts", "good.txt", file, env=on_tidb)

    assert_one_line_error(done, *words)
    assert jina.requests == []
    assert sql(on_tidb["TIDB_DATABASE_URL"], "SHOW TABLES") == []


def test_a_model_of_another_size_leaves_no_table(run_own, on_tidb):
    small = {**on_tidb, "JINAAI_MODEL": "jina-embeddings-v2-small-en"}

    done = run_own("--texts", "-", input="a text\n", env=small)

    assert_one_line_error(done, "512 dimensions")
    assert done.stdout == ""
    assert sql(on_tidb["TIDB_DATABASE_URL"], "SHOW TABLES") == []


def test_a_bad_line_further_on_is_named_and_all_else_is_stored(run_own, on_tidb, tmp_path):
    good = lines(f"{text} {'x' * 230}" for text in numbered(300))
    (tmp_path / "bad.txt").write_bytes(good.encode() + b"caf\xe9\n")
    (tmp_path / "good.txt").write_text("of another file\n")

    done = run_own("--texts", "bad.txt", "good.txt", "--query", "another file", env=on_tidb)

    assert done.returncode == 1
    assert summary(done) == {"stored": 301}
    assert results(done.stdout)["another file"][0][1] == "of another file"
    *_, named, error = done.stderr.splitlines()
    assert "bad.txt, line 301 is not UTF-8" in named
    assert error.startswith("error: ")


# %% Texts and batches that the service refuses
def test_a_refused_text_is_left_out_and_named_at_the_end(run_own, on_tidb, jina):
    def refuse_the_odd_text(handler, answer):
        refused = "an odd text" in jina.requests[-1].texts
        handler.reply(422 if refused else 200, detail("too odd") if refused else answer)

    jina.faults = [None] + [refuse_the_odd_text] * 99
    texts = [*numbered(600), "an odd text", "the last text"]
    done = run_own(
        "--texts", "-", "--query", "the last text", "--requests", "1",
        input=lines(texts), env=on_tidb)

    assert done.returncode == 1
    assert summary(done) == {"stored": 601, "refused": 1}
    assert results(done.stdout)["the last text"][0][1] == "the last text"
    *_, named, error = done.stderr.splitlines()
    assert "standard input, line 601" in named
    assert "422" in named and "too odd" in named
    assert error.startswith("error: ")


@IN_MEMORY
@pytest.mark.parametrize("code", [400, 413, 422])
def test_the_other_half_of_a_refused_batch_is_stored(jina_demo, engine, jina, code):
    jina.faults = [status(code), None, status(code)]

    summary = own_texts.load(engine, jina_demo.embed_texts, in_file(["good", "odd"]), 1)

    assert jina_demo.new_texts(engine, ["good", "odd"]) == ["odd"]
    [named] = summary.refused
    assert named.startswith(f"notes.txt, line 2: the service answered {code}")


@IN_MEMORY
def test_100_refused_texts_among_10000_take_at_most_2000_requests_more(jina_demo, engine):
    texts = numbered(10_000)
    odd = set(random.Random(7).sample(texts, 100))
    requests = []

    def embed(batch, *ignored):
        requests.append(batch)
        if not odd.isdisjoint(batch):
            raise jina_demo.EmbeddingError("the service answered 422", 422)
        return same_embedding(batch)

    summary = own_texts.load(engine, embed, in_file(texts), 2)

    assert (summary.stored, len(summary.refused)) == (9900, 100)
    assert len(requests) <= 40 + 2000


@pytest.mark.parametrize("code", [413, 422])
def test_a_limit_on_the_texts_of_a_request_is_met(jina_demo, engine, code):
    def embed(batch, *ignored):
        if len(batch) > 32:
            raise jina_demo.EmbeddingError("batch size > maximum allowed batch size 32", code)
        return same_embedding(batch)

    summary = own_texts.load(engine, embed, in_file(numbered(1000)), 2)

    assert (summary.stored, summary.refused) == (1000, [])
    assert jina_demo.new_texts(engine, numbered(1000)) == []


@IN_MEMORY
@pytest.mark.parametrize("code", [401, 402, 403, 404])
def test_a_wrong_key_ends_the_load_at_once(jina_demo, engine, jina, code):
    jina.faults = [status(code)] * 99

    with pytest.raises(ValueError, match=f"notes.txt, line 1 to .* answered {code}"):
        own_texts.load(engine, jina_demo.embed_texts, in_file(numbered(9999)), 1)

    assert len(jina.requests) <= 3


def test_what_was_stored_before_an_error_stays_stored(run_own, on_tidb, jina):
    jina.faults = [None, None] + [status(402)] * 99

    done = run_own("--texts", "-", "--requests", "1", input=lines(numbered(9999)), env=on_tidb)

    assert_stopped(done, 256, "402", "standard input, line 257")
    assert sql(on_tidb["TIDB_DATABASE_URL"], COUNT) == [(256, 256)]


# %% Patience
@IN_MEMORY
def test_a_limit_of_a_minute_is_outlasted(jina_demo, engine, jina, waits):
    jina.faults = [status(429, {"Retry-After": "60"})] * 3

    summary = own_texts.load(engine, jina_demo.embed_texts, in_file(["a text"]), 1)

    assert summary.stored == 1
    assert 60 < sum(waits) <= 240


def test_who_only_asks_waits_75_seconds_at_most(jina_demo, jina, waits, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["own_texts.py", "--query", "Where?"])
    jina.faults = [status(429)] * 999

    with pytest.raises(jina_demo.EmbeddingError, match="429"):
        own_texts.run()

    assert 60 < sum(waits) <= 75


def test_who_loads_waits_longer_with_the_first_question(
        jina_demo, jina, waits, monkeypatch, tmp_path):
    (tmp_path / "notes.txt").write_text("a text\n")
    monkeypatch.setattr(sys, "argv", ["own_texts.py", "--texts", str(tmp_path / "notes.txt")])
    jina.faults = [status(429)] * 15

    own_texts.run()

    assert sum(waits) > 75


@IN_MEMORY
def test_a_500_that_never_passes_ends_after_19_minutes_with_its_lines(
        jina_demo, engine, jina, waits):
    jina.faults = [status(500, body={"error": "input is too large to process"})] * 9999

    with pytest.raises(ValueError, match="line 1 to notes.txt, line 3: .* 500: .*too large"):
        own_texts.load(engine, jina_demo.embed_texts, in_file(["a", "b", "c"]), 1)

    assert 18 * 60 < sum(waits) < 19 * 60


@IN_MEMORY
def test_a_slow_server_is_loaded_from_in_at_most_four_tries_a_batch(
        jina_demo, engine, jina, monkeypatch):
    monkeypatch.setattr(jina_demo, "time", time)
    monkeypatch.setattr(jina_demo, "BATCH_SIZE", 2)
    # As for a server that takes 75 s for a batch, but 60 times as fast.
    monkeypatch.setattr(own_texts, "PATIENCES", (1.25, 2.5, 5, 10))
    turn = threading.Lock()

    def answer_in_turn(handler, answer):
        with turn:
            time.sleep(1.25)
        handler.reply(200, answer)

    jina.faults = [answer_in_turn] * 99
    summary = own_texts.load(engine, jina_demo.embed_texts, in_file(numbered(4)), 2)

    tries = [request.texts[0] for request in jina.requests]
    assert summary.stored == 4
    assert max(tries.count(text) for text in tries) <= 4


@IN_MEMORY
def test_four_loads_at_once_take_little_longer_than_a_free_keys_limits(
        jina_demo, engine, jina, monkeypatch):
    # Three minutes of tokens, of which those of the first minute go at once. The clock is
    # 20 times as fast, and a batch has 16 texts, so that embedding and storing take no time.
    clock = types.SimpleNamespace(
        monotonic=lambda: 20 * time.monotonic(), sleep=lambda seconds: time.sleep(seconds / 20))
    monkeypatch.setattr(jina_demo, "time", clock)
    monkeypatch.setattr(jina_demo, "BATCH_SIZE", 16)
    monkeypatch.setattr(jina, "embed", lambda *ignored: [1.0] * 768)
    jina.limit(tokens=12_000, requests=100, at_once=2, clock=clock)
    texts = [text + " word" * 57 for text in numbered(512)]
    started = clock.monotonic()

    def load(part):
        return own_texts.load(engine, jina_demo.embed_texts, in_file(texts[part::4]), 2).stored

    with ThreadPool(4) as pool:
        assert pool.map(load, range(4)) == [128] * 4

    assert clock.monotonic() - started < 1.5 * 120


# %% Requests at a time
def test_few_batches_are_read_ahead_of_those_that_are_stored(jina_demo, tidb, monkeypatch):
    monkeypatch.setattr(jina_demo, "BATCH_SIZE", 1)
    engine = jina_demo.create_tidb_engine(tidb)
    jina_demo.create_table(engine)
    ahead = []

    def read():
        for number, text in enumerate(in_file(numbered(30))):
            ahead.append(number - sql(tidb, COUNT)[0][0])
            yield text

    own_texts.load(engine, same_embedding, read(), 3)

    assert max(ahead) <= 3 + 2


@IN_MEMORY
@pytest.mark.parametrize(("arguments", "most"), [([], 2), (["--requests", "10"], 10)])
def test_two_run_at_a_time_unless_told_each_on_one_connection(
        start, jina, real_settings, monkeypatch, arguments, most):
    # So many have to meet at the endpoint, or none goes on.
    meeting = threading.Barrier(most, timeout=60)

    def embed(text, *ignored):
        if text != QUESTION:
            meeting.wait()
        return [1.0] * 768

    monkeypatch.setattr(jina, "embed", embed)
    process = start(real_settings, *arguments, texts=numbered(4 * most), batch_size=1)
    process.communicate(timeout=120)

    assert process.returncode == 0
    assert (jina.most_open, jina.connections) == (most, most)


# %% Progress
def test_without_tqdm_a_line_is_shown_every_ten_seconds(demo, monkeypatch, capsys):
    now = [0]
    monkeypatch.setattr(command_line, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm", None)

    with command_line.Progress(demo.logger) as progress:
        for now[0] in range(40):
            progress.show(min(now[0], 20))
            if now[0] == 21:
                demo.logger.warning("a limit (next try in %d s)", 4)

    assert capsys.readouterr().err.splitlines() == [
        "11 texts are done",
        "20 texts are done; a limit (next try in 4 s)",
        "20 texts are done; a limit (next try in 4 s)"]
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

    own_texts.load(engine, jina_demo.embed_texts, in_file(numbered(600)), 1)

    shown = sys.stderr.getvalue().strip().split("\r")
    assert any("429" in bar and "next try in 2 s" in bar for bar in shown), shown
    assert re.match("600 texts .* texts/s", shown[-1])
    assert "429" not in shown[-1]


# %% Loads that are stopped, or that run at once
@pytest.mark.parametrize("fault", [hang(300), status(429)], ids=["an answer", "a limit"])
def test_ctrl_c_ends_a_load_that_waits_and_another_run_goes_on(
        start, run_own, on_tidb, jina, fault):
    jina.faults = [None, None] + [fault] * 99
    process = start(on_tidb, "--requests", "1", texts=numbered(10))
    process.stdin.close()
    wait_until(lambda: len(jina.requests) >= 3)
    wait_until(lambda: sql(on_tidb["TIDB_DATABASE_URL"], COUNT) == [(2, 2)])
    time.sleep(0.5)

    process.send_signal(signal.SIGINT)

    assert process.wait(5) == 130
    assert process.stderr.read() == "2 texts were stored; another run skips them\n"
    jina.reset()
    done = run_own("--texts", "-", input=lines(numbered(10)), env=on_tidb)
    assert summary(done) == {"stored": 8, "already stored": 2}


@IN_MEMORY
def test_ctrl_c_ends_a_load_that_waits_for_its_input(start, jina, real_settings):
    process = start(real_settings, texts=numbered(10))
    wait_until(lambda: len(jina.requests) >= 4)

    process.send_signal(signal.SIGINT)

    assert process.wait(5) == 130
    assert "Traceback" not in process.stderr.read()


def test_a_load_goes_on_after_a_connection_that_broke(run_own, on_tidb, jina):
    jina.faults = [None, drop]

    done = run_own("--texts", "-", input=lines(numbered(600)), env=on_tidb)

    assert done.returncode == 0
    assert sql(on_tidb["TIDB_DATABASE_URL"], COUNT) == [(600, 600)]


def test_kill_9_and_three_loads_at_once_lose_and_double_nothing(start, on_tidb, jina):
    texts = numbered(200)
    moments = random.Random(9)
    jina.latency = 0.02
    killed = [start(on_tidb, texts=texts, batch_size=10) for _ in range(3)]
    wait_until(lambda: len(jina.requests) > 6)
    for load in killed:
        time.sleep(moments.uniform(0, 0.2))
        load.kill()
    jina.reset()

    loads = [start(on_tidb, texts=texts, batch_size=10) for _ in range(3)]
    for load in loads:
        load.communicate(timeout=60)
        assert load.returncode == 0

    rows = sql(
        on_tidb["TIDB_DATABASE_URL"],
        f"SELECT content, VEC_AS_TEXT(content_vec) FROM {TABLE}")
    assert sorted(content for content, _ in rows) == sorted(texts)
    for content, vector in rows:
        assert json.loads(vector) == pytest.approx(embedding_of(content), abs=1e-6)


def test_two_loads_in_opposite_orders_store_at_the_same_moment(jina_demo, tidb):
    engine = jina_demo.create_tidb_engine(tidb)
    jina_demo.create_table(engine)
    meeting = threading.Barrier(2, timeout=60)

    def embed(texts, *ignored):
        meeting.wait()
        return [[0.123456789] * 768 for _ in texts]

    def load(texts):
        return own_texts.load(engine, embed, in_file(texts), 1).stored

    for turn in range(2):
        texts = [f"{text} of turn {turn}" for text in numbered(256)]
        with ThreadPool(2) as pool:
            assert pool.map(load, [texts, texts[::-1]]) == [256, 256]
    assert sql(tidb, COUNT) == [(2 * 256, 2 * 256)]


@pytest.fixture
def begin(jina, request):
    """Start a TiDB of the test's own; return the settings of a real run."""

    def begin(server):
        request.addfinalizer(lambda: server.kill())
        return {
            "JINAAI_API_KEY": jina.key,
            "JINAAI_API_URL": jina.url,
            "TIDB_DATABASE_URL": server.start().url,
        }

    return begin


def test_tidb_killed_in_a_load_is_an_error_and_another_run_goes_on(
        start, run_own, jina, begin, tmp_path):
    server = tidb_process(tmp_path)
    settings = begin(server)
    jina.latency = 0.05
    process = start(settings, texts=numbered(200), batch_size=10)
    wait_until(lambda: len(jina.requests) > 6)

    server.kill()

    process.stderr = process.communicate(timeout=60)[1]
    told = int(re.findall("([0-9]+) texts were stored", process.stderr)[0])
    assert_stopped(process, told, "Troubleshooting")
    server.start()
    [(stored, _)] = sql(server.url, COUNT)
    assert 0 < told <= stored < 200
    done = run_own("--texts", "-", input=lines(numbered(200)), env=settings)
    assert summary(done) == {"stored": 200 - stored, "already stored": stored}


# %% The vector index
def test_a_build_longer_than_the_read_timeout_is_waited_for(run_own, begin, tmp_path):
    env = begin(tiflash_process(tmp_path, "-build-for", "4s"))
    env["TIDB_DATABASE_URL"] += "?read_timeout=2"

    done = run_own("--texts", "-", "--vector-index", input=lines(numbered(50)), env=env)

    assert done.returncode == 0, done.stderr
    assert "EXPLAIN" in done.stderr
    index = f"SHOW INDEX FROM {TABLE} WHERE Index_type = 'HNSW'"
    assert sql(env["TIDB_DATABASE_URL"], index)


def test_explain_shows_whether_the_search_uses_the_index(run_own, begin, tmp_path):
    env = begin(tiflash_process(tmp_path))
    run_own("--texts", "-", "--vector-index", input=lines(numbered(50)), env=env)

    def explain():
        return run_own("--vector-index", env=env).stderr

    # The replica may be ready a moment after the index.
    wait_until(lambda: "the search uses the vector index" in explain())
    assert "no vector index" not in explain()


def test_ctrl_c_leaves_the_build_to_tidb_and_another_run_says_that_it_is_being_built(
        start, run_own, begin, tmp_path):
    env = begin(tiflash_process(tmp_path, "-build-for", "600s"))
    jobs = "SELECT 1 FROM information_schema.ddl_jobs WHERE state = 'running'"
    process = start(env, "--vector-index", texts=numbered(5))
    process.stdin.close()
    wait_until(lambda: sql(env["TIDB_DATABASE_URL"], jobs))

    process.send_signal(signal.SIGINT)

    assert process.wait(30) == 130
    assert "TiDB goes on building it" in process.stderr.read().splitlines()[-1]
    done = run_own("--vector-index", "--query", "number 3", env=env)
    assert done.returncode == 0
    assert "1061" in done.stderr and "the search is exact" in done.stderr
    assert results(done.stdout)["number 3"][0][1] == "text number 3"
    assert sql(env["TIDB_DATABASE_URL"], jobs)


@pytest.fixture
def settings_without_index(request, begin, tmp_path):
    """Settings of a run that can build no index: for "1105", "9014" or "without TiDB"."""
    if request.param == "9014":
        return begin(tiflash_process(tmp_path, "-build-error", "disk is full"))
    return request.getfixturevalue("on_tidb") if request.param == "1105" else {}


@pytest.mark.parametrize(("settings_without_index", "words"), [
    ("without TiDB", "without TiDB"),
    ("1105", "1105"),
    ("9014", "disk is full")], indirect=["settings_without_index"])
def test_without_an_index_a_line_says_why_and_that_the_search_is_exact(
        run_own, settings_without_index, words):
    done = run_own(
        "--texts", "-", "--vector-index", "--query", "a",
        input="a\nb\n", env=settings_without_index)

    assert done.returncode == 0, done.stderr
    assert results(done.stdout)["a"][0][1] == "a"
    [line] = [line for line in done.stderr.splitlines() if "no vector index" in line]
    assert words in line and "the search is exact" in line


# %% Surroundings
@pytest.fixture
def many_texts(tmp_path):
    """The options that load texts and find 3000 of them."""
    (tmp_path / "notes.txt").write_text(lines(["caf\u00e9", *numbered(3000)]), encoding="utf-8")
    return ["--texts", "notes.txt", "--query", "caf\u00e9", "--limit", "3000"]


def test_a_program_that_reads_the_start_of_the_results_is_no_error(many_texts, tmp_path):
    process = subprocess.Popen(
        demo_command(*many_texts, script=EXAMPLE), env=demo_environment(), cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()

    errors = process.stderr.read()

    assert process.wait(60) == 141
    assert "Traceback" not in errors and "error" not in errors


def test_a_console_that_lacks_a_character_shows_its_number(run_own, many_texts):
    done = run_own(*many_texts, env={"PYTHONIOENCODING": "ascii"})

    assert done.returncode == 0
    assert "content: caf\\xe9\n" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--texts", "notes.txt"]], ids=" ".join)
def test_the_optional_package_may_be_missing(run_own, run_demo, tmp_path, arguments):
    (tmp_path / "notes.txt").write_text("a text\n")
    code = (
        "import sys; sys.modules['tqdm'] = None;"
        "from examples import command_line, own_texts; command_line.main(own_texts.run)")

    done = run_demo(code, *arguments, script="-c", env={"PYTHONPATH": str(ROOT)})

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
