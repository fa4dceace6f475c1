"""examples/weaviate_jinaai.py on a real Weaviate, which asks the tests' own Jina AI endpoint."""

import os
import random
import signal
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers import (
    JINA_TEXT,
    QUESTION,
    ROOT,
    SERVERS,
    TEXTS,
    TIDB_TEXT,
    Clock,
    Process,
    assert_one_line_error,
    demo_command,
    demo_environment,
    distances,
    free_port,
    missing,
    unset_environment,
    without_distances,
)
from jina_server import body, changed, cosine_distance, cut, drop, embedding_of, hang, status

from examples import weaviate_jinaai as example
from examples.command_line import main

SCRIPT = ROOT / "examples" / "weaviate_jinaai.py"
NAMES = ("WEAVIATE_URL", "WEAVIATE_API_KEY", "WEAVIATE_GRPC_PORT")
# A blank variable hides a developer's own .env.
os.environ.update(dict.fromkeys(NAMES, ""))

CHECK = "check JINAAI_API_KEY, its balance, JINAAI_API_URL and JINAAI_MODEL"
LATER = "try again later"
NO_EMBEDDING = "Jina AI's answer has no embedding for it"

OUTPUT = f"""\
- Inserting Data to Weaviate...
  - Inserting: {JINA_TEXT}
  - Inserting: {TIDB_TEXT}
- List All Documents and Their Distances to the Query:
  - distance: DISTANCE
    content: {TIDB_TEXT}
  - distance: DISTANCE
    content: {JINA_TEXT}
- The Most Relevant Document and Its Distance to the Query:
  - distance: DISTANCE
    content: {TIDB_TEXT}
- The Most Relevant Document of a Hybrid Search and Its Score:
  - score: 1.0
    content: {TIDB_TEXT}
"""


# %% A Weaviate for the tests
HOME = SERVERS / "weaviate"
TOKENS = HOME / "tiktoken" / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # to count them
PORTS = ("GRPC_PORT", "RAFT_PORT", "RAFT_INTERNAL_RPC_PORT", "CLUSTER_GOSSIP_BIND_PORT",
         "CLUSTER_DATA_BIND_PORT")
ALONE = {
    "CLUSTER_HOSTNAME": "node1",
    "CLUSTER_BIND_ADDR": "127.0.0.1",
    "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
    "RAFT_BOOTSTRAP_EXPECT": "1",
    "RAFT_TIMEOUTS_MULTIPLIER": "1",  # a faster start
    "GO_PROFILING_DISABLE": "true",
    "DISABLE_TELEMETRY": "true",
    "LOG_LEVEL": "warning",
    "TIKTOKEN_CACHE_DIR": str(TOKENS.parent),
}
# Asks for a key, and indexes after it has answered, as Weaviate Cloud may.
STRICT = {
    "AUTHENTICATION_APIKEY_ENABLED": "true",
    "AUTHENTICATION_APIKEY_ALLOWED_KEYS": "the-key",
    "AUTHENTICATION_APIKEY_USERS": "tester",
    "ASYNC_INDEXING": "true",
}
WITHOUT_MODULE = {"API_BASED_MODULES_DISABLED": "true"}


def weaviate_process(folder, options):
    """Return a Weaviate, not started yet, that keeps its data in *folder*."""
    binary = HOME / "weaviate-server"
    for needed in binary, TOKENS:
        if not needed.exists():
            missing(f"no {needed.name} for Weaviate: get it as tests/servers/README.md says")

    ports = {name: str(free_port()) for name in PORTS}
    data = {"PERSISTENCE_DATA_PATH": str(folder / "data")}
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    server = Process(
        [binary, "--host=127.0.0.1", "--scheme=http", "--port", port],
        folder / "output.log",
        lambda: urllib.request.urlopen(url + "/v1/.well-known/ready", timeout=5).close(),
        {**ALONE, **ports, **data, **options},
    )
    server.settings = {
        "WEAVIATE_URL": url,
        "WEAVIATE_GRPC_PORT": ports["GRPC_PORT"],
        "WEAVIATE_API_KEY": options.get("AUTHENTICATION_APIKEY_ALLOWED_KEYS", ""),
    }
    return server


@pytest.fixture(scope="session")
def running_weaviate(tmp_path_factory):
    """running_weaviate(options): a server with these options, which goes on running."""
    if example.import_error:
        missing("no weaviate-client: pip install -r examples/requirements.txt")
    servers = {}

    def running(options):
        name = str(options)
        if name not in servers:
            folder = tmp_path_factory.mktemp("weaviate")
            servers[name] = weaviate_process(folder, options).start()
        return servers[name]

    yield running
    for server in servers.values():
        server.kill()


@pytest.fixture
def empty_weaviate(running_weaviate, jina):
    """empty_weaviate(options): the settings of a real run on an empty server."""

    def settings(options):
        server = running_weaviate(options).settings
        request = urllib.request.Request(
            f"{server['WEAVIATE_URL']}/v1/schema/{example.COLLECTION}",
            method="DELETE",
            headers={"Authorization": f"Bearer {server['WEAVIATE_API_KEY']}"},
        )
        urllib.request.urlopen(request, timeout=60).close()
        return {**server, "JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url}

    return settings


@pytest.fixture
def settings(empty_weaviate):
    """The settings of a real run on an empty server."""
    return empty_weaviate({})


# %% The example as a module and as a process
@pytest.fixture
def use(demo, monkeypatch):
    """use(settings): set them in the example or, where they are the demo's, in the demo."""

    def set_module(values):
        for name, value in values.items():
            module = example if name in NAMES else demo
            monkeypatch.setattr(module, name, value)

    return set_module


@pytest.fixture
def run_example(use, capsys):
    """Run the example in this process: run_example(settings) -> its completed process."""

    def run(settings):
        use(settings)
        code, error = 0, ""
        try:
            main(example.run)
        except SystemExit as ended:
            code, error = 1, f"{ended.code}\n"
        output = capsys.readouterr()
        return subprocess.CompletedProcess(SCRIPT, code, output.out, output.err + error)

    return run


@pytest.fixture
def client_waits(monkeypatch):
    """The seconds that Weaviate's client has waited between tries, which take no time."""
    clock = Clock()
    monkeypatch.setattr("weaviate.retry.time", clock)
    return clock.waits


@pytest.fixture
def client(settings, use):
    """A connection to an empty server."""
    use(settings)
    with example.connect() as client:
        yield client


@pytest.fixture
def collection(client):
    """The example's collection, which is empty."""
    return example.create_collection(client, "jina-embeddings-v2-base-en")


def started_example(settings):
    """The example in a process of its own, which is not waited for."""
    return subprocess.Popen(
        demo_command(script=SCRIPT),
        env=demo_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process):
    """What a process writes to stderr until it ends, and its exit status."""
    _, error = process.communicate(timeout=100)
    return error, process.returncode


def stored_texts(collection):
    """The texts in the collection, sorted."""
    objects = collection.query.fetch_objects(limit=1000).objects
    return sorted(item.properties["content"] for item in objects)


# %% What it prints
def test_a_run_prints_what_the_demo_prints_and_a_hybrid_search(run_demo, settings):
    done = run_demo(script=SCRIPT, env=settings)

    assert (done.returncode, done.stderr) == (0, "")
    assert without_distances(done.stdout) == OUTPUT
    question = embedding_of(QUESTION)
    near, far = [cosine_distance(question, embedding_of(text)) for text in (TIDB_TEXT, JINA_TEXT)]
    assert distances(done.stdout) == pytest.approx([near, far, near], abs=1e-4)


def test_a_second_run_embeds_only_the_question(run_example, settings, jina):
    first = run_example(settings)
    jina.requests.clear()
    second = run_example(settings)

    assert second.stdout == first.stdout.replace("Inserting:", "Already stored:")
    assert {text for request in jina.requests for text in request.texts} == {QUESTION}


def test_a_run_keeps_what_its_user_added_and_changed(run_example, settings, collection):
    run_example(settings)
    collection.data.insert({"content": "a text of my own"})
    collection.data.update(example.generate_uuid5(TIDB_TEXT), {"note": "changed by me"})

    run_example(settings)

    assert stored_texts(collection) == sorted([JINA_TEXT, TIDB_TEXT, "a text of my own"])
    changed_text = collection.query.fetch_object_by_id(example.generate_uuid5(TIDB_TEXT))
    assert changed_text.properties["note"] == "changed by me"


def test_the_list_stops_at_20_documents(run_example, settings, collection):
    texts = [f"text {number}" for number in range(19)]
    example.store_texts(collection, texts)

    done = run_example(settings)

    listed, nearest = done.stdout.split("- The Most Relevant Document and")
    assert len(distances(listed)) == 20
    assert listed.endswith("\n  ...\n")
    assert TIDB_TEXT in nearest


def test_each_run_sends_its_own_key(run_example, settings, jina):
    run_example(settings)

    done = run_example({**settings, "JINAAI_API_KEY": "jina_another"})

    assert_one_line_error(done, "error: Weaviate: ", "401", CHECK)
    assert jina.requests[-1].headers["Authorization"] == "Bearer jina_another"


def test_a_server_that_indexes_later_finds_all_texts(run_example, empty_weaviate):
    done = run_example(empty_weaviate(STRICT))

    assert done.stderr == ""
    assert without_distances(done.stdout) == OUTPUT


def test_two_first_runs_at_a_time_store_each_text_once(settings, client):
    both = [started_example(settings), started_example(settings)]

    assert [outcome(process) for process in both] == [("", 0), ("", 0)]
    assert stored_texts(client.collections.get(example.COLLECTION)) == TEXTS


def test_settings_come_from_the_demos_env_file(clone, settings):
    lines = [f"{name}={value}\n" for name, value in settings.items()]
    (clone / ".env").write_text("".join(lines))
    environment = unset_environment()
    for name in NAMES:
        del environment[name]

    script = clone / "examples" / SCRIPT.name
    done = subprocess.run(
        demo_command(script=script), env=environment, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_ends_it_without_a_word(settings, jina):
    jina.faults = [hang(300)]
    process = started_example(settings)
    while not jina.requests:
        assert process.poll() is None
        time.sleep(0.05)

    process.send_signal(signal.SIGINT)

    assert outcome(process) == ("", 130)


# %% Packages that are missing
@pytest.fixture(params=["weaviate", "httpx"])
def without_package(request, tmp_path):
    """The settings of a Python in which a package is missing."""
    error = f"ModuleNotFoundError('No module named {request.param}')"
    (tmp_path / f"{request.param}.py").write_text(f"raise {error}")
    return {"PYTHONPATH": str(tmp_path)}


def test_without_a_package_help_is_shown(run_demo, without_package):
    done = run_demo("--help", script=SCRIPT, env=without_package)

    assert (done.returncode, done.stderr) == (0, "")
    assert "WEAVIATE_URL" in done.stdout


def test_without_a_package_a_run_says_what_to_install(run_demo, without_package):
    done = run_demo(script=SCRIPT, env=without_package)

    assert_one_line_error(done, "No module named", "pip install -r examples/requirements.txt")


def test_an_option_that_it_does_not_have_is_one_line(run_demo):
    done = run_demo("--limit", script=SCRIPT)

    assert_one_line_error(done, "--limit", "see --help", status=2)


# %% Wrong settings
WRONG_FOR_JINA_AI = {
    "no key": (
        {"JINAAI_API_KEY": "", "JINAAI_API_URL": "https://api.jina.ai/v1/embeddings"},
        ["JINAAI_API_KEY is not set"],
    ),
    "no key for an endpoint of one's own": (
        {"JINAAI_API_KEY": ""}, ["2 not stored", "API Key", CHECK]),
    "a key of other letters": (
        {"JINAAI_API_KEY": "ключ"}, ["JINAAI_API_KEY", "copy it again"]),
    "a wrong key": (
        {"JINAAI_API_KEY": "jina_wrong"}, ["2 not stored", "401", CHECK]),
    "an endpoint of another form": (
        {"JINAAI_API_URL": "http://127.0.0.1:1/v2/embed"},
        ["JINAAI_API_URL must be", "/v1/embeddings"],
    ),
    "an endpoint that is not there": (
        {"JINAAI_API_URL": "http://127.0.0.1:1/v1/embeddings"},
        ["2 not stored", "refused", CHECK],
    ),
}
WRONG_FOR_WEAVIATE = {
    "a key of other letters": (
        {"WEAVIATE_API_KEY": "ключ"}, ["WEAVIATE_API_KEY", "copy it again"]),
    "a key in two lines": (
        {"WEAVIATE_API_KEY": "my\nsecret"}, ["WEAVIATE_API_KEY", "copy it again"]),
    "no server": (
        {"WEAVIATE_URL": "http://127.0.0.1:1"},
        ["nothing answers at 127.0.0.1:1", "docker run"],
    ),
    "no gRPC": (
        {"WEAVIATE_GRPC_PORT": "1"},
        ["nothing answers at 127.0.0.1:1", "WEAVIATE_GRPC_PORT"],
    ),
    "a gRPC port that is no number": (
        {"WEAVIATE_GRPC_PORT": "x"},
        ["nothing answers at 127.0.0.1:x", "WEAVIATE_GRPC_PORT"],
    ),
    "no http://": (
        {"WEAVIATE_URL": "localhost:8080"}, ["WEAVIATE_URL must be"]),
    "a password in the URL": (
        {"WEAVIATE_URL": "http://me:secret@localhost:8080"}, ["WEAVIATE_URL must be"]),
}


@pytest.mark.parametrize("wrong, words", WRONG_FOR_JINA_AI.values(), ids=WRONG_FOR_JINA_AI)
def test_a_wrong_setting_for_jina_ai_is_one_line(run_example, settings, wrong, words):
    done = run_example({**settings, **wrong})

    assert_one_line_error(done, *words)
    assert "ключ" not in done.stderr
    assert "jina_wrong" not in done.stderr


@pytest.mark.parametrize("wrong, words", WRONG_FOR_WEAVIATE.values(), ids=WRONG_FOR_WEAVIATE)
def test_a_wrong_setting_for_weaviate_is_one_line_at_once(
        run_example, settings, client_waits, wrong, words):
    done = run_example({**settings, **wrong})

    assert_one_line_error(done, *words)
    assert client_waits == []
    assert "ключ" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize("address", [
    "abc.gcp.weaviate.cloud",
    "https://abc.gcp.weaviate.cloud/",
    "https://abc.weaviate.network",
])
def test_a_cluster_of_weaviate_cloud_needs_its_key(run_example, settings, address):
    done = run_example({**settings, "WEAVIATE_URL": address})

    assert_one_line_error(done, "WEAVIATE_API_KEY is not set", "console")


class OtherHandler(BaseHTTPRequestHandler):
    """Answers a GET with the server's `content`, and a POST not at all."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content)

    def do_POST(self):
        self.close_connection = True

    def log_message(self, *words):
        pass


@pytest.fixture
def other_server():
    """A web server that is no Weaviate."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), OtherHandler)
    server.port = str(server.server_address[1])
    server.url = f"http://127.0.0.1:{server.port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("content", [b"<html>", b"{}", b"[]"])
def test_another_server_than_weaviate_is_one_line(run_example, settings, other_server, content):
    other_server.content = content

    done = run_example({**settings, "WEAVIATE_URL": other_server.url})

    assert_one_line_error(done, "check", "WEAVIATE_URL")


def test_a_server_that_stops_answering_is_one_line(run_example, settings, other_server):
    other_server.content = b'{"version": "1.35.2"}'

    done = run_example({**settings, "WEAVIATE_URL": other_server.url})

    assert_one_line_error(done, "error: Weaviate: ", "disconnected", "check WEAVIATE_URL")


def test_another_server_at_the_grpc_port_is_one_line(
        run_example, settings, other_server, client_waits):
    done = run_example({**settings, "WEAVIATE_GRPC_PORT": other_server.port})

    assert_one_line_error(done, "check", "WEAVIATE_GRPC_PORT")


@pytest.mark.parametrize("key", ["", "other-key"])
def test_a_server_that_refuses_the_key_is_one_line(run_example, empty_weaviate, key):
    done = run_example({**empty_weaviate(STRICT), "WEAVIATE_API_KEY": key})

    assert_one_line_error(done, "error: Weaviate: ", "401", "WEAVIATE_API_KEY")
    assert "other-key" not in done.stderr


def test_a_server_without_the_module_is_one_line(run_example, empty_weaviate):
    done = run_example(empty_weaviate(WITHOUT_MODULE))

    assert_one_line_error(done, "no module", "ENABLE_MODULES=text2vec-jinaai")


# %% The collection
MODELS = {
    "jina-embeddings-v2-base-en": (None, None, None),
    "jina-embeddings-v2-small-en": (None, None, None),
    "jina-embeddings-v3": ("retrieval.passage", "retrieval.query", 768),
}


@pytest.mark.parametrize("model", MODELS)
def test_the_model_embeds_texts_and_question_as_the_demo_has_it_do(client, jina, model):
    passage, query, dimensions = MODELS[model]

    collection = example.create_collection(client, model)
    example.store_texts(collection, TEXTS)
    example.find_documents(collection, QUESTION, 2)

    store, find = [request.json for request in jina.requests]
    assert (store["input"], find["input"]) == (TEXTS, [QUESTION])
    assert (store.get("task"), find.get("task")) == (passage, query)
    for request in store, find:
        assert (request["model"], request.get("dimensions")) == (model, dimensions)


@pytest.mark.parametrize("name, value", [
    ("JINAAI_API_URL", "http://127.0.0.1:1/v1/embeddings"),
    ("JINAAI_MODEL", "jina-embeddings-v3"),
])
def test_a_collection_of_another_source_gets_neither_texts_nor_key(
        run_example, settings, collection, jina, name, value):
    done = run_example({**settings, name: value})

    assert_one_line_error(done, jina.base_url, "jina-embeddings-v2-base-en", name)
    assert jina.requests == []


def test_a_collection_of_another_program_is_left_alone(run_example, settings, client):
    vectors = example.wvc.config.Configure.Vectors.self_provided(name="own")
    client.collections.create(example.COLLECTION, vector_config=vectors)

    done = run_example(settings)

    assert_one_line_error(done, example.COLLECTION, "another program", "delete it")


# %% Texts
def test_new_texts_come_once_and_in_order(collection):
    example.store_texts(collection, ["two"])

    assert example.new_texts(collection, ["three", "two", "one", "three"]) == ["three", "one"]
    assert example.new_texts(collection, []) == []


def test_texts_are_stored_by_one_request(collection, jina):
    failed = example.store_texts(collection, ["one", "two", "three"])

    assert failed == {}
    assert [request.texts for request in jina.requests] == [["one", "two", "three"]]
    assert example.new_texts(collection, ["one", "two", "three"]) == []


def test_an_embedding_that_one_has_is_used(collection, jina):
    own = embedding_of("something else")

    example.store_texts(collection, ["one", "two"], [("two", own)])

    assert [request.texts for request in jina.requests] == [["one"]]
    found = dict(example.find_documents(collection, "something else", 2))
    distance = cosine_distance(own, embedding_of("one"))
    assert found == pytest.approx({"two": 0, "one": distance}, abs=1e-4)


def test_what_does_not_fail_is_stored(collection, jina, caplog):
    jina.faults = [status(500)]
    own = embedding_of("with")

    failed = example.store_texts(collection, ["with", "größer 更"], [("with", own)])

    assert list(failed) == ["größer 更"]
    assert "500" in failed["größer 更"]
    assert stored_texts(collection) == ["with"]
    assert caplog.text == ""  # where the client would show the embedding


def test_hybrid_search_finds_the_best_by_words_and_meaning(collection):
    example.store_texts(collection, ["a red apple", "a green apple", "a red car", "it is XK-42"])

    [best, other] = example.find_hybrid(collection, "car", 2)
    [by_word] = example.find_hybrid(collection, "XK", 1)

    assert best == ("a red car", pytest.approx(1))
    assert 0 <= other[1] < 1
    assert by_word[0] == "it is XK-42"


# %% An endpoint that fails
def show_key(handler, answer):
    """Answer with the key that was sent."""
    handler.reply(400, {"detail": handler.headers["Authorization"]})


@pytest.fixture(params=[
    pytest.param((status(401), CHECK), id="401"),
    pytest.param((status(429), LATER), id="429"),
    pytest.param((status(524), LATER), id="524"),
    pytest.param((drop, CHECK), id="drop"),
    pytest.param((cut, CHECK), id="cut"),
    pytest.param((body(b"<html>\x1b[31m", 502, "text/html"), CHECK), id="no JSON"),
    pytest.param((body(b'{"data": [{"embedding": [0.12345, NaN]}]}'), CHECK), id="NaN"),
    pytest.param((show_key, "Bearer ***"), id="key"),
])
def fault_and_words(request):
    """An answer of the endpoint, and words of the error that it leads to."""
    return request.param


def assert_no_secret(done, jina):
    """Check that an error shows neither key nor embedding, nor what a terminal obeys."""
    assert jina.key not in done.stderr
    assert "0.12345" not in done.stderr
    assert done.stderr.rstrip("\n").isprintable()


def test_texts_that_fail_are_told_and_stored_by_the_next_run(
        run_example, settings, collection, jina, fault_and_words):
    fault, words = fault_and_words

    jina.faults = [fault]
    failed = run_example(settings)
    stored = stored_texts(collection)
    done = run_example(settings)

    assert_one_line_error(failed, "error: 2 not stored; Weaviate: ", words)
    assert_no_secret(failed, jina)
    assert failed.stdout.count("  - Failed: ") == 2
    assert stored == []
    assert without_distances(done.stdout) == OUTPUT


def test_a_question_that_fails_is_one_line(run_example, settings, jina, fault_and_words):
    fault, words = fault_and_words
    run_example(settings)

    jina.faults = [fault]
    done = run_example(settings)

    assert_one_line_error(done, "error: Weaviate: ", words)
    assert_no_secret(done, jina)


# Too few embeddings make Weaviate 1.35 panic, and some later batches hang, so these answers
# do not go to the server of the other tests.
@pytest.mark.parametrize("answers, failed", [
    pytest.param(lambda data: [dict(item, embedding=[0] * 768) for item in data], 2, id="zeros"),
    pytest.param(lambda data: [], 2, id="none"),
    pytest.param(lambda data: data[:1], 1, id="one"),
])
def test_texts_without_an_embedding_are_not_kept(
        run_example, empty_weaviate, jina, answers, failed):
    settings = empty_weaviate(STRICT)
    jina.faults = [changed(answers)]

    done = run_example(settings)
    with example.connect() as client:
        stored = stored_texts(client.collections.get(example.COLLECTION))
    rerun = run_example(settings)

    assert_one_line_error(done, f"error: {failed} not stored", NO_EMBEDDING, CHECK)
    assert len(stored) == 2 - failed
    assert rerun.stdout.count("  - Inserting: ") == failed
    assert rerun.returncode == 0


# %% The same answers as the demo's on TiDB
@pytest.fixture
def chance():
    """Random numbers, which are always the same."""
    return random.Random(7)


def random_texts(chance, count, words):
    """So many texts of so many words each, with a number that makes each text another one."""
    vocabulary = [f"word{number}" for number in range(150)]
    return [" ".join([*chance.sample(vocabulary, words), str(number)]) for number in range(count)]


@pytest.mark.parametrize("database_url", ["tidb"], indirect=True)
def test_rankings_and_distances_are_those_of_the_demo_on_tidb(
        collection, engine, jina_demo, chance):
    texts = random_texts(chance, 300, words=12)
    questions = random_texts(chance, 30, words=4)
    jina_demo.insert_documents(engine, texts, jina_demo.embed_texts(texts))
    example.store_texts(collection, texts)

    for question in questions:
        [embedding] = jina_demo.embed_texts([question], "retrieval.query")
        exact = dict(jina_demo.find_documents(engine, embedding, 300))
        # Weaviate's index is approximate, but a limit of all texts has it visit all of them.
        found = example.find_documents(collection, question, 300)
        nearest = example.find_documents(collection, question, 10)

        # Texts whose distances differ by less than 1e-4 may swap places, because Weaviate
        # counts in float32.
        assert dict(found) == pytest.approx(exact, abs=1e-4)
        assert [number for _, number in found] == sorted(dict(found).values())
        assert [number for _, number in nearest] == pytest.approx(
            list(exact.values())[:10], abs=1e-4)
