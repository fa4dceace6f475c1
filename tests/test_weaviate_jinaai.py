"""examples/weaviate_jinaai.py on a real Weaviate, which asks the tests' own Jina AI endpoint."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT, Process, assert_one_line_error, demo_environment, free_port, missing
from jina_server import body, changed, cosine_distance, cut, drop, embedding_of, hang, status

os.environ.update(dict.fromkeys(("WEAVIATE_URL", "WEAVIATE_API_KEY", "WEAVIATE_GRPC_PORT"), ""))
SCRIPT = ROOT / "examples" / "weaviate_jinaai.py"
sys.path.insert(0, str(SCRIPT.parent))
try:
    import weaviate_jinaai as example
except ImportError as error:
    if os.environ.get("TESTS_NEED_SERVERS"):
        raise
    pytest.skip(f"{error}: pip install -r examples/requirements.txt", allow_module_level=True)

QUESTION = "What is TiDB?"
OTHER, ANSWER = TEXTS = example.demo.TEXTS


class Weaviate(Process):
    """A Weaviate of the test's own, not started yet, that keeps its data in *folder*."""

    def __init__(self, folder, **options):
        home = ROOT / "tests" / "servers" / "weaviate"
        table = home / "tiktoken" / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # counts tokens
        for needed in (home / "weaviate-server", table):
            if not needed.exists():
                missing(f"no Weaviate, whose {needed.relative_to(home)} is not there: get it as "
                        "tests/servers/README.md says")
        port, grpc, gossip, data, raft, raft_rpc = (str(free_port()) for _ in range(6))
        url = f"http://127.0.0.1:{port}"
        super().__init__(
            [str(home / "weaviate-server"), "--host=127.0.0.1", "--port", port, "--scheme=http"],
            folder / "output.log",
            lambda: urllib.request.urlopen(url + "/v1/.well-known/ready", timeout=5).close(),
            dict({"PERSISTENCE_DATA_PATH": str(folder / "data"), "GRPC_PORT": grpc,
                  "CLUSTER_HOSTNAME": "node1", "CLUSTER_BIND_ADDR": "127.0.0.1",
                  "CLUSTER_ADVERTISE_ADDR": "127.0.0.1", "CLUSTER_GOSSIP_BIND_PORT": gossip,
                  "CLUSTER_DATA_BIND_PORT": data, "RAFT_PORT": raft,
                  "RAFT_INTERNAL_RPC_PORT": raft_rpc, "RAFT_BOOTSTRAP_EXPECT": "1",
                  "RAFT_TIMEOUTS_MULTIPLIER": "1",  # a start of 3 seconds instead of 8
                  "GO_PROFILING_DISABLE": "true", "DISABLE_TELEMETRY": "true",
                  "LOG_LEVEL": "warning", "TIKTOKEN_CACHE_DIR": str(table.parent)},
                 **options))
        self.settings = {"WEAVIATE_URL": url, "WEAVIATE_GRPC_PORT": grpc, "WEAVIATE_API_KEY":
                         options.get("AUTHENTICATION_APIKEY_ALLOWED_KEYS", "")}

    def emptied_settings(self, jina):
        """Delete what the example stored; return the settings of a real run."""
        request = urllib.request.Request(
            f"{self.settings['WEAVIATE_URL']}/v1/schema/{example.COLLECTION}", method="DELETE",
            headers={"Authorization": "Bearer " + self.settings["WEAVIATE_API_KEY"]})
        urllib.request.urlopen(request, timeout=30).close()
        return dict(self.settings, JINAAI_API_KEY=jina.key, JINAAI_API_URL=jina.url)


@pytest.fixture(scope="session")
def weaviate_server(tmp_path_factory):
    server = Weaviate(tmp_path_factory.mktemp("weaviate")).start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def strict_server(tmp_path_factory):
    """A Weaviate that asks for a key, and indexes after it has answered, as Weaviate Cloud may."""
    server = Weaviate(
        tmp_path_factory.mktemp("strict"), ASYNC_INDEXING="true",
        AUTHENTICATION_APIKEY_ENABLED="true", AUTHENTICATION_APIKEY_ALLOWED_KEYS="the-key",
        AUTHENTICATION_APIKEY_USERS="tester").start()
    yield server
    server.kill()


@pytest.fixture
def weaviate_settings(weaviate_server, jina):
    """The settings of a real run, on a Weaviate that has nothing of the example's."""
    return weaviate_server.emptied_settings(jina)


@pytest.fixture
def strict_settings(strict_server, jina):
    return strict_server.emptied_settings(jina)


@pytest.fixture
def use(monkeypatch):
    """Set constants of the example or, where it has no such, of the demo: use({name: value})."""
    def set_constants(values):
        for name, value in values.items():
            monkeypatch.setattr(example if hasattr(example, name) else example.demo, name, value)
    return set_constants


@pytest.fixture
def run_example(use, capsys):
    """Run the example in this process: run_example(settings) -> its completed process."""
    def run(settings):
        use(settings)
        try:
            example.demo.main(example.run)
            code = 0
        except SystemExit as end:
            code = end.code
        return subprocess.CompletedProcess(SCRIPT, code, *capsys.readouterr())
    return run


@pytest.fixture
def client(weaviate_settings, use):
    """A connection that the example makes."""
    use(weaviate_settings)
    with example.connect() as client:
        yield client


@pytest.fixture
def collection(client):
    return example.create_collection(client, "jina-embeddings-v2-base-en")


def start(settings):
    """Start the example in a process of its own without waiting for it."""
    return subprocess.Popen([sys.executable, str(SCRIPT)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=demo_environment(settings))


def distances(output):
    """Return the text and the distance of each of the documents in what an example printed."""
    return {text: float(number) for number, text in
            re.findall(r"- distance: (\S+)\n    content: (.*)", output)}


def test_the_output_is_that_of_the_demo_but_for_the_database(
        run_demo, weaviate_settings, tidb, jina):
    done = run_demo(script=SCRIPT, env=weaviate_settings)
    demo = run_demo(env={"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url,
                         "TIDB_DATABASE_URL": tidb})
    assert (done.returncode, done.stderr, demo.stderr) == (0, "", "")
    assert done.stdout.startswith("- Inserting Data to Weaviate...\n")
    assert done.stdout.splitlines()[1:4] == demo.stdout.splitlines()[1:4]
    assert distances(done.stdout) == pytest.approx(distances(demo.stdout), abs=1e-4)
    assert list(distances(done.stdout)) == [ANSWER, OTHER]
    assert done.stdout.count(ANSWER) == 4
    assert done.stdout.endswith(
        f"Document of a Hybrid Search and Its Score:\n  - score: 1.0\n    content: {ANSWER}\n")


def test_a_second_run_embeds_the_question_alone_and_keeps_what_its_user_did(
        run_example, weaviate_settings, collection, jina):
    assert run_example(weaviate_settings).returncode == 0
    mine = collection.data.insert({"content": "a text of my own"})
    collection.data.update(example.generate_uuid5(ANSWER), {"note": "changed by me"})
    del jina.requests[:]
    done = run_example(weaviate_settings)
    assert done.stdout.count("Already stored: ") == 2 and "Inserting:" not in done.stdout
    assert all(request.texts == [QUESTION] for request in jina.requests)
    kept = {item.properties["content"]: item.properties.get("note")
            for item in collection.query.fetch_objects().objects}
    assert kept == {"a text of my own": None, ANSWER: "changed by me", OTHER: None}
    assert collection.data.exists(mine)


def test_of_many_documents_twenty_are_listed(run_example, weaviate_settings, collection):
    texts = [f"text {number}" for number in range(20)]
    example.store_texts(collection, texts, {text: embedding_of(text) for text in texts})
    done = run_example(weaviate_settings)
    assert len(distances(done.stdout)) == 20 and "\n  ... and 2 more\n" in done.stdout


def test_two_first_runs_at_a_time_store_each_text_once(weaviate_settings, client):
    both = [start(weaviate_settings) for _ in range(2)]
    assert [process.communicate(timeout=60)[1] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert len(client.collections.get(example.COLLECTION)) == 2


def test_settings_are_read_from_the_env_file_of_the_demo(weaviate_settings, tmp_path):
    shutil.copytree(SCRIPT.parent, tmp_path / "examples")
    shutil.copy(example.demo.__file__, tmp_path)
    lines = "".join(f"{name}={value}\n" for name, value in weaviate_settings.items())
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("JINA", "WEAVIATE", "TIDB"))}
    for encoding, code in (("utf-8", 0), ("utf-16", 1)):
        (tmp_path / ".env").write_text(lines, encoding=encoding)
        done = subprocess.run([sys.executable, str(tmp_path / "examples" / SCRIPT.name)],
                              capture_output=True, text=True, timeout=60, env=environment)
        assert done.returncode == code, done.stderr
    assert_one_line_error(done, "utf-8")


def test_an_option_is_one_line(run_demo):
    assert_one_line_error(run_demo("--limit", "2", script=SCRIPT), "--help", status=2)


def test_ctrl_c_ends_it_as_it_does_the_demo(weaviate_settings, jina):
    jina.faults = [hang(30)]
    process = start(weaviate_settings)
    while not jina.requests:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == 130


def test_the_key_goes_along_at_run_time(collection, use, jina):
    example.store_texts(collection, ["a text"])
    assert jina.requests[0].headers["Authorization"] == "Bearer " + jina.key
    use({"JINAAI_API_KEY": "jina_another"})
    with example.connect() as other:
        with pytest.raises(example.exceptions.WeaviateBaseError, match="401"):
            example.find_documents(other.collections.get(example.COLLECTION), QUESTION, 1)
    assert jina.requests[-1].headers["Authorization"] == "Bearer jina_another"


@pytest.mark.parametrize("settings_changed, words", [
    ({"JINAAI_API_KEY": ""}, ["JINAAI_API_KEY is not set"]),
    ({"JINAAI_API_KEY": "ключ"}, ["JINAAI_API_KEY", "copy it again"]),
    ({"WEAVIATE_API_KEY": "ключ"}, ["WEAVIATE_API_KEY", "copy it again"]),
    ({"WEAVIATE_URL": "http://127.0.0.1:1"}, ["nothing answers at 127.0.0.1:1", "docker run"]),
    ({"WEAVIATE_GRPC_PORT": "1"}, ["nothing answers at 127.0.0.1:1", "WEAVIATE_GRPC_PORT"]),
    ({"WEAVIATE_GRPC_PORT": "x"}, ["nothing answers at 127.0.0.1:x", "WEAVIATE_GRPC_PORT"]),
    ({"WEAVIATE_URL": "http://localhost:99999"}, ["nothing answers at", "WEAVIATE_URL"]),
    ({"WEAVIATE_URL": "localhost:8080"}, ["WEAVIATE_URL must be"]),
    ({"WEAVIATE_URL": "http://me:secret@localhost:8080"}, ["WEAVIATE_URL must be"]),
    ({"WEAVIATE_URL": "a.gcp.weaviate.cloud"}, ["WEAVIATE_API_KEY is not set"]),
    ({"JINAAI_API_URL": "http://127.0.0.1:1/v2/embed"}, ["JINAAI_API_URL", "/v1/embeddings"]),
    ({"JINAAI_API_URL": "http://127.0.0.1:1/v1/embeddings"},
     ["2 not stored", "refused", "check JINAAI_API_URL"])])
def test_wrong_settings_are_one_line_at_once(
        run_example, weaviate_settings, settings_changed, words):
    start = time.monotonic()
    done = run_example(dict(weaviate_settings, **settings_changed))
    assert_one_line_error(done, *words)
    assert not re.search("ключ|secret", done.stderr)
    assert time.monotonic() - start < 20


def test_a_refused_key_is_one_line_and_nothing_is_stored(run_demo, weaviate_settings, collection):
    done = run_demo(script=SCRIPT, env=dict(weaviate_settings, JINAAI_API_KEY="jina_wrong"))
    assert_one_line_error(done, "2 not stored", "401", "check JINAAI_API_KEY")
    assert done.stdout.count("  - Failed: ") == 2
    assert "jina_wrong" not in done.stdout + done.stderr
    assert len(collection) == 0


def test_another_server_than_weaviate_is_one_line(run_example, weaviate_settings, tmp_path):
    port = free_port()
    server = Process(
        [sys.executable, "-m", "http.server", "-b", "127.0.0.1", "-d", str(tmp_path), str(port)],
        tmp_path / "output.log", lambda: socket.create_connection(("127.0.0.1", port)).close())
    server.start()
    (tmp_path / "v1").mkdir()
    for content in ("<html>", "{}", "[]"):
        (tmp_path / "v1" / "meta").write_text(content)
        done = run_example(dict(weaviate_settings, WEAVIATE_URL=f"http://127.0.0.1:{port}"))
        assert_one_line_error(done, "check", "WEAVIATE_URL")
    server.kill()


def test_a_silent_server_is_given_up(weaviate_settings, use):
    here = ("127.0.0.1", 0)
    with socket.create_server(here) as http, socket.create_server(here) as grpc:
        use(dict(weaviate_settings, WEAVIATE_URL=f"http://127.0.0.1:{http.getsockname()[1]}",
                 WEAVIATE_GRPC_PORT=str(grpc.getsockname()[1]), TIMEOUT=example.Timeout(query=0.5)))
        with pytest.raises(example.exceptions.WeaviateBaseError, match="timed out"):
            example.connect()


@pytest.mark.parametrize("url", ["abc.gcp.weaviate.cloud", "https://abc.gcp.weaviate.cloud/"])
def test_weaviate_cloud_is_connected_to_by_its_address_and_key(use, monkeypatch, url):
    use({"WEAVIATE_URL": url, "WEAVIATE_API_KEY": "cloud-key", "JINAAI_API_KEY": "jina_key"})
    monkeypatch.setattr(example.weaviate, "connect_to_weaviate_cloud",
                        lambda address, **options: (address, options))  # which would go online
    address, options = example.connect()
    assert address == "abc.gcp.weaviate.cloud"
    assert options["auth_credentials"] == example.Auth.api_key("cloud-key")
    assert options["headers"] == {"X-JinaAI-Api-Key": "jina_key"}


@pytest.mark.parametrize("key", ["", "other-key"])
def test_a_server_that_refuses_its_key_is_one_line(run_example, strict_settings, key):
    done = run_example(dict(strict_settings, WEAVIATE_API_KEY=key))
    assert_one_line_error(done, "401", "check WEAVIATE_URL and WEAVIATE_API_KEY")
    assert "other-key" not in done.stderr


@pytest.mark.parametrize("model, asked, tasks, dimensions", [
    ("jina-embeddings-v2-base-en", "jina-embeddings-v2-base-en", [None, None], None),
    ("jina-embeddings-v2-small-en", "jina-embeddings-v2-small-en", [None, None], None),
    ("jina-embeddings-v3", "jina-embeddings-v3", ["retrieval.passage", "retrieval.query"], 768),
    (None, "jina-embeddings-v4", [None, None], None)])  # the server's default
def test_the_model_embeds_texts_and_questions_as_they_are(
        client, jina, model, asked, tasks, dimensions):
    collection = example.create_collection(client, model)
    assert example.store_texts(collection, TEXTS) == {}
    assert len(example.find_documents(collection, QUESTION, 2)) == 2
    sent = [request.json for request in jina.requests]
    assert [data["input"] for data in sent] == [TEXTS, [QUESTION]]
    assert [data["model"] for data in sent] == [asked, asked]
    assert [data.get("task") for data in sent] == tasks
    assert [data.get("dimensions") for data in sent] == [dimensions, dimensions]


def test_the_texts_and_the_key_go_to_the_collections_model_and_endpoint_alone(
        run_example, weaviate_settings, collection, jina):
    done = run_example(dict(weaviate_settings, JINAAI_MODEL="jina-embeddings-v3"))
    assert_one_line_error(done, "jina-embeddings-v2-base-en", "JINAAI_MODEL")
    done = run_example(dict(weaviate_settings, JINAAI_MODEL="jina-embeddings-v2-base-en",
                            JINAAI_API_URL="http://127.0.0.1:1/v1/embeddings"))
    assert_one_line_error(done, jina.base_url, "JINAAI_API_URL")
    assert jina.requests == []


def test_new_texts_are_stored_once_by_one_batch(collection, jina):
    texts = ["one", "two", "one", "three"]
    assert example.new_texts(collection, texts) == ["one", "two", "three"]
    assert example.store_texts(collection, ["one", "two", "three"]) == {}
    assert example.new_texts(collection, texts + ["four"]) == ["four"]
    assert example.new_texts(collection, []) == [] and example.store_texts(collection, []) == {}
    assert [request.texts for request in jina.requests] == [["one", "two", "three"]]


def test_embeddings_that_exist_already_are_not_asked_for(collection, jina):
    theirs = embedding_of("something else")
    assert example.store_texts(collection, ["one", "two"], {"two": theirs}) == {}
    assert [request.texts for request in jina.requests] == [["one"]]
    found = dict(example.find_documents(collection, "something else", 2))
    assert found == pytest.approx(
        {"two": 0, "one": cosine_distance(theirs, embedding_of("one"))}, abs=1e-4)


def test_what_does_not_fail_is_stored(collection, jina, caplog):
    jina.faults = [status(500)]
    failed = example.store_texts(
        collection, ["with", "größer 更大"], {"with": embedding_of("with")})
    assert list(failed) == ["größer 更大"] and "500" in failed["größer 更大"]
    assert caplog.text == ""  # the client would show the embeddings
    stored = collection.query.fetch_objects().objects
    assert [item.properties["content"] for item in stored] == ["with"]
    assert example.new_texts(collection, ["with", "größer 更大"]) == ["größer 更大"]


@pytest.mark.parametrize("fault, words", [
    (status(401), "check JINAAI_API_KEY"), (status(429), "run again in 60 s"),
    (status(503), "run again in 60 s"), (drop, "check JINAAI_API_URL"),
    (cut, "check JINAAI_API_URL"), (body(b"<html>", 502, "text/html"), "check JINAAI_API_URL"),
    (body(b'{"data": [{"embedding": [0.12345, -0.5e-7, NaN]}]}'), "check JINAAI_API_URL"),
    (lambda handler, answer: handler.reply(400, {"detail": handler.headers["Authorization"]}),
     "error: Bearer ***"),
    (changed(lambda data: [dict(item, embedding=[0] * 768) for item in data]), "no embedding")],
    ids=["401", "429", "503", "drop", "cut", "no JSON", "NaN", "key", "zeros"])
def test_a_failing_endpoint_is_one_line_and_the_next_run_stores_the_rest(
        run_example, weaviate_settings, jina, fault, words):
    jina.faults = [fault]
    done = run_example(weaviate_settings)
    assert_one_line_error(done, "not stored", words)
    assert "  - Failed: " in done.stdout
    assert not re.search(f"0.12345|{jina.key}", done.stdout + done.stderr)
    done = run_example(weaviate_settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(distances(done.stdout)) == [ANSWER, OTHER]
    if words != "no embedding":
        jina.faults = [fault]  # at the question, as all texts are stored
        assert_one_line_error(run_example(weaviate_settings), words)


@pytest.mark.parametrize("embeddings", [0, 1])
def test_a_text_that_gets_no_embedding_fails_and_the_next_run_stores_it(
        run_example, strict_settings, jina, embeddings):
    # Not on the server of most tests: such an answer makes Weaviate 1.35 panic, and some batches
    # hang afterwards.
    jina.faults = [changed(lambda data: data[:embeddings])]
    done = run_example(strict_settings)
    assert_one_line_error(done, f"{2 - embeddings} not stored", "no embedding", "JINAAI_API_URL")
    done = run_example(strict_settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("  - Inserting: ") == 2 - embeddings
    assert list(distances(done.stdout)) == [ANSWER, OTHER]


def test_a_server_without_the_module_is_told_how_to_get_it():
    message = 'vectorizer: no module with name "text2vec-jinaai" present'
    assert "ENABLE_MODULES=text2vec-jinaai" in example.explain(message)


def test_hybrid_search_finds_the_best_by_words_and_meaning_with_their_scores(collection):
    serial_number = embedding_of("serial number of the machine")
    texts = ["a red apple", "a green apple", "a red car", "near in meaning", "it is XK-42"]
    example.store_texts(collection, texts, {"near in meaning": serial_number})
    found = example.find_hybrid(collection, "car", 2)
    assert len(found) == 2 and found[0] == ("a red car", pytest.approx(1))
    assert 0 <= found[1][1] < 1
    found = example.find_documents(collection, "serial number of the machine", 1)
    assert found == [("near in meaning", pytest.approx(0, abs=1e-4))]
    assert [text for text, _ in example.find_hybrid(collection, "XK", 1)] == ["it is XK-42"]


def test_rankings_and_distances_are_those_of_the_demo_on_tidb(collection, tidb):
    # Both embed the same texts at the same endpoint. TiDB compares a question with every text;
    # Weaviate's HNSW index is approximate, but a limit of all texts has it visit all of them.
    # Texts whose distances differ by less than 1e-4 may swap places: Weaviate counts in float32.
    demo = example.demo
    chance = random.Random(7)
    words = [f"word{number}" for number in range(150)]
    texts = [" ".join(chance.sample(words, 12)) + f" {number}" for number in range(300)]
    questions = [" ".join(chance.sample(words, 4)) + "?" for _ in range(30)]
    engine = demo.create_tidb_engine(tidb)
    demo.create_table(engine)
    new = demo.new_texts(engine, texts)
    demo.insert_documents(engine, new, demo.embed_texts(new))
    assert example.store_texts(collection, texts) == {}
    for question, embedding in zip(questions, demo.embed_texts(questions, "retrieval.query")):
        exact = demo.find_documents(engine, embedding, 300)
        found = example.find_documents(collection, question, 300)
        assert dict(found) == pytest.approx(dict(exact), abs=1e-4)
        ranks = [dict(exact)[text] for text, _ in found]
        assert ranks == pytest.approx([distance for _, distance in exact], abs=1e-4)
        nearest = example.find_documents(collection, question, 10)
        assert [dict(exact)[text] for text, _ in nearest] == pytest.approx(ranks[:10], abs=1e-4)
    engine.dispose()
