"""generate_embeddings and embed_texts over real HTTP, with every fault that a service can have."""

import logging
import math
import random
import socket
import stat
import time
import types
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest
from conftest import assert_one_line_error, sql
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as hypothesis_settings
from jina_server import JinaServer, body, changed, cut, drop, embedding_of, hang, status

from jina_ai_embeddings_demo import EmbeddingError

PASSAGE, QUERY = "retrieval.passage", "retrieval.query"


@pytest.fixture
def jitter(demo, monkeypatch):
    """Waits as long as a user's."""
    monkeypatch.setattr(demo, "random", random)


@pytest.fixture
def waits(demo, jitter, monkeypatch):
    """The seconds between tries, which are noted instead of waited."""
    waits = []
    monkeypatch.setattr(demo, "time", types.SimpleNamespace(sleep=waits.append))
    return waits


@pytest.fixture
def timeouts(demo, monkeypatch):
    """The timeouts of the requests, which are noted and cut to 0.2 s."""
    timeouts, post = [], demo.requests.post

    def shortened(url, timeout=None, **arguments):
        timeouts.append(timeout)
        return post(url, timeout=0.2, **arguments)

    monkeypatch.setattr(demo.requests, "post", shortened)
    return timeouts


def error_of(function, *arguments, **more):
    """Return the EmbeddingError that a call ends in."""
    with pytest.raises(EmbeddingError) as caught:
        function(*arguments, **more)
    return caught.value


# What they return.

def test_generate_embeddings_returns_768_floats(jina_demo):
    embedding = jina_demo.generate_embeddings("What is TiDB?")
    assert embedding == embedding_of("What is TiDB?") and len(embedding) == 768


@pytest.mark.parametrize("texts, sent", [
    (["one", "two", "three"], [["one", "two", "three"]]),
    (["a", "b", "a"], [["a", "b"]]), ([], [])])
def test_embed_texts_returns_an_embedding_a_text_in_their_order_and_sends_each_once(
        jina_demo, jina, texts, sent):
    assert jina_demo.embed_texts(texts) == [embedding_of(text) for text in texts]
    assert [request.texts for request in jina.requests] == sent


def test_many_texts_go_in_batches_of_512_one_request_at_a_time(jina_demo, jina):
    texts = [str(number) for number in range(1025)]
    assert jina_demo.embed_texts(texts) == [embedding_of(text) for text in texts]
    assert [len(request.texts) for request in jina.requests] == [512, 512, 1]
    assert jina.most_open == 1


any_text = strategies.text(min_size=1, max_size=255) | strategies.sampled_from(
    ["\U0001f600", "'\"\\%s:name{}", "\u05e9\u05dc\u05d5\u05dd", "\U0001f600" * 255])


@given(strategies.lists(any_text, max_size=8))
@hypothesis_settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_text_gets_its_own_embedding(jina_demo, monkeypatch, texts):
    monkeypatch.setattr(jina_demo, "BATCH_SIZE", 3)
    assert jina_demo.embed_texts(texts) == [embedding_of(text) for text in texts]


# Faults that pass: a fault, or several in a row, then a proper answer.

PASSING = dict({f"status {code}": status(code) for code in (408, 500, 502, 503, 504)},
               **{"429 that says how long": status(429, {"Retry-After": "0"}),
                  "dropped": drop, "cut off": cut, "hung": hang(1.0),
                  "cut off unnoticed": body(b'{"data": [{"index": 0, "embedd'), "empty": body(b""),
                  "HTML": body(b"<html>Log in first</html>", content_type="text/html")})


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_is_tried_again(jina_demo, jina, waits, timeouts, fault, times):
    jina.faults = [fault] * times
    assert jina_demo.embed_texts(["a", "b"]) == [embedding_of("a"), embedding_of("b")]
    assert len(jina.requests) == times + 1 and len(waits) == times


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_stays_is_an_error_after_5_tries(jina_demo, jina, waits, timeouts, fault):
    jina.faults = [fault] * 9
    assert error_of(jina_demo.embed_texts, ["a"]).retries == 4
    assert len(jina.requests) == 5 and len(waits) == 4


def test_the_waits_double_up_to_8_seconds_and_vary(jina_demo, jina, waits):
    for _ in range(3):
        jina.faults = [status(429)] * 7
        jina_demo.generate_embeddings("a")
    for number, most in enumerate([1, 2, 4, 8, 8, 8, 8]):
        assert all(most / 2 <= wait <= most for wait in waits[number::7])
    assert len(set(waits)) == 21


def test_each_batch_has_tries_of_its_own_and_none_is_sent_twice(
        jina_demo, jina, waits, monkeypatch):
    monkeypatch.setattr(jina_demo, "BATCH_SIZE", 1)
    jina.faults = [status(500)] * 4 + [None] + [status(500)] * 5
    error_of(jina_demo.embed_texts, ["a", "b"])
    assert [request.texts for request in jina.requests] == [["a"]] * 5 + [["b"]] * 5
    assert waits[4] <= 1


def test_the_error_after_the_last_try_is_what_the_service_said(jina_demo, jina, waits):
    jina.faults = [drop] * 4 + [status(503, body={"detail": "Overloaded", "code": "R"})]
    error = error_of(jina_demo.embed_texts, ["a"])
    assert error.status == 503 and "Overloaded" in str(error)


def test_a_refused_connection_is_tried_again(jina_demo, waits, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        monkeypatch.setattr(jina_demo, "JINAAI_API_URL",
                            f"http://127.0.0.1:{taken.getsockname()[1]}/v1/embeddings")
        error = error_of(jina_demo.embed_texts, ["a"])
    assert len(waits) == 4 and error.status == 0 and "no answer (ConnectionError)" in str(error)
    assert isinstance(error.__cause__, jina_demo.requests.ConnectionError)


# Limits: 429, with or without a Retry-After.

@pytest.mark.parametrize("name, arguments, patience", [
    ("embed_texts", (["a"],), 120), ("embed_texts", (["a"], PASSAGE, 7.5), 7.5),
    ("generate_embeddings", ("a",), 120), ("generate_embeddings", ("a", 30), 30)])
def test_a_limit_that_stays_is_an_error_when_patience_is_used_up(
        jina_demo, jina, waits, name, arguments, patience):
    jina.faults = [status(429)] * 99
    error = error_of(getattr(jina_demo, name), *arguments)
    assert error.status == 429 and error.retries == math.inf
    assert sum(waits) == pytest.approx(patience) and max(waits) <= 8
    assert len(jina.requests) == len(waits) + 1


def test_a_limit_that_ends_before_patience_does_is_outlasted(jina_demo, jina, waits):
    jina.faults = [status(429)] * 15
    assert jina_demo.generate_embeddings("a") == embedding_of("a")
    assert len(waits) == 15


@pytest.mark.parametrize("fault", [status(429), status(503), drop])
def test_without_patience_any_fault_is_an_error_at_once(jina_demo, jina, waits, fault):
    jina.faults = [fault]
    error_of(jina_demo.generate_embeddings, "a", patience=0)
    assert waits == [] and len(jina.requests) == 1


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("value, seconds", [
    ("12", 12), (" 12 ", 12), ("90", 90), ("2", 2), ("0", 0),
    ("Wed, 01 Jan 2020 00:00:00 GMT", 0)])
def test_retry_after_is_waited_for_but_no_less_than_usual(
        jina_demo, jina, waits, code, value, seconds):
    jina.faults = [status(code, {"Retry-After": value})] * 9
    assert error_of(jina_demo.embed_texts, ["a"], patience=999).retry_after == seconds
    for wait, most in zip(waits, [1, 2, 4, 8]):
        assert max(seconds, most / 2) <= wait <= max(seconds, most)
    assert len(waits) == 4


def test_retry_after_as_a_date_is_waited_for(jina_demo, jina, waits):
    jina.faults = [status(503, {"Retry-After": formatdate(time.time() + 30, usegmt=True)})]
    assert jina_demo.generate_embeddings("a") == embedding_of("a")
    assert 25 <= waits[0] <= 30


@pytest.mark.parametrize("value", ["0.3", "-5", "", "soon", "nan", "1.2.3", "Sat, 32 Foo 2099",
                                   "Fri, 31 Dec 99999999999 23:59:59 GMT"])
def test_a_retry_after_that_cannot_be_read_is_like_none(jina_demo, jina, waits, value):
    jina.faults = [status(429, {"Retry-After": value})] * 99
    error = error_of(jina_demo.embed_texts, ["a"])
    assert error.status == 429 and error.retry_after == 0 and sum(waits) == pytest.approx(120)


@pytest.mark.parametrize("value", ["91", "86400", "9" * 400, "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_retry_after_beyond_90_seconds_is_reported_instead(jina_demo, jina, waits, value):
    jina.faults = [status(429, {"Retry-After": value})]
    error = error_of(jina_demo.embed_texts, ["a"])
    assert waits == [] and error.status == 429 and error.retry_after > 90
    assert str(error).endswith(f"test fault 429 (Retry-After: {error.retry_after:.0f} s)")


@pytest.mark.parametrize("last, waited", [("60", [60, 60]), ("61", [60])])
def test_patience_is_for_all_batches_together(jina_demo, jina, waits, monkeypatch, last, waited):
    monkeypatch.setattr(jina_demo, "BATCH_SIZE", 1)
    jina.faults = [status(429, {"Retry-After": "60"}), None, status(429, {"Retry-After": last}),
                   status(503)]
    error = error_of(jina_demo.embed_texts, ["a", "b"])
    assert waits == waited and error.status == (429 if last == "61" else 503)


def test_each_wait_is_a_line_of_the_log_without_advice(jina_demo, jina, waits, caplog):
    jina.faults = [status(429, {"Retry-After": "3"}), status(503)]
    jina_demo.generate_embeddings("a")
    assert [record[:2] for record in caplog.record_tuples] == [
        ("jina_ai_embeddings_demo", logging.WARNING)] * 2
    first, second = caplog.messages
    assert first.endswith("test fault 429 (Retry-After: 3 s) (next try in 3 s)")
    assert second.endswith(f"test fault 503 (next try in {waits[1]:.0f} s)")


def test_a_wait_is_said_on_stderr_by_the_demo(run_demo, jina):
    jina.faults = [status(429, {"Retry-After": "1"})]
    done = run_demo(env={"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url})
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("no ")]
    assert len(lines) == 1 and "429" in lines[0] and "1 s" in lines[0]


@pytest.mark.parametrize("limit, words", [
    ({"tokens": 6, "minute": 2.0}, "Token rate limit exceeded"),
    ({"requests": 2, "minute": 2.0}, "Request rate limit exceeded"),
    ({"at_once": 1}, "Concurrency rate limit exceeded")])
def test_the_limits_of_a_free_key_are_outlasted(jina_demo, jina, jitter, caplog, limit, words):
    jina.limit(**limit)
    jina.latency, started = 0.1, time.monotonic()
    batches = [[f"text number {number}"] for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        embeddings = list(pool.map(jina_demo.embed_texts, batches))
    assert embeddings == [[embedding_of(text)] for text, in batches]
    assert words in caplog.text and time.monotonic() - started < 15


# Faults that stay: an error at once.

@pytest.mark.parametrize(
    "code", [400, 401, 402, 403, 404, 409, 413, 415, 422, 425, 501, 301, 302, 303, 307, 308])
def test_any_other_refusal_is_an_error_at_once_and_no_redirect_gets_the_key(
        jina_demo, jina, code):
    with JinaServer() as other:
        jina.faults = [status(code, {"Location": other.url})]
        error = error_of(jina_demo.embed_texts, ["a"])
        assert error.status == code and error.retries == 0 and "test fault" in str(error)
        assert len(jina.requests) == 1 and other.requests == []


def put(value):
    """Make the first embedding *value*."""
    return changed(lambda data: data[0].update(embedding=value))


def number(value):
    """Make a number of the first embedding *value*."""
    return changed(lambda data: data[0]["embedding"].__setitem__(5, value))


UNUSABLE = {
    "answered 200 OK: no embeddings": [
        body([]), body(None), body("embeddings"),
        body({"data": None}), body({"data": "two"}), body({"data": [1, 2]}),
        changed(lambda data: [{"embedding": item["embedding"]} for item in data]),
        changed(lambda data: [{"index": item["index"]} for item in data]),
        changed(lambda data: data[1].update(index=[1])),
        put(None), put("A" * 768), number(None), number("0.5"), number([0.5]), number(10 ** 400)],
    "answered 200 OK: model is loading": [
        body({"detail": "model is loading", "code": "X", "request_id": "1"})],
    "embeddings, not one each for 2 texts": [
        *(changed(lambda data, index=index: data[1].update(index=index)) for index in (0, 7, -1)),
        changed(lambda data: data[:1]), changed(lambda data: []),
        changed(lambda data: data + data), changed(lambda data: data + [dict(data[0], index=2)])],
    " dimensions, the table has 768": [put([0.5] * 767), put([0.5] * 769), put([])],
    "an embedding of zeros or not of finite numbers": [
        number(math.nan), number(math.inf), number(-math.inf), number(1e39), number(2e9),
        put([0] * 768), put([1e-60] * 768)],
}


@pytest.mark.parametrize("words, fault", [
    (words, fault) for words, faults in UNUSABLE.items() for fault in faults])
def test_an_answer_that_is_no_embedding_is_an_error_at_once(jina_demo, jina, words, fault):
    jina.faults = [fault]
    error = error_of(jina_demo.embed_texts, ["a", "b"])
    assert error.status == 200 and error.retries == 0 and len(jina.requests) == 1
    assert str(error).endswith(words)


def test_shuffled_answers_are_put_in_the_order_of_the_texts(jina_demo, jina):
    jina.faults = [changed(lambda data: data[::-1])]
    assert jina_demo.embed_texts(["a", "b", "c"]) == [embedding_of(text) for text in "abc"]


def test_whole_numbers_and_extra_fields_are_fine(jina_demo, jina):
    jina.faults = [changed(lambda data: data[0].update(embedding=[1] * 768, extra="field"))]
    assert jina_demo.generate_embeddings("a") == [1] * 768


# What an error shows of the answer.

@pytest.mark.parametrize("content, shown", [
    ({"detail": "Insufficient account balance", "code": "X"}, "Insufficient account balance"),
    ({"message": "batch size 512 > 32", "code": 413, "type": "Validation"}, "batch size 512 > 32"),
    ({"detail": [{"loc": ["input"], "msg": "empty"}]}, "[{'loc': ['input'], 'msg': 'empty'}]"),
    ({"detail": "a\n b\x1b[31mc\u2028d\x9be\0f"}, "a b [31mc d e f"),
    ({"detail": "no such key: " + JinaServer.key}, "no such key: ***"),
    ({"detail": "long " * 1000}, ("long " * 40)[:200 - len("400 Bad Request: ")]),
    ({}, "no embeddings"), ([], "no embeddings"), (b"<h1>Bad Request</h1>", "no embeddings")])
def test_an_error_shows_the_services_words_cleaned_and_cut(jina_demo, jina, content, shown):
    jina.faults = [body(content, 400)]
    error = error_of(jina_demo.embed_texts, ["a"])
    assert str(error) == "the service answered 400 Bad Request: " + shown


# The key, the endpoint and the way to it.

def test_every_request_has_10_seconds_to_connect_and_60_to_be_answered(
        jina_demo, jina, waits, timeouts):
    jina.faults = [hang(1), status(500)]
    jina_demo.generate_embeddings("a")
    assert timeouts == [(10, 60)] * 3


def test_without_a_key_nothing_is_sent_to_jina_ai(demo, timeouts):
    for function, argument in (demo.generate_embeddings, "a"), (demo.embed_texts, ["a"]):
        assert "JINAAI_API_KEY is not set" in str(error_of(function, argument))
    assert demo.JINAAI_API_URL == "https://api.jina.ai/v1/embeddings" and timeouts == []


def test_an_endpoint_of_ones_own_needs_no_key(jina_demo, jina, monkeypatch):
    monkeypatch.setattr(jina_demo, "JINAAI_API_KEY", "")
    jina.key = None
    assert jina_demo.generate_embeddings("a") == embedding_of("a")
    assert "Authorization" not in jina.requests[0].headers
    jina.faults = [status(400, body={"detail": "words keep their spaces"})]
    error = error_of(jina_demo.embed_texts, ["a"])
    assert str(error).endswith(": words keep their spaces")


def test_a_netrc_file_does_not_replace_the_key(jina_demo, jina, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login user password secret\n")
    netrc.chmod(stat.S_IRUSR)
    monkeypatch.setenv("NETRC", str(netrc))
    assert jina_demo.generate_embeddings("a") == embedding_of("a")


@pytest.fixture
def proxied_demo(jina_demo, monkeypatch):
    """The demo with an endpoint that no proxy is skipped for."""
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", "http://api.jina.invalid/v1/embeddings")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    return jina_demo


def test_a_proxy_of_the_environment_is_used(proxied_demo, jina, monkeypatch):
    # A proxy gets the whole URL; the test server refuses that path, which shows it was asked.
    monkeypatch.setenv("http_proxy", jina.base_url)
    assert error_of(proxied_demo.embed_texts, ["a"]).status == 404
    assert jina.requests[0].path == "http://api.jina.invalid/v1/embeddings"


@pytest.mark.parametrize("proxy", ["socks5://user:secret@127.0.0.1:9", "foo://user:secret@host",
                                   "http://user:secret@" + "long" * 20])
def test_a_proxy_that_cannot_be_used_is_an_error_at_once_without_its_password(
        proxied_demo, waits, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    error = error_of(proxied_demo.embed_texts, ["a"])
    assert str(error).startswith("no answer (") and "secret" not in str(error) and waits == []


def test_a_ca_file_that_is_missing_is_an_error_at_once(jina_demo, waits, monkeypatch):
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", "https://127.0.0.1:9/v1/embeddings")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such")
    error = error_of(jina_demo.embed_texts, ["a"])
    assert str(error) == "no answer (OSError)" and waits == []


def test_a_users_own_test_can_patch_requests_post(demo, monkeypatch):
    answer = types.SimpleNamespace(
        status_code=200, json=lambda: {"data": [{"index": 0, "embedding": [1.0] * 768}]})
    sent = {}
    monkeypatch.setattr(demo, "JINAAI_API_KEY", "key")
    monkeypatch.setattr(demo.requests, "post",
                        lambda url, **arguments: sent.update(arguments, url=url) or answer)
    assert demo.generate_embeddings("a") == [1.0] * 768
    assert sent["url"] == "https://api.jina.ai/v1/embeddings" and sent["timeout"]
    assert sent["json"] == {"input": ["a"], "model": "jina-embeddings-v2-base-en"}
    assert sent["headers"] == {"Content-Type": "application/json", "Authorization": "Bearer key"}


# Models.

TOLD = [f"jina-embeddings-{name}" for name in ("v3", "v4", "v5-text-small", "v5-text-nano")]


@pytest.mark.parametrize("model", [
    "jina-embeddings-v2-base-en", "jina-embeddings-v2-base-zh", *TOLD])
def test_models_from_v3_on_are_told_the_task_and_768_dimensions(
        jina_demo, jina, monkeypatch, model):
    monkeypatch.setattr(jina_demo, "JINAAI_MODEL", model)
    embeddings = [jina_demo.generate_embeddings("a"), *jina_demo.embed_texts(["a"]),
                  *jina_demo.embed_texts(["a"], QUERY)]
    tasks = [QUERY, PASSAGE, QUERY] if model in TOLD else [None] * 3
    assert embeddings == [embedding_of("a", model, 768, task) for task in tasks]
    more = [{"task": task, "dimensions": 768} if task else {} for task in tasks]
    assert [request.json for request in jina.requests] == [
        {"input": ["a"], "model": model, **fields} for fields in more]


def run_with(run_demo, jina, model, database=""):
    return run_demo(env={"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url,
                         "JINAAI_MODEL": model, "TIDB_DATABASE_URL": database})


def test_the_demo_embeds_its_question_as_a_query_and_its_texts_as_passages(run_demo, jina):
    assert run_with(run_demo, jina, "jina-embeddings-v3").returncode == 0
    assert [(len(request.texts), request.json["task"]) for request in jina.requests] == [
        (1, QUERY), (2, PASSAGE)]


@pytest.mark.parametrize("model, words", [
    ("jina-embeddings-v2-small-en", "512 dimensions, the table has 768"),
    ("jina-embeddings-v99", "Model 'jina-embeddings-v99' not found")])
def test_a_model_that_does_not_fit_is_an_error_that_says_so(run_demo, jina, model, words):
    assert_one_line_error(run_with(run_demo, jina, model), words, "check JINAAI", "JINAAI_MODEL")


def test_another_model_on_the_same_table_is_an_error_that_names_both(run_demo, jina, tidb):
    v2, v3 = "jina-embeddings-v2-base-en", "jina-embeddings-v3"
    for _ in range(2):
        assert run_with(run_demo, jina, v3, tidb).returncode == 0
    jina.requests.clear()
    assert_one_line_error(run_with(run_demo, jina, "", tidb), v3, v2, "drop")
    assert [request.texts for request in jina.requests] == [["What is TiDB?"]]
    sql(tidb, "DROP TABLE jinaai_tidb_demo_documents")
    assert run_with(run_demo, jina, "", tidb).returncode == 0


def test_a_table_without_a_model_is_v2_base_ens(run_demo, jina, tidb):
    sql(tidb, "CREATE TABLE jinaai_tidb_demo_documents (id INTEGER NOT NULL AUTO_INCREMENT, "
              "content VARCHAR(255) NOT NULL, content_vec VECTOR(768), PRIMARY KEY (id))")
    assert_one_line_error(run_with(run_demo, jina, "jina-embeddings-v3", tidb),
                          "jina-embeddings-v3", "jina-embeddings-v2-base-en")
    assert run_with(run_demo, jina, "", tidb).returncode == 0
