"""JINAAI_MODEL: other models that give 768 dimensions. --vector-index: the HNSW index."""

import pytest
from conftest import assert_one_line_error, sql
from jina_server import embedding_of
from sqlalchemy import event

PASSAGE, QUERY = "retrieval.passage", "retrieval.query"
NATIVE = ["jina-embeddings-v2-base-en", "jina-embeddings-v2-base-zh"]
TASKS_ONLY = ["jina-embeddings-v5-text-nano"]
TASKS_AND_DIMENSIONS = [
    "jina-embeddings-v3", "jina-embeddings-v4", "jina-embeddings-v5-text-small"]


def sent(jina):
    """Return the fields beside `input` of the requests for the texts and for the question."""
    return [{name: value for name, value in request.json.items() if name != "input"}
            for request in jina.requests]


# Models.

@pytest.mark.parametrize("model", NATIVE)
def test_v2_models_take_neither_task_nor_dimensions(run_demo, settings, jina, model):
    assert run_demo(env=dict(settings, JINAAI_MODEL=model)).returncode == 0
    assert sent(jina) == [{"model": model}, {"model": model}]


@pytest.mark.parametrize("model", TASKS_ONLY)
def test_a_model_with_768_dimensions_is_told_the_task_only(run_demo, settings, jina, model):
    assert run_demo(env=dict(settings, JINAAI_MODEL=model)).returncode == 0
    assert sent(jina) == [{"model": model, "task": PASSAGE}, {"model": model, "task": QUERY}]


@pytest.mark.parametrize("model", TASKS_AND_DIMENSIONS)
def test_larger_models_are_asked_for_768_dimensions(run_demo, settings, jina, model):
    assert run_demo(env=dict(settings, JINAAI_MODEL=model)).returncode == 0
    assert sent(jina) == [{"model": model, "task": PASSAGE, "dimensions": 768},
                          {"model": model, "task": QUERY, "dimensions": 768}]


def test_the_functions_take_the_task_too(jina_demo, monkeypatch):
    monkeypatch.setattr(jina_demo, "JINAAI_MODEL", "jina-embeddings-v3")
    asked = jina_demo.generate_embeddings("a")
    assert asked == embedding_of("a", "jina-embeddings-v3", 768, QUERY)
    assert [asked] != jina_demo.embed_texts(["a"])
    assert [asked] == jina_demo.embed_texts(["a"], QUERY)


def test_a_model_of_other_dimensions_is_an_error_that_says_so(run_demo, settings):
    done = run_demo(env=dict(settings, JINAAI_MODEL="jina-embeddings-v2-small-en"))
    assert_one_line_error(done, "512 dimensions", "768", "JINAAI_MODEL")


def test_an_unknown_model_is_an_error_with_the_services_words(run_demo, settings):
    done = run_demo(env=dict(settings, JINAAI_MODEL="jina-embeddings-v99"))
    assert_one_line_error(done, "Model 'jina-embeddings-v99' not found", "check JINAAI")


def test_another_model_on_the_same_table_is_an_error_that_names_both(run_demo, jina, tidb):
    env = {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url, "TIDB_DATABASE_URL": tidb}
    v3 = dict(env, JINAAI_MODEL="jina-embeddings-v3")
    assert run_demo(env=v3).returncode == 0 and run_demo(env=v3).returncode == 0
    jina.requests.clear()
    done = run_demo(env=env)
    assert_one_line_error(done, "jina-embeddings-v3", "jina-embeddings-v2-base-en", "drop")
    assert jina.requests == []
    sql(tidb, "DROP TABLE jinaai_tidb_demo_documents")
    assert run_demo(env=env).returncode == 0


def test_a_table_without_a_model_is_v2_base_ens(run_demo, jina, tidb):
    sql(tidb, "CREATE TABLE jinaai_tidb_demo_documents (id INTEGER NOT NULL AUTO_INCREMENT, "
              "content VARCHAR(255) NOT NULL, content_vec VECTOR(768), PRIMARY KEY (id))")
    env = {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url, "TIDB_DATABASE_URL": tidb}
    assert_one_line_error(run_demo(env=dict(env, JINAAI_MODEL="jina-embeddings-v3")),
                          "jina-embeddings-v3", "jina-embeddings-v2-base-en")
    assert run_demo(env=env).returncode == 0


# The index.

def test_without_tiflash_a_line_says_that_search_stays_exact(run_demo, settings):
    done = run_demo("--vector-index", env=settings)
    assert done.returncode == 0 and "- List All" in done.stdout
    line, = [line for line in done.stderr.splitlines() if "index" in line]
    assert "exact" in line


def test_any_other_failure_of_the_index_is_an_error(run_demo, jina, tidb):
    env = {"JINAAI_API_KEY": jina.key, "JINAAI_API_URL": jina.url, "TIDB_DATABASE_URL": tidb}
    run_demo(env=env)
    user = "u" + tidb[-10:]
    sql(tidb, f"CREATE USER {user}")
    try:
        sql(tidb, f"GRANT SELECT, INSERT, UPDATE, CREATE ON jinaai_tidb_demo_documents TO {user}")
        done = run_demo("--vector-index", env=dict(
            env, TIDB_DATABASE_URL=tidb.replace("//root@", f"//{user}@")))
        assert_one_line_error(done, "1142", "ALTER")
    finally:
        sql(tidb, f"DROP USER {user}")


def test_the_index_function_sends_what_tidb_documents(jina_demo, tidb):
    engine = jina_demo.create_tidb_engine(tidb)
    jina_demo.create_table(engine)
    statements = []
    event.listen(engine, "before_cursor_execute",
                 lambda conn, cursor, statement, *rest: statements.append(statement))
    with pytest.raises(jina_demo.DBAPIError, match="tiflash replica count"):
        jina_demo.create_vector_index(engine)
    assert statements[-1] == "ALTER TABLE jinaai_tidb_demo_documents SET TIFLASH REPLICA 1"
    engine.dispose()


def test_the_query_has_the_form_that_the_index_serves(jina_demo, tidb):
    engine = jina_demo.create_tidb_engine(tidb)
    jina_demo.create_table(engine)
    statements = []
    event.listen(engine, "before_cursor_execute",
                 lambda conn, cursor, statement, *rest: statements.append(" ".join(
                     statement.split())))
    jina_demo.find_documents(engine, [1.0] * 768, 5)
    column = "jinaai_tidb_demo_documents.content_vec"
    assert statements[-1].partition(" FROM ")[2] == (
        f"jinaai_tidb_demo_documents ORDER BY VEC_COSINE_DISTANCE({column}, "
        "%(VEC_COSINE_DISTANCE_1)s) LIMIT %(param_1)s")
    engine.dispose()
