"""generate_embeddings and embed_texts over real HTTP, with every fault that a service can have."""

import contextlib
import logging
import math
import socket
import threading
import time
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest
import requests
import trustme
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as hypothesis_settings
from jina_server import JinaServer, body, changed, cut, drop, embedding_of, half, hang, status

from jina_ai_embeddings_demo import EmbeddingError

PASSAGE, QUERY = "retrieval.passage", "retrieval.query"


def error_of(function, *arguments, **more):
    """Return the EmbeddingError that a call ends in."""
    with pytest.raises(EmbeddingError) as caught:
        function(*arguments, **more)
    return caught.value


def asks(seconds, code=429):
    """Return the fault that refuses and asks to try again in *seconds*, a text."""
    return status(code, {"Retry-After": seconds})


def url_of(server, scheme="http"):
    """Return the URL of the endpoint that a server on 127.0.0.1 might have."""
    return f"{scheme}://127.0.0.1:{server.server_address[1]}/v1/embeddings"


@pytest.fixture
def log_of(caplog):
    """A function that returns all that a log gets of a call that fails, tracebacks included."""
    def log_of(function, *arguments):
        error = error_of(function, *arguments)
        logging.error("it failed", exc_info=error)
        return caplog.text
    return log_of


@pytest.fixture
def use_proxy(monkeypatch):
    """A function that sets the proxy of the environment."""
    def use_proxy(url):
        for name in "no_proxy", "NO_PROXY":
            monkeypatch.delenv(name, raising=False)
        for name in "http_proxy", "https_proxy":
            monkeypatch.setenv(name, url)
    return use_proxy


# %% What they return
def test_a_question_gets_its_embedding(jina_demo):
    embedding = jina_demo.generate_embeddings("What is TiDB?")

    assert embedding == embedding_of("What is TiDB?")


def test_texts_get_their_embeddings_with_256_texts_in_a_request(jina_demo, jina):
    texts = [f"text {number}" for number in range(600)]

    embeddings = jina_demo.embed_texts(texts)

    assert embeddings == [embedding_of(text) for text in texts]
    assert [len(request.texts) for request in jina.requests] == [256, 256, 88]
    assert jina.most_open == 1


def test_no_texts_are_no_request(jina_demo, jina):
    assert jina_demo.embed_texts([]) == []
    assert jina.requests == []


@pytest.mark.parametrize("texts", [
    pytest.param(["b", "a", "b"], id="a list with a repeated text"),
    pytest.param(("b", "a", "b"), id="a tuple"),
    pytest.param((text for text in "bab"), id="a generator"),
    pytest.param({"b": 1, "a": 2}.keys(), id="the keys of a dict"),
])
def test_any_iterable_of_texts_will_do(jina_demo, jina, texts):
    embeddings = jina_demo.embed_texts(texts)

    [request] = jina.requests
    assert request.texts[:2] == ["b", "a"]
    assert embeddings == [embedding_of(text) for text in request.texts]


any_text = strategies.text(min_size=1, max_size=255) | strategies.sampled_from([
    "\U0001f600", "'\"\\%s:name{}", "\u05e9\u05dc\u05d5\u05dd", "\U0001f600" * 255])


@given(strategies.lists(any_text, max_size=8))
@hypothesis_settings(max_examples=50, deadline=None, suppress_health_check=[
    HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_every_text_gets_its_own_embedding(jina_demo, monkeypatch, texts):
    monkeypatch.setattr(jina_demo, "BATCH_SIZE", 3)

    assert jina_demo.embed_texts(texts) == [embedding_of(text) for text in texts]


GOOD_TEXTS = ["good"] * 300  # of which 256 could be sent before the rest is looked at
NAN = float("nan")


@pytest.mark.parametrize("texts", [
    pytest.param("What is TiDB?", id="one text"),
    pytest.param("", id="one empty text"),
    pytest.param(b"What is TiDB?", id="bytes"),
    pytest.param(None, id="nothing"),
    pytest.param([*GOOD_TEXTS, None], id="a list with None"),
    pytest.param(iter([*GOOD_TEXTS, None]), id="an iterator with None"),
    pytest.param([*GOOD_TEXTS, NAN], id="a list with NaN, an empty cell"),
    pytest.param([*GOOD_TEXTS, b"good"], id="a list with bytes"),
    pytest.param([*GOOD_TEXTS, ["good"]], id="a list with a list"),
])
def test_anything_but_texts_is_a_type_error_before_anything_is_sent(jina_demo, jina, texts):
    with pytest.raises(TypeError):
        jina_demo.embed_texts(texts)

    assert jina.requests == []


@pytest.mark.parametrize("question", [None, NAN, b"What is TiDB?", ["What is TiDB?"]], ids=repr)
def test_a_question_that_is_no_text_is_a_type_error_before_anything_is_sent(
        jina_demo, jina, question):
    with pytest.raises(TypeError):
        jina_demo.generate_embeddings(question)

    assert jina.requests == []


def without_index(data):
    return [{"embedding": item["embedding"]} for item in data]


def with_more_fields(data):
    return [{**item, "more": "field"} for item in data]


@pytest.mark.parametrize("change", [
    pytest.param(lambda data: data[::-1], id="in another order"),
    pytest.param(without_index, id="without an index, where the place counts"),
    pytest.param(with_more_fields, id="with another field"),
])
def test_an_unusual_answer_that_is_right_will_do(jina_demo, jina, change):
    jina.faults = [changed(change)]

    embeddings = jina_demo.embed_texts(["a", "b", "c"])

    assert embeddings == [embedding_of(text) for text in "abc"]


@pytest.mark.parametrize("embedding", [[1] * 768, [1e-8] * 768, [3e7] * 768],
                         ids=["whole numbers", "very short", "very long"])
def test_an_embedding_that_tidb_can_compare_will_do(jina_demo, jina, embedding):
    jina.faults = [changed(lambda data: [{"embedding": embedding}])]

    assert jina_demo.generate_embeddings("a") == embedding


def test_five_questions_use_one_connection(jina_demo, monkeypatch):
    with JinaServer() as server:
        monkeypatch.setattr(jina_demo, "JINAAI_API_URL", server.url)

        for number in range(5):
            jina_demo.generate_embeddings(f"question {number}")

        assert len(server.requests) == 5
        assert server.connections == 1


# %% Faults that may pass: the same request is sent again
STATUSES = [408, 429, 500, 501, 502, 503, 504, *range(520, 531), 599]
NO_JSON = body(b"<html>Log in</html>", 200, "text/html")


@pytest.mark.parametrize("fault", [
    *(pytest.param(status(code), id=f"status {code}") for code in STATUSES),
    pytest.param(drop, id="dropped"),
    pytest.param(cut, id="cut off"),
    pytest.param(half, id="cut off, the length not announced"),
    pytest.param(body(b""), id="empty"),
    pytest.param(NO_JSON, id="no JSON"),
])
def test_a_fault_that_passes_is_outlasted(jina_demo, jina, waits, fault):
    jina.faults = [fault, fault]

    embeddings = jina_demo.embed_texts(["a", "b"])

    assert embeddings == [embedding_of("a"), embedding_of("b")]
    assert [request.texts for request in jina.requests] == [["a", "b"]] * 3
    assert len(waits) == 2


@pytest.mark.parametrize("fault, code", [
    pytest.param(status(503), 503, id="status 503"),
    pytest.param(status(524), 524, id="status 524"),
    pytest.param(drop, None, id="dropped"),
    pytest.param(cut, None, id="cut off"),
    pytest.param(NO_JSON, 200, id="no JSON"),
])
def test_a_fault_that_stays_is_an_error_when_75_seconds_are_over(
        jina_demo, jina, waits, fault, code):
    jina.faults = [fault] * 99

    error = error_of(jina_demo.embed_texts, ["a"])

    assert error.status == code
    assert error.temporary
    assert 60 <= sum(waits) < 75
    assert len(jina.requests) == len(waits) + 1


class HangUp(BaseRequestHandler):
    """Ends a connection as soon as something has come."""

    def handle(self):
        self.request.recv(9999)


@pytest.fixture
def hanging_up():
    """A server that ends each connection without an answer."""
    with ThreadingTCPServer(("127.0.0.1", 0), HangUp) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_hangs_up_is_tried_again(
        jina_demo, hanging_up, waits, monkeypatch, scheme):
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", url_of(hanging_up, scheme))

    error = error_of(jina_demo.embed_texts, ["a"])

    assert "no answer from 127.0.0.1" in str(error)
    assert error.temporary
    assert len(waits) > 5


def test_a_server_that_does_not_listen_is_tried_again(jina_demo, waits, monkeypatch):
    with ThreadingTCPServer(("127.0.0.1", 0), HangUp) as server:
        monkeypatch.setattr(jina_demo, "JINAAI_API_URL", url_of(server))

    error = error_of(jina_demo.embed_texts, ["a"])

    assert "no answer from 127.0.0.1" in str(error)
    assert error.status is None
    assert len(waits) > 5


def test_a_host_that_does_not_exist_is_named(jina_demo, monkeypatch):
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", "http://jina.invalid/v1/embeddings")

    error = error_of(jina_demo.embed_texts, ["a"])

    assert "no answer from jina.invalid" in str(error)


# %% Waits
def test_the_waits_double_up_to_15_seconds_and_are_up_to_half_shorter(jina_demo, jina, waits):
    longest = [1, 2, 4, 8, 15, 15]
    for _ in range(3):
        jina.faults = [status(429)] * len(longest)
        jina_demo.generate_embeddings("a")

    shares = [wait / most for wait, most in zip(waits, longest * 3)]
    assert 0.5 <= min(shares) < 0.75 < max(shares) <= 1
    assert len(set(shares)) == len(shares)


def test_a_log_says_why_and_how_long_a_request_waits(jina_demo, jina, caplog):
    jina.faults = [asks("7")]

    jina_demo.generate_embeddings("a")

    [line] = caplog.messages
    assert "429" in line
    assert "next try in 7 s" in line


@pytest.mark.parametrize("code", [408, 429, 500, 503])
@pytest.mark.parametrize("value, seconds", [("12", 12), ("007", 7), (" 12 ", 12)], ids=repr)
def test_a_wait_that_the_service_asks_for_is_waited(
        jina_demo, jina, waits, code, value, seconds):
    jina.faults = [asks(value, code)]

    jina_demo.generate_embeddings("a")

    assert waits == [seconds]


@pytest.mark.parametrize("value", [
    "0", "0.3", "1.2.3", "-5", "+5", "1e1", "", "soon", "nan", "inf", "\xb2", "1_0",
    "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_what_is_no_number_of_seconds_to_wait_has_no_effect(jina_demo, jina, waits, value):
    jina.faults = [asks(value)]

    jina_demo.generate_embeddings("a")

    [wait] = waits
    assert 0.5 <= wait <= 1


def test_a_limit_that_asks_for_1_second_15_times_is_outlasted(jina_demo, jina, waits):
    jina.faults = [asks("1")] * 15

    assert jina_demo.generate_embeddings("a") == embedding_of("a")
    assert waits == [1] * 15


# %% Patience
@pytest.mark.parametrize("patience, seconds", [(75, [72]), (75, [40, 32]), (12, [10]), (90, [87])])
def test_waits_that_patience_allows_are_waited(jina_demo, jina, waits, patience, seconds):
    jina.faults = [asks(str(wait)) for wait in seconds]

    embedding = jina_demo.generate_embeddings("a", patience)

    assert embedding == embedding_of("a")
    assert waits == seconds


@pytest.mark.parametrize("patience, seconds", [
    (75, [76]), (75, [40, 36]), (9, [10]), (75, [10 ** 400])],
    ids=["too long", "too long together", "too long for the caller", "endless"])
def test_a_wait_that_would_outlast_patience_is_an_error_instead(
        jina_demo, jina, waits, patience, seconds):
    jina.faults = [asks(str(wait)) for wait in seconds]

    error = error_of(jina_demo.generate_embeddings, "a", patience)

    assert error.temporary
    assert error.retry_after == float(str(seconds[-1]))
    assert waits == seconds[:-1]


def test_a_question_has_75_seconds_of_patience_unless_the_caller_has_another(
        jina_demo, jina, waits):
    jina.faults = [asks("72"), None, asks("76")]

    jina_demo.generate_embeddings("a")
    error_of(jina_demo.generate_embeddings, "a")

    assert waits == [72]


def test_without_patience_there_is_one_try(jina_demo, jina, waits):
    assert jina_demo.generate_embeddings("a", 0) == embedding_of("a")

    jina.faults = [drop]
    error_of(jina_demo.generate_embeddings, "a", 0)
    assert len(jina.requests) == 2
    assert waits == []


def test_each_batch_has_patience_and_short_waits_of_its_own(jina_demo, jina, waits):
    texts = [f"text {number}" for number in range(257)]
    jina.faults = [status(500), status(500), asks("60"), None, status(500), asks("60"), None]

    embeddings = jina_demo.embed_texts(texts)

    assert embeddings == [embedding_of(text) for text in texts]
    assert waits[2] == waits[4] == 60
    assert waits[3] <= 1


class SlowService(requests.adapters.HTTPAdapter):
    """Plays a service that takes time of the demo's clock for each answer.

    Its host may have a first address that does not answer at all.
    """

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.seconds = 0  # for an answer
        self.has_dead_address = False

    def send(self, request, timeout=None, **options):
        # requests takes one number for both.
        timeouts = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        connect_timeout, read_timeout = timeouts
        if self.has_dead_address:
            self.clock.sleep(connect_timeout)

        self.clock.sleep(min(self.seconds, read_timeout))
        if self.seconds > read_timeout:
            raise requests.ReadTimeout("as a service that is slower than that")
        return super().send(request, timeout=timeout, **options)


@pytest.fixture
def slow_service(jina_demo, jina):
    adapter = SlowService(jina_demo.time)
    jina_demo.HTTP.mount(jina.url, adapter)
    yield adapter
    del jina_demo.HTTP.adapters[jina.url]


@pytest.mark.parametrize("patience, seconds", [(75, 70), (600, 590)])
def test_a_slow_server_is_awaited_as_long_as_patience_lasts(
        jina_demo, jina, slow_service, waits, patience, seconds):
    slow_service.seconds = seconds

    embeddings = jina_demo.embed_texts(["a"], PASSAGE, patience)

    assert embeddings == [embedding_of("a")]
    assert waits == [seconds]


@pytest.mark.parametrize("patience, seconds", [(75, 80), (600, 610)])
def test_a_server_that_is_slower_than_that_is_given_up_when_patience_is_over(
        jina_demo, slow_service, waits, patience, seconds):
    slow_service.seconds = seconds

    error = error_of(jina_demo.embed_texts, ["a"], PASSAGE, patience)

    assert error.temporary
    assert sum(waits) == pytest.approx(patience, abs=1)


def test_after_a_wait_a_try_has_what_is_left_of_patience(jina_demo, jina, slow_service, waits):
    jina.faults = [asks("10")]
    slow_service.seconds = 40

    error = error_of(jina_demo.embed_texts, ["a"], PASSAGE, 60)

    assert error.temporary
    assert waits == [40, 10, pytest.approx(10, abs=1)]


def test_a_host_whose_first_address_does_not_answer_is_reached_by_the_next_one(
        jina_demo, slow_service, waits):
    slow_service.has_dead_address = True

    jina_demo.generate_embeddings("a")

    assert sum(waits) <= 10


def test_a_server_that_never_answers_is_an_error_when_patience_is_over(jina_demo, jina):
    jina.faults = [hang(30)] * 9
    started = time.monotonic()

    error = error_of(jina_demo.embed_texts, ["a"], PASSAGE, 5)

    assert "no answer from 127.0.0.1" in str(error)
    assert error.temporary
    assert 4 < time.monotonic() - started < 8


@pytest.fixture
def full_server():
    """A server that takes no connection, because as many as it lets wait are waiting."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(5):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server


def test_a_server_that_takes_no_connection_is_an_error_when_patience_is_over(
        jina_demo, full_server, monkeypatch):
    port = full_server.getsockname()[1]
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", f"http://127.0.0.1:{port}/v1/embeddings")
    started = time.monotonic()

    error = error_of(jina_demo.embed_texts, ["a"], PASSAGE, 1)

    assert "no answer from 127.0.0.1" in str(error)
    assert error.temporary
    assert time.monotonic() - started < 6


# %% Faults that never pass: an error at once
@pytest.mark.parametrize("code", [
    301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 409, 413, 415, 422, 425])
def test_any_other_refusal_is_an_error_at_once(jina_demo, jina, waits, code):
    jina.faults = [asks("1", code)]

    error = error_of(jina_demo.embed_texts, ["a"])

    assert error.status == code
    assert not error.temporary
    assert waits == []
    for word in "JINAAI_API_KEY", "balance", "JINAAI_API_URL", "JINAAI_MODEL":
        assert word in str(error)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_no_redirect_takes_texts_or_key_to_another_host(jina_demo, jina, code):
    with JinaServer() as other:
        jina.faults = [status(code, {"Location": other.url})]

        error_of(jina_demo.embed_texts, ["a"])

        assert other.connections == 0


def first_embedding(embedding):
    """Return the fault that gives the first text *embedding*."""
    return changed(lambda data: data[0].update(embedding=embedding))


def first_number(number):
    """Return the fault that begins the first text's embedding with *number*."""
    return first_embedding([number] + [0.5] * 767)


def second_index(index):
    """Return the fault that gives the second text's embedding *index*."""
    return changed(lambda data: data[1].update(index=index))


@pytest.mark.parametrize("fault", [
    pytest.param(body([]), id="an empty list"),
    pytest.param(body(None), id="null"),
    pytest.param(body("embeddings"), id="a string"),
    pytest.param(body({"model": "is loading"}), id="an object"),
    pytest.param(body({"data": None}), id="no data"),
    pytest.param(body({"data": "two"}), id="data that are a string"),
    pytest.param(body({"data": [1, 2]}), id="data that are numbers"),
    pytest.param(body(b"[" * 100_000), id="very deep JSON"),
    pytest.param(changed(lambda data: [{"index": 0}, {"index": 1}]), id="no embeddings"),
    pytest.param(changed(lambda data: []), id="none of two"),
    pytest.param(changed(lambda data: data[:1]), id="one of two"),
    pytest.param(changed(lambda data: [*data, {**data[0], "index": 2}]), id="a third"),
    pytest.param(changed(lambda data: data + data), id="each twice"),
    pytest.param(second_index(0), id="an index twice"),
    pytest.param(second_index(2), id="an index too high"),
    pytest.param(second_index(-1), id="an index below zero"),
    pytest.param(second_index([1]), id="an index that is a list"),
    pytest.param(first_embedding(None), id="null for an embedding"),
    pytest.param(first_embedding("A" * 768), id="base64 for an embedding"),
    pytest.param(first_embedding([]), id="no numbers"),
    pytest.param(first_embedding([0.5] * 767), id="767 numbers"),
    pytest.param(first_embedding([0.5] * 769), id="769 numbers"),
    pytest.param(first_embedding([0] * 768), id="zeros"),
    pytest.param(first_embedding([1e-12] * 768), id="nearly zeros"),
    pytest.param(first_embedding([1e9] * 768), id="large numbers"),
    pytest.param(first_number(None), id="a number that is null"),
    pytest.param(first_number("0.5"), id="a number that is a string"),
    pytest.param(first_number([0.5]), id="a number that is a list"),
    pytest.param(first_number(10 ** 400), id="a number without end"),
    pytest.param(first_number(math.nan), id="NaN"),
    pytest.param(first_number(math.inf), id="Infinity"),
    pytest.param(first_number(-math.inf), id="-Infinity"),
])
def test_an_answer_that_is_no_embeddings_is_an_error_at_once(jina_demo, jina, waits, fault):
    jina.faults = [fault]

    error = error_of(jina_demo.embed_texts, ["a", "b"])

    assert "not 2 embeddings" in str(error)
    assert error.status == 200
    assert not error.temporary
    assert waits == []


@pytest.mark.parametrize("fault, reason", [
    pytest.param(changed(lambda data: data[:1]), "1 embeddings", id="one of two"),
    pytest.param(first_embedding([0.5] * 767), "767", id="767 numbers"),
    pytest.param(first_embedding([0] * 768), " 0.0", id="zeros"),
])
def test_an_error_says_what_is_wrong_with_the_embeddings(jina_demo, jina, fault, reason):
    jina.faults = [fault]

    error = error_of(jina_demo.embed_texts, ["a", "b"])

    assert reason in str(error)


UNUSABLE_URLS = ["nonsense", "ftp://127.0.0.1/v1", "http://", "http://host:99999/",
                 "http://" + "a" * 70 + ".b/"]


@pytest.mark.parametrize("url", UNUSABLE_URLS)
def test_a_url_that_cannot_be_used_is_an_error_at_once(jina_demo, waits, monkeypatch, url):
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", url)

    error = error_of(jina_demo.embed_texts, ["a"])

    assert "JINAAI_API_URL" in str(error)
    assert not error.temporary
    assert waits == []


# %% What an error shows of the answer
@pytest.mark.parametrize("content, shown", [
    pytest.param("余额不足", "余额不足", id="any language"),
    pytest.param("long " * 99, "long " * 40, id="200 characters"),
    pytest.param("", "", id="nothing"),
    pytest.param("a\n b\x1b[31mc\u2028d\0f'g", "a\n b\x1b[31mc\u2028d\0f'g", id="in one line"),
])
def test_an_error_shows_the_start_of_what_the_service_says(jina_demo, jina, content, shown):
    jina.faults = [body(content.encode(), 400, "text/plain; charset=utf-8")]

    error = error_of(jina_demo.embed_texts, ["a"])

    assert f"answered 400: {shown!r};" in str(error)
    assert str(error).isprintable()


def test_an_error_under_200_shows_what_the_service_says(jina_demo, jina):
    jina.faults = [body({"error": "Unexpected endpoint or method"})]

    error = error_of(jina_demo.embed_texts, ["a"])

    assert "Unexpected endpoint or method" in str(error)


@pytest.mark.parametrize("code", [200, 400, 503])
def test_an_error_shows_no_embeddings(jina_demo, jina, code):
    jina.faults = [body({"data": [{"embedding": [0.123] * 767}]}, code)]

    error = error_of(jina_demo.embed_texts, ["a"], PASSAGE, 0)

    assert f"answered {code}" in str(error)
    assert "0.123" not in str(error)


# %% The key
def test_without_a_key_nothing_is_sent_to_jina_ai(demo, jina, waits, use_proxy):
    assert demo.JINAAI_API_URL == "https://api.jina.ai/v1/embeddings"
    use_proxy(jina.base_url)  # which would notice

    error = error_of(demo.generate_embeddings, "a")

    assert "JINAAI_API_KEY is not set" in str(error)
    assert not error.temporary
    assert jina.connections == 0
    assert waits == []


UNUSABLE_KEYS = ["secret\nkey", "secret\rkey", "secret\tkey", "secret\0key", "secret\u200bkey",
                 "secretё"]


@pytest.mark.parametrize("key", UNUSABLE_KEYS, ids=ascii)
def test_a_key_that_no_key_can_be_is_refused_before_anything_is_sent_and_is_not_shown(
        jina_demo, jina, log_of, monkeypatch, key):
    monkeypatch.setattr(jina_demo, "JINAAI_API_KEY", key)

    log = log_of(jina_demo.embed_texts, ["a"])

    assert "JINAAI_API_KEY" in log
    assert "copy it again" in log
    assert "secret" not in log
    assert jina.connections == 0


@pytest.mark.parametrize("code", [200, 401, 503])
@pytest.mark.parametrize("before", ["", "x" * 190], ids=["at the start", "where the words end"])
def test_a_key_that_the_service_repeats_is_not_shown(jina_demo, jina, log_of, code, before):
    words = f"{before}{jina.key} is no key"
    jina.faults = [body(words.encode(), code)] * 99

    log = log_of(jina_demo.embed_texts, ["a"])

    assert f"{before}***" in log
    assert jina.key[:9] not in log


def test_a_key_is_not_shown_where_no_answer_comes(jina_demo, jina, log_of):
    jina.faults = [drop, cut, half] * 9

    log = log_of(jina_demo.embed_texts, ["a"])

    assert "no answer from 127.0.0.1" in log
    assert jina.key not in log


def test_an_endpoint_of_ones_own_needs_no_key(jina_demo, jina, monkeypatch):
    monkeypatch.setattr(jina_demo, "JINAAI_API_KEY", "")
    jina.key = None

    assert jina_demo.generate_embeddings("a") == embedding_of("a")
    assert "Authorization" not in jina.requests[0].headers


def test_without_a_key_the_words_of_an_error_stay_as_they_are(jina_demo, jina, monkeypatch):
    monkeypatch.setattr(jina_demo, "JINAAI_API_KEY", "")
    jina.faults = [body(b"as they are", 400)]

    error = error_of(jina_demo.embed_texts, ["a"])

    assert "'as they are'" in str(error)


def test_without_a_key_the_credentials_of_the_url_are_sent(jina_demo, jina, monkeypatch):
    monkeypatch.setattr(jina_demo, "JINAAI_API_KEY", "")
    url = jina.url.replace("://", "://user:secret@")
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", url)
    jina.key = None

    jina_demo.generate_embeddings("a")

    assert jina.requests[0].headers["Authorization"] == "Basic dXNlcjpzZWNyZXQ="


def test_a_key_replaces_the_credentials_of_the_url(jina_demo, jina, monkeypatch):
    url = jina.url.replace("://", "://user:secret@")
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", url)

    jina_demo.generate_embeddings("a")

    assert jina.requests[0].headers["Authorization"] == f"Bearer {jina.key}"


@pytest.mark.parametrize("url", [
    "http://user:secret@127.0.0.1:9/v1", "http://user:a/secret@127.0.0.1:9/v1",
    "http://user:secret@127.0.0.1:99999/v1"])
def test_credentials_of_the_url_are_not_shown(jina_demo, log_of, monkeypatch, url):
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", url)

    log = log_of(jina_demo.embed_texts, ["a"])

    assert "no answer from" in log
    assert "secret" not in log


def test_a_netrc_file_does_not_replace_the_key(jina_demo, jina, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))

    jina_demo.generate_embeddings("a")

    assert jina.requests[0].headers["Authorization"] == f"Bearer {jina.key}"


# %% The way there: TLS and proxies
@pytest.fixture
def trust(tmp_path, monkeypatch):
    """A function that has requests trust a certificate authority, and no other."""
    def trust(authority):
        bundle = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(bundle)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    return trust


def test_a_certificate_that_verifies_will_do(jina_demo, monkeypatch, trust):
    authority = trustme.CA()
    trust(authority)
    with JinaServer(tls=authority.issue_cert("127.0.0.1")) as server:
        monkeypatch.setattr(jina_demo, "JINAAI_API_URL", server.url)

        assert jina_demo.generate_embeddings("a") == embedding_of("a")


@pytest.mark.parametrize("is_trusted, host", [(False, "127.0.0.1"), (True, "localhost")],
                         ids=["of an unknown authority", "of another host"])
def test_a_certificate_that_does_not_verify_is_an_error_at_once_and_nothing_is_sent(
        jina_demo, waits, monkeypatch, trust, is_trusted, host):
    authority = trustme.CA()
    trust(authority if is_trusted else trustme.CA())
    with JinaServer(tls=authority.issue_cert(host)) as server:
        monkeypatch.setattr(jina_demo, "JINAAI_API_URL", server.url)

        error = error_of(jina_demo.embed_texts, ["a"])

        assert server.requests == []
    assert "(SSLError)" in str(error)
    assert "REQUESTS_CA_BUNDLE" in str(error)
    assert waits == []


def test_a_bundle_of_certificates_that_is_missing_is_an_error_at_once(
        jina_demo, waits, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", "https://127.0.0.1:9/v1/embeddings")

    error = error_of(jina_demo.embed_texts, ["a"])

    assert "REQUESTS_CA_BUNDLE" in str(error)
    assert waits == []


def test_an_https_url_of_a_server_without_tls_is_named_so(jina_demo, jina, monkeypatch):
    url = jina.url.replace("http:", "https:")
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", url)

    error = error_of(jina_demo.embed_texts, ["a"])

    assert "no answer from 127.0.0.1 (SSLError)" in str(error)
    assert "JINAAI_API_URL" in str(error)


def test_a_proxy_of_the_environment_is_used(jina_demo, jina, monkeypatch, use_proxy):
    url = "http://jina.invalid/v1/embeddings"
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", url)
    use_proxy(jina.base_url)

    error_of(jina_demo.embed_texts, ["a"])

    assert jina.requests[0].path == url  # as a proxy gets it


def test_a_proxy_that_refuses_is_named_and_its_password_is_not(
        jina_demo, jina, monkeypatch, use_proxy, log_of):
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", "https://jina.invalid/v1/embeddings")
    use_proxy(jina.base_url.replace("://", "://user:secret@"))

    log = log_of(jina_demo.embed_texts, ["a"])

    assert "ProxyError" in log
    assert "HTTPS_PROXY" in log
    assert "secret" not in log


@pytest.mark.parametrize("proxy", [
    pytest.param("http://user:secret@127.0.0.1:9", id="does not listen"),
    pytest.param("http://user:a/secret@127.0.0.1:9", id="a slash in the password"),
    pytest.param("socks5://user:secret@host", id="needs another package"),
    pytest.param("foo://user:secret@host", id="unknown protocol"),
    pytest.param("http://user:secret@", id="no host"),
    pytest.param("http://user:secret@" + "long" * 20, id="host too long"),
])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_password_of_a_proxy_that_cannot_be_used_is_not_shown(
        jina_demo, monkeypatch, use_proxy, log_of, proxy, scheme):
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", f"{scheme}://jina.invalid/v1/embeddings")
    use_proxy(proxy)

    log = log_of(jina_demo.embed_texts, ["a"])

    assert "no answer from jina.invalid" in log
    assert "HTTPS_PROXY" in log
    assert "secret" not in log


# %% Models
TOLD = [f"jina-embeddings-{name}" for name in ("v3", "v4", "v5-text-small", "v5-text-nano")]


@pytest.mark.parametrize("model", TOLD)
def test_models_from_v3_on_are_told_the_task_and_768_dimensions(
        jina_demo, jina, monkeypatch, model):
    monkeypatch.setattr(jina_demo, "JINAAI_MODEL", model)

    question = jina_demo.generate_embeddings("a")
    [passage] = jina_demo.embed_texts(["a"])
    [matching] = jina_demo.embed_texts(["a"], "text-matching")

    assert question == embedding_of("a", model, 768, QUERY)
    assert passage == embedding_of("a", model, 768, PASSAGE)
    assert matching == embedding_of("a", model, 768, "text-matching")


@pytest.mark.parametrize("model", ["jina-embeddings-v2-base-en", "jina-embeddings-v2-base-zh"])
def test_earlier_models_which_refuse_them_are_not(jina_demo, jina, monkeypatch, model):
    monkeypatch.setattr(jina_demo, "JINAAI_MODEL", model)

    assert jina_demo.generate_embeddings("a") == embedding_of("a", model)
    assert jina_demo.embed_texts(["a"]) == [embedding_of("a", model)]
    assert jina.requests[0].json == {"input": ["a"], "model": model}
