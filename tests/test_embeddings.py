"""generate_embeddings and embed_texts over real HTTP, with every fault that a service can have."""

import math
import stat
import threading
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest
import requests
import trustme
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as hypothesis_settings
from jina_server import JinaServer, body, changed, cut, drop, embedding_of, half, hang, status

from jina_ai_embeddings_demo import EmbeddingError

PASSAGE, QUERY = "retrieval.passage", "retrieval.query"
HUNG = hang(30)


def error_of(function, *arguments, **more):
    """Return the EmbeddingError that a call ends in."""
    with pytest.raises(EmbeddingError) as caught:
        function(*arguments, **more)
    return caught.value


def asks(seconds, code=429):
    """Return the fault that refuses and asks to try again in *seconds*, a text."""
    return status(code, {"Retry-After": seconds})


@pytest.fixture
def only_waits_count(demo, monkeypatch):
    """Let the clock stand still between waits, so that sums are exact."""
    monkeypatch.setattr(demo.time, "monotonic", lambda: sum(demo.time.waits))


@pytest.fixture
def timeouts(jina_demo, jina, monkeypatch):
    """The timeouts of the requests; a request that would hang is given up after 0.2 s instead."""
    timeouts, post = [], jina_demo.HTTP.post

    def noted(url, timeout, **arguments):
        timeouts.append(timeout)
        return post(url, timeout=0.2 if jina.faults[:1] == [HUNG] else timeout, **arguments)

    monkeypatch.setattr(jina_demo.HTTP, "post", noted)
    return timeouts


# What they return.

@pytest.mark.parametrize("texts, sent", [
    (["one", "two", "three"], [3]), (["a", "b", "a"], [2]), ([], []),
    ([str(number) for number in range(1025)], [512, 512, 1])])
def test_each_text_gets_its_embedding_in_their_order_and_is_sent_once_in_batches_of_512(
        jina_demo, jina, texts, sent):
    assert jina_demo.embed_texts(texts) == [embedding_of(text) for text in texts]
    assert [len(request.texts) for request in jina.requests] == sent and jina.most_open <= 1
    assert [text for request in jina.requests for text in request.texts] == [*dict.fromkeys(texts)]


any_text = strategies.text(min_size=1, max_size=255) | strategies.sampled_from(
    ["\U0001f600", "'\"\\%s:name{}", "\u05e9\u05dc\u05d5\u05dd", "\U0001f600" * 255])


@given(strategies.lists(any_text, max_size=8))
@hypothesis_settings(max_examples=50, deadline=None, suppress_health_check=[
    HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_every_text_gets_its_own_embedding(jina_demo, monkeypatch, texts):
    monkeypatch.setattr(jina_demo, "BATCH_SIZE", 3)
    assert jina_demo.embed_texts(texts) == [embedding_of(text) for text in texts]


@pytest.mark.parametrize("fault, embeddings", [
    (changed(lambda data: data[::-1]), [embedding_of("a"), embedding_of("b")]),
    (changed(lambda data: [dict(item, embedding=[1] * 768, more="field") for item in data]),
     [[1] * 768] * 2)], ids=["in another order", "whole numbers and another field"])
def test_an_unusual_answer_that_is_right_will_do(jina_demo, jina, fault, embeddings):
    jina.faults = [fault]
    assert jina_demo.embed_texts(["a", "b"]) == embeddings


def test_five_questions_use_one_connection(jina_demo, monkeypatch):
    with JinaServer() as server:
        monkeypatch.setattr(jina_demo, "JINAAI_API_URL", server.url)
        for number in range(5):
            jina_demo.generate_embeddings(f"question {number}")
        assert len(server.requests) == 5 and server.connections == 1


# Faults that may pass: one, or several in a row, then a proper answer.

PASSING = dict({f"status {code}": status(code) for code in (408, 429, 500, 502, 503, 504)},
               **{"dropped": drop, "hung": HUNG, "cut off": cut, "cut off unnoticed": half,
                  "empty": body(b""), "HTML": body(b"<html>Log in</html>", 200, "text/html")})


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_is_outlasted(jina_demo, jina, waits, timeouts, fault, times):
    jina.faults = [fault] * times
    assert jina_demo.embed_texts(["a", "b"]) == [embedding_of("a"), embedding_of("b")]
    assert [request.texts for request in jina.requests] == [["a", "b"]] * (times + 1)
    assert len(waits) == times


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_stays_is_an_error_when_75_seconds_are_over(
        jina_demo, jina, waits, only_waits_count, timeouts, name):
    jina.faults = [PASSING[name]] * 99
    error = error_of(jina_demo.embed_texts, ["a"])
    assert error.retry_after == 0
    assert error.status == int(name[7:]) if name.startswith("status") else error.status in (0, 200)
    assert 8 <= len(jina.requests) == len(waits) + 1 <= 13 and 60 <= sum(waits) < 75


class HangUp(BaseRequestHandler):
    """Ends a connection as soon as something has come."""
    def handle(self):
        self.request.recv(9999)


@pytest.mark.parametrize("scheme, listens", [("http", True), ("https", True), ("http", False)])
def test_a_server_that_hangs_up_or_does_not_listen_is_an_error_after_all_tries(
        jina_demo, waits, monkeypatch, scheme, listens):
    with ThreadingTCPServer(("127.0.0.1", 0), HangUp) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setattr(jina_demo, "JINAAI_API_URL",
                            f"{scheme}://127.0.0.1:{server.server_address[1]}/v1/embeddings")
        if not listens:
            server.server_close()
        error = error_of(jina_demo.embed_texts, ["a"])
        server.shutdown()
    assert error.status == error.retry_after == 0 and 7 <= len(waits) <= 12
    assert "no answer (" in str(error) and isinstance(error.__cause__, requests.ConnectionError)


# Waits, and patience.

def test_the_waits_double_up_to_15_seconds_and_are_up_to_half_shorter(
        jina_demo, jina, waits, only_waits_count):
    for _ in range(3):
        jina.faults = [status(429)] * 7
        jina_demo.generate_embeddings("a")
    shares = [wait / most for wait, most in zip(waits, [1, 2, 4, 8, 15, 15, 15] * 3)]
    assert 0.5 <= min(shares) < 0.75 < max(shares) <= 1 and len(set(shares)) == 21


@pytest.mark.parametrize("faults, patience, outcome", [
    ([asks("74")], [], [74]), ([asks("40"), asks("34")], [], [40, 34]), ([asks("9")], [10], [9]),
    ([asks("100")], [101], [100]), ([asks("75")], [], 75), ([asks("9" * 400)], [], math.inf),
    ([asks("40"), asks("35")], [], 35), ([asks("10")], [10], 10), ([status(503)], [0], 0),
    ([drop], [0], 0)])
def test_a_wait_that_would_end_at_the_deadline_is_an_error_that_names_it_instead(
        jina_demo, jina, waits, only_waits_count, faults, patience, outcome):
    jina.faults = list(faults)
    if isinstance(outcome, list):
        assert jina_demo.generate_embeddings("a", *patience) == embedding_of("a")
        assert waits == outcome
    else:
        error = error_of(jina_demo.generate_embeddings, "a", *patience)
        assert error.retry_after == outcome and (not outcome or f" {outcome} s" in str(error))
        assert len(jina.requests) == len(faults) == len(waits) + 1


def test_each_batch_has_75_seconds_and_short_waits_of_its_own(
        jina_demo, jina, waits, only_waits_count, monkeypatch):
    monkeypatch.setattr(jina_demo, "BATCH_SIZE", 1)
    jina.faults = [*[status(500)] * 4, asks("50"), None, status(500), asks("70"), None, asks("75")]
    error_of(jina_demo.embed_texts, ["a", "b", "c"])
    assert [request.texts for request in jina.requests] == [["a"]] * 6 + [["b"]] * 3 + [["c"]]
    assert waits[4] == 50 and 0.5 <= waits[5] <= 1 and waits[6:] == [70]


@pytest.mark.parametrize("patience, faults, expected", [
    (75, [None], [(10, 60)]), (75, [asks("20")], [(10, 60), (10, 55)]),
    (75, [asks("70")], [(10, 60), (5, 5)]), (75, [asks("74")], [(10, 60), (1, 1)]),
    (30, [None], [(10, 30)]), (5, [None], [(5, 5)]), (0.2, [None], [(1, 1)]),
    (-1, [None], [(1, 1)])])
def test_a_requests_timeouts_are_what_is_left_from_1_second_to_10_and_60(
        jina_demo, jina, only_waits_count, timeouts, patience, faults, expected):
    jina.faults = list(faults)
    jina_demo.embed_texts(["a"], PASSAGE, patience)
    assert timeouts == expected


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("value, seconds", [
    ("12", 12), ("2", 2), ("007", 7), ("0", 0), (" 12 ", 12), ("0.3", 0), ("1.2.3", 0), ("-5", 0),
    ("+5", 0), ("1e1", 0), ("", 0), ("soon", 0), ("nan", 0), ("inf", 0), ("\xb2", 0), ("1_0", 0),
    ("Wed, 01 Jan 2020 00:00:00 GMT", 0), ("Fri, 31 Dec 2100 23:59:59 GMT", 0)])
def test_retry_after_counts_in_whole_seconds_and_is_none_otherwise(
        jina_demo, jina, waits, code, value, seconds):
    jina.faults = [asks(value, code)] * 2
    assert error_of(jina_demo.generate_embeddings, "a", 0).retry_after == seconds
    assert jina_demo.generate_embeddings("a") == embedding_of("a")
    assert waits == [seconds] if seconds else 0.5 <= waits[0] <= 1


def test_a_limit_that_asks_for_1_second_15_times_is_outlasted(jina_demo, jina, waits):
    jina.faults = [asks("1")] * 15
    assert jina_demo.generate_embeddings("a") == embedding_of("a") and len(waits) == 15


# Faults that never pass: an error at once.

@pytest.mark.parametrize("code", [
    400, 401, 402, 403, 404, 409, 413, 415, 422, 425, 501, 301, 302, 303, 307, 308])
def test_any_other_refusal_is_an_error_at_once_and_no_redirect_gets_the_key(
        jina_demo, jina, waits, code):
    with JinaServer() as other:
        jina.faults = [status(code, {"Location": other.url, "Retry-After": "1"})]
        error = error_of(jina_demo.embed_texts, ["a"])
        assert (error.status, error.retry_after, waits) == (code, math.inf, [])
        assert len(jina.requests) == 1 and other.requests == []


FIRST = [  # what the first embedding is
    None, "A" * 768, [0.5] * 767, [0.5] * 769, [], [0] * 768, [1e-60] * 768,
    *([number] + [0.5] * 767 for number in (None, "0.5", [0.5], 10 ** 400, math.nan, math.inf,
                                            -math.inf, 1e39, 2e9))]
UNUSABLE = [
    body([]), body(None), body("embeddings"), body({"data": None}), body({"data": "two"}),
    body({"data": [1, 2]}), body({"detail": "model is loading"}), body(b"[" * 100_000),
    changed(lambda data: [{"embedding": item["embedding"]} for item in data]),
    changed(lambda data: [{"index": item["index"]} for item in data]),
    *(changed(lambda data, index=index: data[1].update(index=index)) for index in (0, 7, -1, [1])),
    changed(lambda data: data[:1]), changed(lambda data: []), changed(lambda data: data + data),
    changed(lambda data: data + [dict(data[0], index=2)]),
    *(changed(lambda data, first=first: data[0].update(embedding=first)) for first in FIRST)]


@pytest.mark.parametrize("fault", UNUSABLE, ids=range(len(UNUSABLE)))
def test_an_answer_that_is_no_embeddings_is_an_error_at_once(jina_demo, jina, waits, fault):
    jina.faults = [fault]
    error = error_of(jina_demo.embed_texts, ["a", "b"])
    assert (error.status, error.retry_after, waits) == (200, math.inf, [])
    assert "not 2 embeddings of 768 dimensions" in str(error) and len(jina.requests) == 1


@pytest.mark.parametrize("name, value", [
    *(("JINAAI_API_URL", url) for url in ("nonsense", "ftp://127.0.0.1/v1", "http://",
                                          "http://[::1", "http://" + "a" * 70 + ".b/")),
    *(("JINAAI_API_KEY", key) for key in ("secret\nkey", "secret\rkey", "secret\u200bkey", "키"))])
def test_a_url_or_a_key_that_cannot_be_used_is_an_error_at_once(
        jina_demo, waits, monkeypatch, name, value):
    monkeypatch.setattr(jina_demo, name, value)
    error = error_of(jina_demo.embed_texts, ["a"])
    assert (error.status, error.retry_after, waits) == (0, math.inf, [])
    for word in "secret", "키", JinaServer.key:
        assert word not in str(error)


@pytest.mark.parametrize("trusted, host, words", [
    (True, "127.0.0.1", None), (False, "127.0.0.1", "no answer (SSLError)"),
    (True, "localhost", "no answer (SSLError)"), ("/no/such/file", "127.0.0.1", "(OSError)")])
def test_over_tls_only_a_certificate_that_verifies_gets_the_key(
        jina_demo, waits, monkeypatch, tmp_path, trusted, host, words):
    authority, bundle = trustme.CA(), tmp_path / "ca.pem"
    (authority if trusted else trustme.CA()).cert_pem.write_to_path(bundle)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle if trusted in (True, False) else trusted))
    with JinaServer(tls=authority.issue_cert(host)) as server:
        monkeypatch.setattr(jina_demo, "JINAAI_API_URL", server.url)
        if words:
            error = error_of(jina_demo.embed_texts, ["a"])
            assert (error.retry_after, waits, server.requests) == (math.inf, [], [])
            assert words in str(error) and "REQUESTS_CA_BUNDLE" in str(error)
        else:
            assert jina_demo.generate_embeddings("a") == embedding_of("a")


# What an error shows of the answer.

@pytest.mark.parametrize("content, shown", [
    ('{"detail": "Insufficient account balance"}', '{"detail": "Insufficient account balance"}'),
    ("a\n b\x1b[31mc\u2028d\x9be\0f'g", "a\n b\x1b[31mc\u2028d\x9be\0f'g"),
    ("余额不足", "余额不足"), ("no such key: " + JinaServer.key, "no such key: ***"),
    ("x" * 190 + JinaServer.key, "x" * 190 + "***"), ("long " * 99, "long " * 40), ("", "")])
def test_an_error_shows_the_start_of_what_the_service_says_as_python_writes_it(
        jina_demo, jina, content, shown):
    jina.faults = [body(content.encode(), 400, "text/plain; charset=utf-8")]
    error = str(error_of(jina_demo.embed_texts, ["a"]))
    assert error.startswith(f"the service answered 400: {shown!r}; ") and error.isprintable()
    for word in "JINAAI_API_KEY", "balance", "JINAAI_API_URL", "JINAAI_MODEL":
        assert word in error


# The key, the endpoint and the way to it.

def test_without_a_key_nothing_is_sent_to_jina_ai(demo, monkeypatch):
    sent = []
    monkeypatch.setattr(demo.HTTP, "send", lambda *request, **options: sent.append(request))
    assert demo.JINAAI_API_URL == "https://api.jina.ai/v1/embeddings"
    for function, argument in (demo.generate_embeddings, "a"), (demo.embed_texts, ["a"]):
        error = error_of(function, argument)
        assert str(error).startswith("JINAAI_API_KEY is not set; ")
        assert error.retry_after == math.inf and sent == []


def test_an_endpoint_of_ones_own_needs_no_key(jina_demo, jina, monkeypatch):
    monkeypatch.setattr(jina_demo, "JINAAI_API_KEY", "")
    jina.key = None
    assert jina_demo.generate_embeddings("a") == embedding_of("a")
    assert "Authorization" not in jina.requests[0].headers
    jina.faults = [body(b"words stay as they are", 400)]
    assert "'words stay as they are'" in str(error_of(jina_demo.embed_texts, ["a"]))


def test_a_netrc_file_does_not_replace_the_key(jina_demo, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login user password secret\n")
    netrc.chmod(stat.S_IRUSR)
    monkeypatch.setenv("NETRC", str(netrc))
    assert jina_demo.generate_embeddings("a") == embedding_of("a")


@pytest.mark.parametrize("proxy, retry_after", [
    ("", None), ("http://user:secret@127.0.0.1:9", 0), ("socks5://user:secret@host", math.inf),
    *((proxy, math.inf) for proxy in (
        "foo://user:secret@host", "http://user:secret@", "http://user:secret@" + "long" * 20))])
def test_a_proxy_of_the_environment_is_used_and_its_password_never_shown(
        jina_demo, jina, monkeypatch, proxy, retry_after):
    url = "http://api.jina.invalid/v1/embeddings"
    monkeypatch.setattr(jina_demo, "JINAAI_API_URL", url)
    for name in "no_proxy", "NO_PROXY":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy or jina.base_url)
    error = error_of(jina_demo.embed_texts, ["a"])
    if proxy:
        assert str(error).startswith("no answer (") and "secret" not in str(error)
        assert error.retry_after == retry_after
    else:  # a proxy gets the whole URL; the test server refuses that path
        assert error.status == 404 and jina.requests[0].path == url


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
