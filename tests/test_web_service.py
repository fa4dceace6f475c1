"""examples/web_service.py: started as a user starts it, and asked over HTTP."""

import subprocess
import sys
import threading
from multiprocessing.pool import ThreadPool

import pytest
import requests
from fastapi import HTTPException
from helpers import (
    JINA_TEXT,
    QUESTION,
    ROOT,
    TIDB_TEXT,
    Process,
    assert_one_line_error,
    demo_environment,
    free_port,
    sql,
    tidb_process,
)
from jina_server import cosine_distance, embedding_of, hang, status
from sqlalchemy import QueuePool, create_engine, make_url

from examples import web_service


def service_command(*options):
    """The command line that starts the service, as its docstring has it."""
    examples = str(ROOT / "examples")
    return [
        sys.executable, "-m", "uvicorn", "--app-dir", examples, "web_service:app", *options]


@pytest.fixture
def serve(tmp_path):
    """Start the service with these settings: serve(settings) -> its process, with its `url`."""
    started = []

    def serve(settings):
        port = free_port()
        url = f"http://127.0.0.1:{port}/search"
        service = Process(
            service_command("--port", str(port)),
            tmp_path / "service.log",
            lambda: requests.get(url, timeout=5),  # it has no question, so nothing is searched
            env=demo_environment(settings),
        )
        service.url = url
        started.append(service.start())
        return service

    yield serve
    for service in started:
        service.kill()


def ask(service, question=QUESTION, **parameters):
    """The answer to a question."""
    parameters["question"] = question
    return requests.get(service.url, params=parameters, timeout=60)


def contents(answer):
    """The texts that an answer has."""
    assert answer.status_code == 200, answer.text
    return [found["content"] for found in answer.json()]


# %% Answers
def test_without_an_account_it_finds_the_demos_texts(serve):
    service = serve({})

    answer = ask(service, limit=1)

    assert contents(answer) == [TIDB_TEXT]
    assert "no TIDB_DATABASE_URL" in service.log.read_text()


def test_with_a_key_it_finds_the_demos_texts_by_their_real_embeddings(
        serve, real_settings, run_demo):
    run_demo(env=real_settings)  # which TiDB keeps
    service = serve(real_settings)

    answer = ask(service, limit=1)

    distance = cosine_distance(embedding_of(QUESTION), embedding_of(TIDB_TEXT))
    assert answer.json() == [{"content": TIDB_TEXT, "distance": pytest.approx(distance, abs=1e-6)}]


def test_three_texts_are_found_unless_a_limit_is_given(serve, on_tidb, jina_demo):
    texts = [f"text {number}" for number in range(101)]
    engine = jina_demo.create_tidb_engine(on_tidb["TIDB_DATABASE_URL"])
    jina_demo.create_table(engine)
    jina_demo.insert_documents(engine, texts, jina_demo.embed_texts(texts))
    service = serve(on_tidb)

    three = contents(ask(service, "text 7"))
    hundred = contents(ask(service, "text 7", limit=100))

    assert len(three) == 3
    assert three[0] == "text 7"
    assert len(hundred) == 100


def test_starting_sends_nothing_and_creates_nothing(serve, on_tidb, jina):
    service = serve(on_tidb)

    assert jina.requests == []
    assert sql(on_tidb["TIDB_DATABASE_URL"], "SHOW TABLES") == []
    assert contents(ask(service)) == []


# %% Questions that are refused, and those at the edge
WRONG = {
    "no question": {"limit": 1},
    "an empty question": {"question": ""},
    "a question of 1,001 characters": {"question": "x" * 1001},
    "a limit of 0": {"question": "x", "limit": 0},
    "a limit below 0": {"question": "x", "limit": -1},
    "a limit of 101": {"question": "x", "limit": 101},
    "a limit in words": {"question": "x", "limit": "three"},
}
RIGHT = {
    "a character": {"question": "x"},
    "1,000 Chinese characters": {"question": "\u6587" * 1000},
    "a limit of 1": {"question": "x", "limit": 1},
    "a limit of 100": {"question": "x", "limit": 100},
    "a NUL": {"question": "\0"},
    "bytes that are no UTF-8": {"question": b"\xff"},
}


def test_a_wrong_question_or_limit_is_a_422_and_the_edges_are_right(serve):
    service = serve({})

    wrong = {name: requests.get(service.url, params=WRONG[name], timeout=60) for name in WRONG}
    right = {name: requests.get(service.url, params=RIGHT[name], timeout=60) for name in RIGHT}

    assert [name for name in wrong if wrong[name].status_code != 422] == []
    assert [name for name in right if right[name].status_code != 200] == []


# %% What is down
def test_a_wrong_key_is_a_503_with_the_reason_in_the_log_until_it_is_right(
        serve, real_settings, jina):
    key = jina.key
    jina.key = "another key"
    service = serve(real_settings)

    answer = ask(service)

    log = service.log.read_text()
    assert answer.status_code == 503
    assert "401" in log and "JINAAI_API_KEY" in log
    assert key not in log + answer.text
    assert "Traceback" not in log

    jina.key = key
    expected = [] if real_settings["TIDB_DATABASE_URL"] else [TIDB_TEXT, JINA_TEXT]
    assert contents(ask(service)) == expected


def test_embeddings_that_do_not_come_are_a_503_after_five_seconds(serve, on_tidb, jina):
    service = serve(on_tidb)
    jina.faults = [hang(60)]

    answer = ask(service)

    assert answer.status_code == 503
    assert 4 < answer.elapsed.total_seconds() < 9
    assert "no answer" in service.log.read_text()


def test_texts_whose_embeddings_fail_are_stored_with_the_next_question(serve, on_tidb, jina):
    service = serve({**on_tidb, "TIDB_DATABASE_URL": ""})
    jina.faults = [None, status(401)]  # the first question has an embedding, the texts have none

    assert ask(service).status_code == 503
    assert contents(ask(service)) == [TIDB_TEXT, JINA_TEXT]


def test_it_starts_while_tidb_is_down_and_answers_whenever_tidb_is_there(
        serve, jina, tmp_path, run_demo):
    tidb = tidb_process(tmp_path)
    settings = {
        "JINAAI_API_KEY": jina.key,
        "JINAAI_API_URL": jina.url,
        "TIDB_DATABASE_URL": tidb.url,
    }

    service = serve(settings)
    assert ask(service).status_code == 503
    assert "2003" in service.log.read_text()

    tidb.start()
    try:
        assert contents(ask(service)) == []
        run_demo(env=settings)
        assert contents(ask(service, limit=1)) == [TIDB_TEXT]

        tidb.kill()
        assert ask(service).status_code == 503

        tidb.start()
        assert contents(ask(service, limit=1)) == [TIDB_TEXT]
    finally:
        tidb.kill()
    assert "Traceback" not in service.log.read_text()


def test_a_password_that_tidb_refuses_is_told_in_the_log_and_not_shown(serve, on_tidb):
    url = make_url(on_tidb["TIDB_DATABASE_URL"]).set(password="secret")
    service = serve({**on_tidb, "TIDB_DATABASE_URL": url.render_as_string(hide_password=False)})

    answer = ask(service)

    log = service.log.read_text()
    assert answer.status_code == 503
    assert "Access denied" in log
    assert "secret" not in log + answer.text


def test_a_pool_that_has_no_free_connection_is_a_503(monkeypatch):
    pool = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0, "pool_timeout": 0.1}
    engine = create_engine("sqlite://", **pool)
    monkeypatch.setattr(web_service, "engine", engine)

    with engine.connect(), pytest.raises(HTTPException) as refused:
        web_service.search(QUESTION)

    assert refused.value.status_code == 503


def test_a_url_that_cannot_be_used_ends_in_one_line():
    settings = demo_environment({"TIDB_DATABASE_URL": "postgresql://root:secret@127.0.0.1/test"})

    done = subprocess.run(
        service_command(), env=settings, capture_output=True, text=True, timeout=60)

    assert_one_line_error(done, "TIDB_DATABASE_URL must be")
    assert "secret" not in done.stderr


# %% Many at once
def test_20_threads_ask_200_questions_and_each_is_answered(serve, real_settings, jina, run_demo):
    run_demo(env=real_settings)
    service = serve(real_settings)
    jina.latency = 0.1  # or few of the threads would wait for an embedding at the same time
    at_once = threading.Barrier(20)

    def ask_ten(thread):
        at_once.wait(60)
        return [ask(service, f"{QUESTION} {thread}.{number}") for number in range(10)]

    with ThreadPool(20) as pool:
        answers = sum(pool.map(ask_ten, range(20), chunksize=1), [])

    assert [contents(answer) for answer in answers] == [[TIDB_TEXT, JINA_TEXT]] * 200
    # The service keeps a connection for each thread, and one was the demo's. If it kept fewer,
    # it would have opened new ones all the time.
    assert jina.connections <= 30
