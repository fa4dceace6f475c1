"""examples/weaviate_jinaai.py on a real Weaviate, which asks the tests' own Jina AI endpoint."""

import importlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT, Process, assert_one_line_error, free_port, missing
from jina_server import body, changed, cosine_distance, cut, drop, embedding_of, hang, status

if sys.version_info < (3, 9):
    pytest.skip("weaviate-client's Configure.Vectors needs Python 3.9", allow_module_level=True)
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
ANSWER, OTHER = example.TEXTS[1], example.TEXTS[0]


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
            [str(home / "weaviate-server"), "--host", "127.0.0.1", "--port", port,
             "--scheme", "http"],
            folder / "output.log",
            lambda: urllib.request.urlopen(url + "/v1/.well-known/ready", timeout=5).close(),
            dict({"PERSISTENCE_DATA_PATH": str(folder / "data"), "GRPC_PORT": grpc,
                  "CLUSTER_HOSTNAME": "node1", "CLUSTER_BIND_ADDR": "127.0.0.1",
                  "CLUSTER_ADVERTISE_ADDR": "127.0.0.1", "CLUSTER_GOSSIP_BIND_PORT": gossip,
                  "CLUSTER_DATA_BIND_PORT": data, "RAFT_PORT": raft,
                  "RAFT_INTERNAL_RPC_PORT": raft_rpc, "RAFT_BOOTSTRAP_EXPECT": "1",
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
def settings(weaviate_server, jina):
    """The settings of a real run, on a Weaviate that has nothing of the example's."""
    return weaviate_server.emptied_settings(jina)


@pytest.fixture
def strict_settings(strict_server, jina):
    return strict_server.emptied_settings(jina)


@pytest.fixture
def use(monkeypatch):
    """Set constants of the example: use({name: value})."""
    def set_constants(values):
        for name, value in values.items():
            monkeypatch.setattr(example, name, value)
    return set_constants


@pytest.fixture
def client(settings, use):
    """A connection that the example makes."""
    use(settings)
    with example.connect() as client:
        yield client


@pytest.fixture
def collection(client):
    return example.create_collection(client)


@pytest.fixture
def run(run_demo):
    """Run the example as a user does: run(*arguments, env=settings) -> its completed process."""
    def run_example(*arguments, **options):
        return run_demo(*arguments, script=SCRIPT, **options)
    return run_example


def start(arguments, settings, **options):
    """Start the example without waiting for it."""
    return subprocess.Popen([sys.executable, str(SCRIPT), *arguments], text=True,
                            env=dict(os.environ, **settings), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options)


def asked_for(jina):
    """Return the texts that Jina AI was asked to embed."""
    return [text for request in jina.requests for text in request.texts]


def distances(output):
    """Return the text and the distance of each of the documents in what an example printed."""
    return {text: float(number) for number, text in
            re.findall(r"- distance: (\S+)\n    content: (.*)", output)}


def objects_file(path, objects):
    path.write_text("\n".join(map(json.dumps, objects)) + "\n", encoding="utf-8")
    return str(path)


# ---- A run of the example

def test_the_output_is_that_of_the_demo_but_for_the_database(run, run_demo, settings, tidb, jina):
    done = run(env=settings)
    demo = run_demo(env={"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url,
                         "TIDB_DATABASE_URL": tidb})
    assert (done.returncode, done.stderr, demo.stderr) == (0, "", "")
    assert done.stdout.splitlines()[1:4] == demo.stdout.splitlines()[1:4]
    assert distances(done.stdout) == pytest.approx(distances(demo.stdout), abs=1e-4)
    assert list(distances(done.stdout)) == [ANSWER, OTHER]
    assert done.stdout.count(ANSWER) == 4
    assert done.stdout.endswith(
        f"Document of a Hybrid Search and Its Score:\n  - score: 1.0\n    content: {ANSWER}\n")


def test_a_second_run_asks_for_nothing_but_the_question(run, settings, jina):
    run(env=settings)
    del jina.requests[:]
    done = run(env=settings)
    assert done.stdout.count("Already stored: ") == 2 and "Inserting:" not in done.stdout
    assert set(asked_for(jina)) == {QUESTION}


def test_a_second_run_keeps_what_its_user_changed_and_added(run, settings, client):
    run(env=settings)
    collection = client.collections.get(example.COLLECTION)
    mine = collection.data.insert({"content": "a text of my own"})
    collection.data.update(example.generate_uuid5(ANSWER), {"note": "changed by me"})
    run(env=settings)
    kept = {item.properties["content"]: item.properties.get("note")
            for item in collection.query.fetch_objects().objects}
    assert kept == {"a text of my own": None, ANSWER: "changed by me", OTHER: None}
    assert collection.data.exists(mine)


def test_two_first_runs_at_a_time_store_each_text_once(settings, client):
    both = [start([], settings) for _ in range(2)]
    assert [process.communicate(timeout=60)[1] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert len(client.collections.get(example.COLLECTION)) == 2


def test_query_and_limit_are_those_of_the_command_line(run, settings):
    done = run("--query", "Who offers prompt optimizers?", "--limit", "2", env=settings)
    assert done.returncode == 0 and "List All" not in done.stdout
    assert list(distances(done.stdout)) == [OTHER, ANSWER]
    assert len(re.findall("- score: ", done.stdout)) == 2


def test_settings_are_read_from_env_files_beside_it_and_above(run, settings, tmp_path, jina):
    (tmp_path / "examples").mkdir()
    script = tmp_path / "examples" / SCRIPT.name
    script.write_text(SCRIPT.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / ".env").write_text(f"JINA_API_KEY={jina.key}\nWEAVIATE_URL=http://127.0.0.1:1\n")
    (tmp_path / "examples" / ".env").write_text(
        "".join(f"{name}={settings[name]}\n" for name in settings if name != "JINAAI_API_KEY"))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60,
        env={name: value for name, value in os.environ.items()
             if not name.startswith(("JINA", "WEAVIATE"))})
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_it_neither_connects_nor_prints(jina, settings):
    done = subprocess.run(
        [sys.executable, "-c", "import weaviate_jinaai"], cwd=str(SCRIPT.parent), timeout=60,
        env=dict(os.environ, **settings), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert jina.requests == []


# ---- Connection and key

def test_the_key_goes_along_at_run_time(client, use, jina):
    collection = example.create_collection(client)
    example.store_texts(collection, ["a text"])
    assert jina.requests[0].headers["Authorization"] == "Bearer " + jina.key
    use({"JINAAI_API_KEY": "jina_another"})
    with example.connect() as other:
        with pytest.raises(example.WeaviateBaseError, match="401"):
            example.find_documents(other.collections.get(example.COLLECTION), QUESTION, 1)
    assert jina.requests[-1].headers["Authorization"] == "Bearer jina_another"


def test_no_key_is_one_line(run, settings):
    assert_one_line_error(run(env=dict(settings, JINAAI_API_KEY="")), "JINAAI_API_KEY is not set")


@pytest.mark.parametrize("name", ["JINAAI_API_KEY", "WEAVIATE_API_KEY"])
def test_a_key_with_a_foreign_character_is_one_line_without_it(run, settings, name):
    done = run(env=dict(settings, **{name: "jina_ключ"}))
    assert_one_line_error(done, name, "copy it again")
    assert "ключ" not in done.stderr


def test_a_refused_key_is_one_line_and_nothing_is_stored(run, settings, client):
    done = run(env=dict(settings, JINAAI_API_KEY="jina_wrong"))
    assert_one_line_error(done, "2 not stored", "401", "check JINAAI_API_KEY")
    assert done.stdout.count("  - Failed: ") == 2
    assert "jina_wrong" not in done.stdout + done.stderr
    assert len(client.collections.get(example.COLLECTION)) == 0


def test_a_refused_key_is_one_line_where_nothing_has_to_be_stored(run, settings):
    run(env=settings)
    done = run(env=dict(settings, JINAAI_API_KEY="jina_wrong"))
    assert_one_line_error(done, "status: 401", "check JINAAI_API_KEY")


def test_where_nothing_answers_the_error_says_how_to_start_a_weaviate(run, settings):
    done = run(env=dict(settings, WEAVIATE_URL=f"http://127.0.0.1:{free_port()}"))
    assert_one_line_error(done, "nothing answers at 127.0.0.1", "docker run", "WEAVIATE_URL")


def test_a_missing_grpc_port_is_one_line_at_once(run, settings):
    port, start = str(free_port()), time.monotonic()
    done = run(env=dict(settings, WEAVIATE_GRPC_PORT=port))
    assert_one_line_error(done, f"nothing answers at 127.0.0.1:{port}", "WEAVIATE_GRPC_PORT")
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("values", [
    {"WEAVIATE_URL": "localhost:8080"}, {"WEAVIATE_URL": "ftp://localhost"},
    {"WEAVIATE_URL": "http://me:secret@localhost:8080"}, {"WEAVIATE_URL": "http://localhost/path"},
    {"WEAVIATE_URL": "http://localhost:99999"}, {"WEAVIATE_GRPC_PORT": "grpc"},
    {"WEAVIATE_URL": "http://localhost:8080", "WEAVIATE_GRPC_PORT": "8080"}])
def test_settings_that_cannot_be_used_are_one_line(run, settings, values):
    done = run(env=dict(settings, **values))
    assert_one_line_error(done, list(values)[0], "must be")
    assert "secret" not in done.stderr


def test_another_server_than_weaviate_is_one_line(run, settings, jina):
    assert_one_line_error(run(env=dict(settings, WEAVIATE_URL=jina.base_url)), "WEAVIATE_URL")


def test_a_silent_server_is_given_up(settings, use):
    here = ("127.0.0.1", 0)
    with socket.create_server(here) as http, socket.create_server(here) as grpc:
        use(dict(settings, WEAVIATE_URL=f"http://127.0.0.1:{http.getsockname()[1]}",
                 WEAVIATE_GRPC_PORT=str(grpc.getsockname()[1]), QUERY_TIMEOUT=0.5))
        with pytest.raises(example.WeaviateBaseError, match="timed out"):
            example.connect()


def test_weaviate_cloud_needs_its_key(run, settings):
    done = run(env=dict(settings, WEAVIATE_URL="abc.c0.europe-west3.gcp.weaviate.cloud"))
    assert_one_line_error(done, "WEAVIATE_API_KEY is not set")


@pytest.mark.parametrize("url", ["abc.gcp.weaviate.cloud", "https://abc.gcp.weaviate.cloud/"])
def test_weaviate_cloud_is_connected_to_by_its_address_and_key(use, monkeypatch, url):
    use({"WEAVIATE_URL": url, "WEAVIATE_API_KEY": "cloud-key", "JINAAI_API_KEY": "jina_key"})
    monkeypatch.setattr(example.weaviate, "connect_to_weaviate_cloud",
                        lambda address, **options: (address, options))  # which would go online
    address, options = example.connect()
    assert address == "abc.gcp.weaviate.cloud"
    assert options["auth_credentials"] == example.Auth.api_key("cloud-key")
    assert options["headers"] == {"X-JinaAI-Api-Key": "jina_key"}


def test_a_server_may_ask_for_a_key_and_index_after_it_has_answered(run, strict_settings):
    done = run(env=strict_settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(distances(done.stdout)) == [ANSWER, OTHER]


@pytest.mark.parametrize("key", ["", "other-key"])
def test_a_server_that_refuses_its_key_is_one_line(run, strict_settings, key):
    done = run(env=dict(strict_settings, WEAVIATE_API_KEY=key))
    assert_one_line_error(done, "401", "check WEAVIATE_URL and WEAVIATE_API_KEY")
    assert "other-key" not in done.stderr


# ---- The collection

def test_the_default_model_is_the_demos(collection, jina):
    example.store_texts(collection, ["Ein Text, as it is."])
    assert jina.requests[0].json["model"] == "jina-embeddings-v2-base-en"
    assert jina.requests[0].texts == ["Ein Text, as it is."]
    assert importlib.import_module("jina_ai_embeddings_demo").JINAAI_MODEL == example.JINAAI_MODEL


def test_no_model_is_the_servers_default(client, jina):
    example.store_texts(example.create_collection(client, None), ["a text"])
    assert jina.requests[0].json["model"] == "jina-embeddings-v4"


def test_a_named_model_is_asked_for_texts_and_questions(run, settings, jina):
    done = run(env=dict(settings, JINAAI_MODEL="jina-embeddings-v2-small-en"))
    assert done.returncode == 0
    assert {request.json["model"] for request in jina.requests} == {"jina-embeddings-v2-small-en"}


def test_a_model_with_tasks_is_told_them_and_the_dimensions(run, settings, jina):
    assert run(env=dict(settings, JINAAI_MODEL="jina-embeddings-v3")).returncode == 0
    assert [(request.texts[-1], request.json["task"], request.json["dimensions"])
            for request in jina.requests[:2]] == [
        (ANSWER, "retrieval.passage", 768), (QUESTION, "retrieval.query", 768)]


def test_another_model_than_the_collections_is_one_line(run, settings, jina):
    run(env=settings)
    del jina.requests[:]
    done = run(env=dict(settings, JINAAI_MODEL="jina-embeddings-v3"))
    assert_one_line_error(done, "jina-embeddings-v2-base-en", "JINAAI_MODEL")
    assert jina.requests == []


def test_the_key_goes_to_no_other_endpoint_than_the_one_set(run, settings, jina):
    run(env=settings)
    del jina.requests[:]
    done = run(env=dict(settings, JINAAI_API_URL="http://127.0.0.1:1/v1/embeddings"))
    assert_one_line_error(done, jina.base_url, "JINAAI_API_URL")
    assert jina.requests == []


def test_an_endpoint_that_weaviate_cannot_ask_is_one_line(run, settings, jina):
    done = run(env=dict(settings, JINAAI_API_URL=jina.base_url + "/v2/embed"))
    assert_one_line_error(done, "JINAAI_API_URL", "/v1/embeddings")


# ---- Import

def test_texts_are_stored_once_by_one_batch(collection, jina):
    texts = ["one", "two", "one", "three"]
    assert example.store_texts(collection, texts) == (["one", "two", "three"], {})
    assert example.store_texts(collection, texts + ["four"]) == (["four"], {})
    assert example.store_texts(collection, []) == ([], {})
    assert [request.texts for request in jina.requests] == [["one", "two", "three"], ["four"]]


def test_embeddings_that_exist_already_are_not_asked_for(collection, jina):
    theirs = embedding_of("something else")
    assert example.store_texts(collection, ["one", "two"], {"two": theirs}) == (["one", "two"], {})
    assert asked_for(jina) == ["one"]
    found = dict(example.find_documents(collection, "something else", 2))
    assert found == pytest.approx(
        {"two": 0, "one": cosine_distance(theirs, embedding_of("one"))}, abs=1e-4)


def test_a_file_brings_texts_with_and_without_embeddings(run, settings, jina, tmp_path):
    file = objects_file(tmp_path / "objects.jsonl", [
        {"content": "TiDB speaks MySQL", "vector": embedding_of("TiDB speaks MySQL")},
        {"content": "größer 更大"}])
    done = run("--objects", file, "--limit", "2", env=settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  - Stored: 2, already stored: 0, failed: 0" in done.stdout
    assert set(asked_for(jina)) == {"größer 更大", QUESTION}
    done = run("--objects", "-", env=settings, input=open(file, "rb").read())
    assert b"  - Stored: 0, already stored: 2, failed: 0" in done.stdout


def test_a_large_file_is_stored_batch_by_batch(run, settings, tmp_path):
    file = objects_file(tmp_path / "objects.jsonl",
                        [{"content": f"text {number}"} for number in range(300)])
    done = run("--objects", file, env=settings)
    assert re.findall(r"- Stored: (\d+), already stored: 0", done.stdout) == ["128", "256", "300"]


@pytest.mark.parametrize("line", [
    b"text", b'["content"]', b'{"text": "a"}', b'{"content": 7}', b'{"content": "\xff"}',
    b'{"content": "\\ud800"}', b'{"content": "a", "vector": [1, 2]}',
    b'{"content": "a", "vector": [%s]}' % b",".join([b"0"] * 768),
    b'{"content": "a", "vector": [%s]}' % b",".join([b"NaN"] * 768),
    b'{"content": "a", "vector": [%s]}' % b",".join([b'"1"'] * 768)])
def test_a_line_that_cannot_be_stored_is_named(run, settings, client, line):
    done = run("--objects", "-", env=settings, input=b'{"content": "first"}\n\n' + line)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    assert b"line 3" in done.stderr and b"error: " in done.stderr and len(done.stderr) < 200
    assert len(client.collections.get(example.COLLECTION)) == 0


def test_a_missing_file_is_one_line(run, settings):
    assert_one_line_error(run("--objects", "nowhere.jsonl", env=settings), "nowhere.jsonl")


def test_an_empty_file_is_one_line(run, settings):
    assert_one_line_error(run("--objects", os.devnull, env=settings), "no text is stored")


@pytest.mark.parametrize("fault, words", [
    (status(401), "check JINAAI_API_KEY"), (status(429), "run again in 60 s"),
    (status(503), "run again in 60 s"), (drop, "check JINAAI_API_URL"),
    (cut, "check JINAAI_API_URL"), (body(b"<html>", 502, "text/html"), "check JINAAI_API_URL"),
    (body(b'{"data": [{"embedding": [0.12345, -0.5e-7, NaN]}]}'), "check JINAAI_API_URL"),
    (changed(lambda data: [dict(item, embedding=[0] * 768) for item in data]), "no embedding")],
    ids=["401", "429", "503", "drop", "cut", "no JSON", "NaN", "zeros"])
def test_a_failing_endpoint_is_one_line_and_the_next_run_stores_the_rest(
        run, settings, jina, fault, words):
    jina.faults = [fault]
    done = run(env=settings)
    assert_one_line_error(done, "not stored", words)
    assert "  - Failed: " in done.stdout and "0.12345" not in done.stderr
    done = run(env=settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(distances(done.stdout)) == [ANSWER, OTHER]


@pytest.mark.parametrize("embeddings", [0, 1])
def test_a_text_that_gets_no_embedding_fails_and_the_next_run_stores_it(
        run, strict_settings, jina, embeddings):
    # Not on the server of most tests: such an answer makes Weaviate 1.35 panic, and some batches
    # hang afterwards.
    jina.faults = [changed(lambda data: data[:embeddings])]
    done = run(env=strict_settings)
    assert_one_line_error(done, f"{2 - embeddings} not stored", "no embedding", "JINAAI_API_URL")
    done = run(env=strict_settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("  - Inserting: ") == 2 - embeddings
    assert list(distances(done.stdout)) == [ANSWER, OTHER]


def test_an_unreachable_endpoint_is_one_line(run, settings):
    done = run(env=dict(settings, JINAAI_API_URL="http://127.0.0.1:1/v1/embeddings"))
    assert_one_line_error(done, "2 not stored", "refused", "check JINAAI_API_URL")


def test_an_endpoint_that_fails_at_the_question_is_one_line(run, settings, jina):
    run(env=settings)
    jina.faults = [drop]
    assert_one_line_error(run(env=settings), "check JINAAI_API_URL")


def test_a_key_in_an_answer_is_not_shown(run, settings, jina):
    jina.faults = [status(400, body={"detail": f"no credit for {jina.key}"})]
    done = run(env=settings)
    assert_one_line_error(done, "no credit for ***")
    assert jina.key not in done.stdout


def test_what_does_not_fail_is_stored(run, settings, jina, client, tmp_path):
    file = objects_file(tmp_path / "objects.jsonl", [
        {"content": "with", "vector": embedding_of("with")}, {"content": "without"}])
    jina.faults = [status(500)]
    done = run("--objects", file, env=settings)
    assert_one_line_error(done, '1 not stored, the first is "without"', "500")
    assert "  - Stored: 1, already stored: 0, failed: 1\n  - Failed: without\n" in done.stdout
    stored = client.collections.get(example.COLLECTION).query.fetch_objects().objects
    assert [item.properties["content"] for item in stored] == ["with"]


def test_an_import_gives_up_when_much_fails(run, settings, jina, tmp_path):
    file = objects_file(tmp_path / "objects.jsonl",
                        [{"content": f"text {number}"} for number in range(300)])
    done = run("--objects", file, env=dict(settings, JINAAI_API_KEY="jina_wrong"))
    assert_one_line_error(done, "128 not stored", "401")


# ---- Searches

def test_near_text_finds_the_nearest_up_to_a_limit_with_their_distances(collection):
    texts = ["a red apple", "a green apple", "a red car", "rain"]
    example.store_texts(collection, texts)
    found = example.find_documents(collection, "red apple", 3)
    exact = sorted((cosine_distance(embedding_of("red apple"), embedding_of(text)), text)
                   for text in texts)[:3]
    assert [text for text, _ in found] == [text for _, text in exact]
    assert dict(found) == pytest.approx({text: distance for distance, text in exact}, abs=1e-4)


def test_hybrid_search_finds_the_best_up_to_a_limit_with_their_scores(collection):
    example.store_texts(collection, ["a red apple", "a green apple", "a red car", "rain"])
    found = example.find_hybrid(collection, "car", 2)
    assert len(found) == 2 and found[0] == ("a red car", pytest.approx(1))
    assert 0 <= found[1][1] < 1


def test_hybrid_search_counts_words_as_well_as_meaning(collection):
    meaning = embedding_of("serial number of the machine")
    example.store_texts(collection, ["near in meaning", "it is XK-42", "rain"],
                        {"near in meaning": meaning})
    assert example.find_documents(collection, "serial number of the machine", 1)[0][0] == (
        "near in meaning")
    assert {text for text, _ in example.find_hybrid(collection, "XK", 1)} == {"it is XK-42"}


def test_rankings_and_distances_are_those_of_the_demo_on_tidb(collection, jina_demo, tidb):
    # Both embed the same texts at the same endpoint. TiDB compares a question with every text;
    # Weaviate's HNSW index is approximate, but a limit of all texts has it visit all of them.
    # Texts whose distances differ by less than 1e-4 may swap places: Weaviate counts in float32.
    chance = random.Random(7)
    words = [f"word{number}" for number in range(150)]
    texts = [" ".join(chance.sample(words, 12)) + f" {number}" for number in range(500)]
    questions = [" ".join(chance.sample(words, 4)) + "?" for _ in range(50)]
    engine = jina_demo.create_tidb_engine(tidb)
    jina_demo.create_table(engine)
    jina_demo.store_texts(engine, texts)
    assert example.store_texts(collection, texts) == (texts, {})
    embeddings = jina_demo.embed_texts(questions, "retrieval.query")
    for question, embedding in zip(questions, embeddings):
        exact = jina_demo.find_documents(engine, embedding, 500)
        found = example.find_documents(collection, question, 500)
        assert dict(found) == pytest.approx(dict(exact), abs=1e-4)
        ranks = [dict(exact)[text] for text, _ in found]
        assert ranks == pytest.approx([distance for _, distance in exact], abs=1e-4)
        nearest = example.find_documents(collection, question, 10)
        assert [dict(exact)[text] for text, _ in nearest] == pytest.approx(ranks[:10], abs=1e-4)
    engine.dispose()


# ---- The command line

@pytest.mark.parametrize("arguments", [
    ["--limit", "0"], ["--limit", "10001"], ["--limit", "x"], ["--query", " "], ["--other"]])
def test_wrong_options_are_one_line(run, settings, arguments):
    assert_one_line_error(run(*arguments, env=settings), "--help", status=2)


def test_ctrl_c_ends_it_without_a_traceback(settings, jina):
    jina.faults = [hang(30)]
    process = start([], settings)
    while not jina.requests:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == 130


def test_a_closed_pipe_ends_it_quietly(settings):
    process = start([], settings)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(20) == 141
    process.stderr.close()
