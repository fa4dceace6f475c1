"""generate_embeddings and embed_texts over real HTTP, with every fault that a service can have."""

import datetime
import logging
import math
import socket
import stat
import time
from email.utils import format_datetime

import pytest
from hypothesis import HealthCheck, given, settings, strategies
from jina_server import JinaServer, body, changed, cut, drop, embedding_of, hang, status

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
REFUSED = (400, 401, 402, 403, 404, 413, 415, 422, 301, 307)


# What they return.

def test_generate_embeddings_returns_768_floats(jina_demo):
    embedding = jina_demo.generate_embeddings("What is TiDB?")
    assert embedding == embedding_of("What is TiDB?") and len(embedding) == 768


def test_embed_texts_returns_an_embedding_a_text_in_their_order_from_one_request(jina_demo, jina):
    texts = ["one", "two", "three"]
    assert jina_demo.embed_texts(texts) == [embedding_of(text) for text in texts]
    assert len(jina.requests) == 1


def test_no_texts_are_no_request(jina_demo, jina):
    assert jina_demo.embed_texts([]) == [] and jina.requests == []


def test_a_repeated_text_is_sent_once(jina_demo, jina):
    assert jina_demo.embed_texts(["a", "b", "a"]) == [embedding_of(text) for text in "aba"]
    assert jina.requests[0].texts == ["a", "b"]


def test_many_texts_go_in_batches_one_request_at_a_time(jina_demo, jina, monkeypatch):
    monkeypatch.setattr(jina_demo, "BATCH_SIZE", 10)
    texts = [str(number) for number in range(25)]
    assert jina_demo.embed_texts(texts) == [embedding_of(text) for text in texts]
    assert [len(request.texts) for request in jina.requests] == [10, 10, 5]
    assert jina.most_open == 1


def test_a_batch_stays_within_the_smallest_documented_limit(jina_demo):
    assert 1 <= jina_demo.BATCH_SIZE <= 512


any_text = strategies.one_of(
    strategies.text(min_size=1, max_size=255),
    strategies.sampled_from(["\U0001f600", "'\"\\%s:name{}", "\u05e9\u05dc\u05d5\u05dd",
                             "\U0001f600" * 255]))


@given(strategies.lists(any_text, max_size=8))
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_text_gets_its_own_embedding(jina_demo, texts):
    jina_demo.BATCH_SIZE = 3
    assert jina_demo.embed_texts(texts) == [embedding_of(text) for text in texts]


# Faults that pass: a fault, or several in a row, then a proper answer.

PASSING = dict({f"status {code}": status(code) for code in RETRIED},
               **{"dropped": drop, "cut off": cut, "hung": hang(1.0),
                  "cut off unnoticed": body(b'{"data": [{"index": 0, "embedd'), "empty": body(b""),
                  "HTML": body(b"<html>Log in first</html>", content_type="text/html")})


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_is_tried_again(jina_demo, jina, monkeypatch, fault, times):
    monkeypatch.setattr(jina_demo, "READ_TIMEOUT", 0.2)
    jina.faults = [fault] * times
    assert jina_demo.embed_texts(["a", "b"]) == [embedding_of("a"), embedding_of("b")]
    assert len(jina.requests) == times + 1


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_stays_is_an_error_after_5_tries(jina_demo, jina, monkeypatch, fault):
    monkeypatch.setattr(jina_demo, "READ_TIMEOUT", 0.1)
    jina.faults = [fault] * 9
    with pytest.raises(jina_demo.EmbeddingError):
        jina_demo.embed_texts(["a"])
    assert len(jina.requests) == 5


def test_different_faults_in_a_row_are_tried_again(jina_demo, jina):
    jina.faults = [status(503), drop, cut, status(429, {"Retry-After": "0"})]
    assert jina_demo.generate_embeddings("a") == embedding_of("a")


def test_each_batch_has_tries_of_its_own_and_none_is_sent_twice(jina_demo, jina, monkeypatch):
    monkeypatch.setattr(jina_demo, "BATCH_SIZE", 1)
    jina.faults = [status(500)] * 4 + [None] + [status(500)] * 5
    with pytest.raises(jina_demo.EmbeddingError):
        jina_demo.embed_texts(["a", "b"])
    assert [request.texts for request in jina.requests] == [["a"]] * 5 + [["b"]] * 5


def test_the_error_after_the_last_try_is_what_the_service_said(jina_demo, jina):
    jina.faults = [drop] * 4 + [status(429, body={"detail": "Token rate limit", "code": "R"})]
    with pytest.raises(jina_demo.EmbeddingError) as caught:
        jina_demo.embed_texts(["a"])
    assert caught.value.status == 429 and caught.value.detail == "Token rate limit"
    assert "Token rate limit" in str(caught.value)


def test_a_refused_connection_is_tried_again(jina_demo, jina, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        monkeypatch.setattr(jina_demo, "JINAAI_API_URL",
                            f"http://127.0.0.1:{taken.getsockname()[1]}/v1/embeddings")
        waits = []
        monkeypatch.setattr(jina_demo.random, "uniform",
                            lambda low, high: waits.append(low) or low)
        with pytest.raises(jina_demo.EmbeddingError, match="ConnectionError") as caught:
            jina_demo.embed_texts(["a"])
    assert len(waits) == 4 and caught.value.status is None
    assert isinstance(caught.value.__cause__, jina_demo.requests.ConnectionError)


# Faults that stay: an error at once.

@pytest.mark.parametrize("code", REFUSED)
def test_any_other_refusal_is_an_error_at_once(jina_demo, jina, code):
    jina.faults = [status(code, {"Location": jina.url})]
    with pytest.raises(jina_demo.EmbeddingError, match="test fault") as caught:
        jina_demo.embed_texts(["a"])
    assert caught.value.status == code and len(jina.requests) == 1


def put(value):
    """Make the first embedding *value*."""
    return changed(lambda data: data[0].update(embedding=value))


def number(value):
    """Make a number of the first embedding *value*."""
    return changed(lambda data: data[0]["embedding"].__setitem__(5, value))


UNUSABLE = {
    "a list": body([]),
    "null": body(None),
    "a string": body("embeddings"),
    "an error object under status 200": body({"detail": "model is loading", "code": "X"}),
    "data is null": body({"data": None}),
    "data is a string": body({"data": "two"}),
    "data holds no objects": body({"data": [1, 2]}),
    "no index": changed(lambda data: [{"embedding": item["embedding"]} for item in data]),
    "no embedding": changed(lambda data: [{"index": item["index"]} for item in data]),
    "one too few": changed(lambda data: data[:1]),
    "one too many": changed(lambda data: data + [dict(data[0], index=2)]),
    "none": changed(lambda data: []),
    "a doubled index": changed(lambda data: data[1].update(index=0)),
    "a doubled answer": changed(lambda data: data + data),
    "an index out of range": changed(lambda data: data[1].update(index=7)),
    "a negative index": changed(lambda data: data[1].update(index=-1)),
    "an index that is a list": changed(lambda data: data[1].update(index=[1])),
    "a short embedding": put([0.5] * 767),
    "a long embedding": put([0.5] * 769),
    "an empty embedding": put([]),
    "a null embedding": put(None),
    "an embedding that is text": put("A" * 768),
    "NaN": number(math.nan),
    "infinity": number(math.inf),
    "minus infinity": number(-math.inf),
    "too large for float32": number(1e39),
    "too large for a float": number(10 ** 400),
    "null in the list": number(None),
    "a string in the list": number("0.5"),
    "true": number(True),
    "a list in the list": number([0.5]),
    "zeros": put([0] * 768),
    "zeros in float32": put([1e-60] * 768),
}


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("fault", UNUSABLE.values(), ids=UNUSABLE)
def test_an_answer_that_is_no_embedding_is_an_error_at_once(jina_demo, jina, fault, times):
    jina.faults = [fault] * times
    with pytest.raises(jina_demo.EmbeddingError) as caught:
        jina_demo.embed_texts(["a", "b"])
    assert caught.value.status == 200 and len(jina.requests) == 1
    message = str(caught.value)
    assert "200" in message or "JINAAI_MODEL" in message
    assert len(message) < 400 and "\n" not in message


def test_an_error_object_under_status_200_is_reported_with_its_detail(jina_demo, jina):
    jina.faults = [body({"detail": "model is loading", "code": "X", "request_id": "1"})]
    with pytest.raises(jina_demo.EmbeddingError, match="model is loading"):
        jina_demo.embed_texts(["a"])


def test_shuffled_answers_are_put_in_the_order_of_the_texts(jina_demo, jina):
    jina.faults = [changed(lambda data: data[::-1])]
    assert jina_demo.embed_texts(["a", "b", "c"]) == [embedding_of(text) for text in "abc"]


def test_whole_numbers_and_extra_fields_are_fine(jina_demo, jina):
    jina.faults = [changed(lambda data: data[0].update(embedding=[1] * 768, extra="field"))]
    assert jina_demo.generate_embeddings("a") == [1] * 768


def test_a_proxys_html_error_is_reported_by_its_status(jina_demo, jina):
    jina.faults = [body(b"<html><h1>Bad Gateway</h1></html>", 502, "text/html")] * 5
    with pytest.raises(jina_demo.EmbeddingError, match="502: Bad Gateway"):
        jina_demo.embed_texts(["a"])


def test_a_long_detail_is_shortened_to_one_line(jina_demo, jina):
    jina.faults = [status(400, body={"detail": "line\n" * 1000})]
    with pytest.raises(jina_demo.EmbeddingError) as caught:
        jina_demo.embed_texts(["a"])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


# Retry-After.

def waited(demo, monkeypatch, jina, *faults):
    """Return how long the demo waits in all before it succeeds after *faults*, in seconds."""
    jina.faults = list(faults)
    started = time.monotonic()
    assert demo.generate_embeddings("a") == embedding_of("a")
    return time.monotonic() - started


@pytest.mark.parametrize("value, least", [
    ("1", 1.0), ("0.3", 0.3), (" 0.3 ", 0.3), ("0", 0), ("-5", 0), ("", 0), ("soon", 0),
    ("nan", 0), ("1.2.3", 0), ("Sat, 32 Foo 2099", 0)])
def test_retry_after_in_seconds_is_waited_for(jina_demo, jina, monkeypatch, value, least):
    seconds = waited(jina_demo, monkeypatch, jina, status(429, {"Retry-After": value}))
    assert least <= seconds < least + 0.5


def test_retry_after_as_a_date_is_waited_for(jina_demo, jina, monkeypatch):
    now = datetime.datetime.now(datetime.timezone.utc)
    date = format_datetime(now + datetime.timedelta(seconds=2), usegmt=True)
    assert 0.9 <= waited(jina_demo, monkeypatch, jina, status(503, {"Retry-After": date})) < 2.5


def test_retry_after_in_the_past_is_not_waited_for(jina_demo, jina, monkeypatch):
    date = format_datetime(datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc), usegmt=True)
    assert waited(jina_demo, monkeypatch, jina, status(429, {"Retry-After": date})) < 0.5


@pytest.mark.parametrize("value", ["91", "86400", "9" * 400, "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_longer_retry_after_is_reported_instead(jina_demo, jina, value):
    jina.faults = [status(429, {"Retry-After": value})]
    started = time.monotonic()
    with pytest.raises(jina_demo.EmbeddingError, match=r"run again in (\d{2,} |inf )") as caught:
        jina_demo.embed_texts(["a"])
    assert len(jina.requests) == 1 and time.monotonic() - started < 1
    assert caught.value.status == 429


def test_a_wait_of_a_second_or_more_is_said_in_one_line(jina_demo, jina, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    waited(jina_demo, monkeypatch, jina, status(429, {"Retry-After": "1"}), status(503))
    line, = [record.getMessage() for record in caplog.records]
    assert "429" in line and "1 s" in line and "\n" not in line


def test_a_wait_is_said_on_stderr_by_the_demo(run_demo, jina):
    jina.faults = [status(429, {"Retry-After": "1.2"})]
    done = run_demo(env={"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url})
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("no ")]
    assert len(lines) == 1 and "429" in lines[0] and "1 s" in lines[0]


def test_the_waits_double_and_vary(jina_demo, jina, monkeypatch):
    pauses = []
    monkeypatch.setattr(jina_demo, "RETRY_WAIT", 0.05)
    for _ in range(3):
        jina.faults = [status(500)] * 4
        started = time.monotonic()
        jina_demo.generate_embeddings("a")
        pauses.append(time.monotonic() - started)
    assert all(0.05 * 15 * 0.5 <= pause < 0.05 * 15 + 0.3 for pause in pauses)
    assert len(set(pauses)) == 3


# What a service would regret.

def test_the_timeouts_are_passed_on_every_request(jina_demo, jina, monkeypatch):
    monkeypatch.setattr(jina_demo, "READ_TIMEOUT", 0.2)
    monkeypatch.setattr(jina_demo, "MAX_TRIES", 1)
    jina.faults = [hang(5)]
    started = time.monotonic()
    with pytest.raises(jina_demo.EmbeddingError, match="Timeout"):
        jina_demo.embed_texts(["a"])
    assert time.monotonic() - started < 2
    assert 0 < jina_demo.CONNECT_TIMEOUT <= 30


def test_the_key_does_not_follow_a_redirect(jina_demo, jina):
    with JinaServer() as other:
        for code in 301, 302, 303, 307, 308:
            jina.faults = [status(code, {"Location": other.url})]
            with pytest.raises(jina_demo.EmbeddingError):
                jina_demo.embed_texts(["a"])
        assert other.requests == []


def test_a_netrc_file_does_not_replace_the_key(jina_demo, jina, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login user password secret\n")
    netrc.chmod(stat.S_IRUSR)
    monkeypatch.setenv("NETRC", str(netrc))
    assert jina_demo.generate_embeddings("a") == embedding_of("a")


def test_a_proxy_of_the_environment_is_used(jina_demo, jina, monkeypatch):
    # A proxy gets the whole URL; the test server refuses that path, which shows it was asked.
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", "http://api.jina.invalid/v1/embeddings")
    monkeypatch.setenv("http_proxy", jina.base_url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(jina_demo.EmbeddingError, match="404"):
        jina_demo.embed_texts(["a"])
    assert jina.requests[0].path == "http://api.jina.invalid/v1/embeddings"


def test_a_users_own_test_can_patch_requests_post(demo, monkeypatch):
    class Answer:
        status_code = 200

        def json(self):
            return {"data": [{"index": 0, "embedding": [1.0] * 768}]}

    sent = {}
    monkeypatch.setattr(demo.requests, "post",
                        lambda url, **arguments: sent.update(arguments, url=url) or Answer())
    assert demo.generate_embeddings("a") == [1.0] * 768
    assert sent["url"] == "https://api.jina.ai/v1/embeddings" and sent["timeout"]
    assert sent["json"] == {"input": ["a"], "model": "jina-embeddings-v2-base-en"}
    assert sent["headers"]["Content-Type"] == "application/json"
