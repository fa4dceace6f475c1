"""examples/own_table.py: articles that are saved, change, go, and are found in pages."""

import threading
import time
from multiprocessing.pool import ThreadPool

import pytest
from helpers import ROOT, assert_one_line_error, sql, tiflash_process
from jina_server import embedding_of, status
from sqlalchemy import event, inspect, make_url

from examples.own_table import (
    Article,
    create_table,
    delete_articles,
    find_articles,
    save_articles,
)

SCRIPT = ROOT / "examples" / "own_table.py"
TABLE = "jinaai_tidb_demo_articles"

NORTH = [1.0] + [0.0] * 767
EAST = [0.0, 1.0] + [0.0] * 766
NORTH_EAST = [1.0, 1.0] + [0.0] * 766


@pytest.fixture
def engine(engine, database_url):
    """The engine for each of the two databases, with the table of articles."""
    # pytest 8 finds the two databases only where the fixture asks for them itself.
    create_table(engine)
    return engine


@pytest.fixture
def tidb_engine(jina_demo, tidb):
    """An engine for TiDB alone, with the table of articles."""
    engine = jina_demo.create_tidb_engine(tidb)
    create_table(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def embed(jina_demo):
    """The demo's function for embeddings, which asks the test's endpoint."""
    return jina_demo.embed_texts


class PointNorth:
    """Gives each text the same embedding, and notes how many texts a request has."""

    def __init__(self):
        self.requests = []

    def __call__(self, texts):
        self.requests.append(len(texts))
        return [NORTH for _ in texts]


def article(url="/faq", section="help", title="A title", text="A text"):
    return Article(url=url, section=section, title=title, text=text)


def numbered(count, **columns):
    """So many articles, in the order of their URLs."""
    return [article(f"/{number:04}", **columns) for number in range(count)]


def not_zero(count):
    """The numbers of a Counter that are not zero."""
    return {state: number for state, number in count.items() if number}


def found_urls(engine, limit=1000, **options):
    """The URLs of the articles that a search finds, the nearest first."""
    return [found.url for found, _ in find_articles(engine, NORTH, limit, **options)]


def stored(engine):
    """The columns of all articles, by URL."""
    found = [found for found, _ in find_articles(engine, NORTH, limit=1000)]
    return {row.url: (row.section, row.title, row.text) for row in found}


def statements(engine, action):
    """The statements that an action sends, and their parameters."""
    sent = []

    def note(connection, cursor, statement, parameters, context, executemany):
        sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    action()
    event.remove(engine, "before_cursor_execute", note)
    return sent


def plan(engine, **options):
    """What TiDB's EXPLAIN says of a search."""
    [search] = statements(engine, lambda: find_articles(engine, NORTH, limit=3, **options))
    statement, parameters = search
    with engine.connect() as connection:
        return str(connection.exec_driver_sql("EXPLAIN " + statement, parameters).fetchall())


# %% Save
def test_articles_are_counted_as_new_changed_and_unchanged(engine, embed):
    first = save_articles(engine, embed, [article("/a"), article("/b")])
    changed = article("/b", text="Another text")
    second = save_articles(engine, embed, [article("/a"), changed, article("/c")])

    assert not_zero(first) == {"new": 2}
    assert not_zero(second) == {"new": 1, "changed": 1, "unchanged": 1}


def test_an_unchanged_article_is_not_embedded_again(engine, jina, embed):
    save_articles(engine, embed, [article("/a"), article("/b")])
    jina.requests.clear()

    count = save_articles(engine, embed, [article("/b"), article("/a")])

    assert not_zero(count) == {"unchanged": 2}
    assert jina.requests == []


@pytest.mark.parametrize("column", ["title", "text"])
def test_another_title_or_text_is_embedded_and_stored(engine, jina, embed, column):
    save_articles(engine, embed, [article("/a"), article("/b")])
    jina.requests.clear()
    changed = article("/a", **{column: "Something new"})

    save_articles(engine, embed, [changed, article("/b")])

    [request] = jina.requests
    assert request.texts == [f"{changed.title}\n{changed.text}"]
    [(nearest, distance)] = find_articles(engine, embedding_of(*request.texts), limit=1)
    assert nearest.url == "/a"
    assert getattr(nearest, column) == "Something new"
    assert distance == pytest.approx(0, abs=1e-5)


def test_a_line_that_goes_from_the_text_to_the_title_is_a_change(engine, embed):
    save_articles(engine, embed, [article(title="One", text="Two\nThree")])

    count = save_articles(engine, embed, [article(title="One\nTwo", text="Three")])

    assert not_zero(count) == {"changed": 1}
    assert stored(engine) == {"/faq": ("help", "One\nTwo", "Three")}


def test_another_section_is_stored_without_a_request(engine, jina, embed):
    save_articles(engine, embed, [article("/a"), article("/b", text="Other words")])
    before = dict(find_articles(engine, NORTH, limit=2))
    jina.requests.clear()
    moved = [article("/a", "news"), article("/b", "offers", text="Other words")]

    count = save_articles(engine, embed, moved)

    assert not_zero(count) == {"changed": 2}
    assert jina.requests == []
    assert found_urls(engine, section="help") == []
    assert found_urls(engine, section="news") == ["/a"]
    assert found_urls(engine, section="offers") == ["/b"]
    after = find_articles(engine, NORTH, limit=2)
    assert sorted(before.values()) == [distance for _, distance in after]


def test_an_article_that_was_found_can_be_changed_and_saved(engine, embed):
    save_articles(engine, embed, [article()])
    [(found, _)] = find_articles(engine, NORTH, limit=1)

    found.text = "Another text"
    count = save_articles(engine, embed, [found])

    assert not_zero(count) == {"changed": 1}
    assert stored(engine) == {"/faq": ("help", "A title", "Another text")}


def test_of_two_articles_with_one_url_the_last_counts(engine, jina, embed):
    count = save_articles(engine, embed, [article(text="first"), article(text="last")])

    assert not_zero(count) == {"new": 1}
    [request] = jina.requests
    assert request.texts == ["A title\nlast"]
    assert stored(engine) == {"/faq": ("help", "A title", "last")}


def test_urls_that_other_collations_take_for_one_stay_apart(engine, embed):
    urls = ["/FAQ", "/faq", "/faq "]
    save_articles(engine, embed, [article(url) for url in urls])

    count = save_articles(engine, embed, [article(url, section=f"{url}!") for url in urls])

    assert not_zero(count) == {"changed": 3}
    assert stored(engine) == {url: (f"{url}!", "A title", "A text") for url in urls}


def test_a_url_of_768_characters_and_a_long_text_are_stored_whole(engine, embed):
    url = "/" + "路" * 767
    text = "中" * 30_000

    save_articles(engine, embed, [article(url, text=text)])

    assert stored(engine) == {url: ("help", "A title", text)}


# %% Requests and statements
CUTS = {  # the lengths of the texts, and how many of them each request has
    "256 articles": ([10] * 300, [256, 44]),
    # With its title, each article has 7,147.
    "50,000 characters": ([7_140] * 7, [6, 1]),
    "a longer article goes alone": ([10, 60_000, 10, 10], [1, 1, 2]),
}


@pytest.mark.parametrize("lengths, requests", CUTS.values(), ids=CUTS)
def test_a_request_has_up_to_256_articles_and_50000_characters(engine, lengths, requests):
    embed = PointNorth()
    articles = [article(f"/{i:04}", text="x" * length) for i, length in enumerate(lengths)]

    count = save_articles(engine, embed, articles)

    assert not_zero(count) == {"new": len(lengths)}
    assert embed.requests == requests


def test_few_changes_among_many_articles_go_into_one_request(engine):
    embed = PointNorth()
    save_articles(engine, embed, numbered(600))
    embed.requests.clear()
    articles = numbered(600)
    for number in range(0, 600, 100):
        articles[number].text = "Another text"

    save_articles(engine, embed, articles)

    assert embed.requests == [6]


def test_stored_articles_are_looked_up_256_at_a_time(engine):
    save_articles(engine, PointNorth(), numbered(600))

    sent = statements(engine, lambda: save_articles(engine, PointNorth(), numbered(600)))

    assert len(sent) == 3


def test_what_was_embedded_before_an_error_is_not_paid_for_twice(engine, jina, jina_demo):
    embed = jina_demo.embed_texts
    articles = [article(f"/{number}", text="x" * 30_000) for number in range(3)]
    jina.faults = [None, status(400)]

    with pytest.raises(jina_demo.EmbeddingError, match="400"):
        save_articles(engine, embed, articles)
    after_the_error = list(stored(engine))
    jina.requests.clear()
    count = save_articles(engine, embed, articles)

    assert after_the_error == ["/0"]
    assert not_zero(count) == {"unchanged": 1, "new": 2}
    assert len(jina.requests) == 2


@pytest.mark.parametrize("embeddings", [[NORTH], [NORTH] * 3], ids=["missing", "surplus"])
def test_a_wrong_number_of_embeddings_is_an_error_and_changes_nothing(engine, embeddings):
    save_articles(engine, PointNorth(), [article("/a"), article("/b")])
    before = stored(engine)
    changed = [article("/a", text="new"), article("/b", text="new")]

    with pytest.raises(ValueError, match="one embedding"):
        save_articles(engine, lambda texts: embeddings, changed)

    assert stored(engine) == before


def test_many_changes_take_few_statements(tidb, tidb_engine):
    database = make_url(tidb).database
    save_articles(tidb_engine, PointNorth(), numbered(300))

    save_articles(tidb_engine, PointNorth(), numbered(300, text="Another text"))
    moved = numbered(300, section="news", text="Another text")
    save_articles(tidb_engine, PointNorth(), moved)

    [(writes,)] = sql(
        tidb,
        "SELECT SUM(exec_count) FROM information_schema.statements_summary "
        "WHERE schema_name = :database AND stmt_type IN ('Insert', 'Update')",
        database=database,
    )
    assert writes < 30


def test_long_articles_fit_into_the_transactions_of_tidb_cloud(jina_demo, own_server):
    engine = jina_demo.create_tidb_engine(own_server.url)
    create_table(engine)

    try:
        count = save_articles(engine, PointNorth(), numbered(1000, text="x" * 8_000))
        moved = numbered(1000, section="news", text="x" * 8_000)
        moves = save_articles(engine, PointNorth(), moved)
    finally:
        sql(own_server.url, "DROP TABLE " + TABLE)

    assert not_zero(count) == {"new": 1000}
    assert not_zero(moves) == {"changed": 1000}


def test_programs_can_save_the_same_articles_at_once_in_any_order(tidb_engine):
    save_articles(tidb_engine, PointNorth(), numbered(256))
    together = threading.Barrier(4)

    def long_embeddings(texts):
        # A transaction of several statements can hold rows and wait for others.
        return [[1 / 3] * 768 for _ in texts]

    def save(program):
        changed = numbered(256, text=f"of program {program}")
        if program % 2:
            changed.reverse()
        together.wait()
        return save_articles(tidb_engine, long_embeddings, changed)["changed"]

    with ThreadPool(4) as programs:
        counts = programs.map(save, range(4))

    assert counts == [256, 256, 256, 256]
    texts = {text for _, _, text in stored(tidb_engine).values()}
    assert len(texts) == 1


# %% Delete
def test_deleted_articles_are_gone_and_the_others_stay(engine):
    save_articles(engine, PointNorth(), numbered(400))
    urls = [article.url for article in numbered(399)]

    delete_articles(engine, urls)
    delete_articles(engine, [*urls, "/never stored"])

    assert list(stored(engine)) == ["/0399"]


def test_one_url_in_place_of_a_list_is_an_error(engine):
    save_articles(engine, PointNorth(), [article("/")])

    with pytest.raises(TypeError, match="list"):
        delete_articles(engine, "/faq")

    assert list(stored(engine)) == ["/"]


# %% Find
@pytest.fixture
def three(engine):
    """The engine, with articles at the distances 1, 0.29 and 0 from NORTH."""
    articles = [article("/1", "news"), article("/2", "faq"), article("/3", "news")]
    save_articles(engine, lambda texts: [EAST, NORTH_EAST, NORTH], articles)
    return engine


def test_the_nearest_articles_come_first_with_their_distances(three):
    [(first, zero), (second, more)] = find_articles(three, NORTH, limit=2)

    assert (first.url, first.section) == ("/3", "news")
    assert zero == pytest.approx(0, abs=1e-6)
    assert (second.url, second.section) == ("/2", "faq")
    assert more == pytest.approx(1 - 0.5 ** 0.5, abs=1e-6)


SEARCHES = {  # what find_articles is asked for, and the URLs that it finds
    "the first page": ({"limit": 2}, ["/3", "/2"]),
    "the second page": ({"limit": 2, "offset": 2}, ["/1"]),
    "a page behind the last": ({"limit": 2, "offset": 4}, []),
    "a section": ({"section": "news"}, ["/3", "/1"]),
    "the second page of a section": (
        {"limit": 1, "offset": 1, "section": "news"}, ["/1"]),
    "an empty section": ({"section": ""}, []),
    "what is near enough": ({"max_distance": 0.5}, ["/3", "/2"]),
    "near enough in a section": ({"max_distance": 0.5, "section": "news"}, ["/3"]),
}


@pytest.mark.parametrize("options, urls", SEARCHES.values(), ids=SEARCHES)
def test_a_search_takes_a_page_a_section_and_a_distance(three, options, urls):
    assert found_urls(three, **options) == urls


def test_nothing_near_enough_is_an_empty_list(three):
    assert find_articles(three, [-1.0] + [0.0] * 767, limit=3, max_distance=0.9) == []


def test_results_do_not_read_the_embeddings(three):
    [(found, _)] = find_articles(three, NORTH, limit=1)

    assert inspect(found).unloaded == {"embedding"}


def test_pages_of_a_section_are_stable_when_distances_are_equal(engine):
    save_articles(engine, lambda texts: [NORTH, EAST] * 30, numbered(60))

    pages = [
        found_urls(engine, limit=5, offset=offset, section="help")
        for offset in range(0, 60, 5)
    ]

    assert sorted(sum(pages, [])) == [article.url for article in numbered(60)]


def test_the_index_on_the_section_serves_a_search_in_a_section(tidb_engine):
    assert "by_section" in plan(tidb_engine, section="help")
    assert "by_section" not in plan(tidb_engine)


@pytest.fixture
def tiflash_url(tmp_path):
    """The URL of a TiDB that can build vector indexes."""
    server = tiflash_process(tmp_path).start()
    yield server.url
    server.kill()


def build_vector_index(url):
    """Build a vector index on the articles, and wait until searches can use it."""
    index = "VECTOR INDEX nearest ((VEC_COSINE_DISTANCE(embedding))) USING HNSW"
    sql(url, f"ALTER TABLE {TABLE} SET TIFLASH REPLICA 1")
    sql(url, f"ALTER TABLE {TABLE} ADD {index}")
    while sql(url, "SELECT available FROM information_schema.tiflash_replica") != [(1,)]:
        time.sleep(0.1)


def test_a_vector_index_serves_pages_and_distances_without_a_section(
    jina_demo, tiflash_url
):
    engine = jina_demo.create_tidb_engine(tiflash_url)
    create_table(engine)
    build_vector_index(tiflash_url)

    searches = plan(engine), plan(engine, offset=3), plan(engine, max_distance=0.5)

    assert ["annIndex:COSINE" in search for search in searches] == [True, True, True]


# %% The table
def test_programs_can_create_the_table_at_once(jina_demo, tidb):
    engine = jina_demo.create_tidb_engine(tidb)

    with ThreadPool(4) as programs:
        programs.map(create_table, [engine] * 4)

    create_table(engine)
    assert "by_section" in str(sql(tidb, f"SHOW INDEX FROM {TABLE}"))


def test_a_user_who_may_only_read_can_use_the_table(jina_demo, tidb, tidb_engine):
    save_articles(tidb_engine, PointNorth(), [article()])
    database = make_url(tidb).database
    reader = "reader_" + database[-12:]
    sql(tidb, f"CREATE USER '{reader}'")
    sql(tidb, f"GRANT SELECT ON {database}.* TO '{reader}'")
    url = make_url(tidb).set(username=reader).render_as_string()

    engine = jina_demo.create_tidb_engine(url)
    create_table(engine)
    urls = found_urls(engine)
    sql(tidb, f"DROP USER '{reader}'")

    assert urls == ["/faq"]


# %% Run it
def story(done):
    """What a run printed: the words of each line by its title."""
    assert done.returncode == 0, done.stderr
    return dict(line.strip("- ").split(": ", 1) for line in done.stdout.splitlines())


def test_without_an_account_it_shows_what_the_functions_do(run_demo):
    told = story(run_demo(script=SCRIPT))

    assert told["Saving"] == "{'new': 3, 'changed': 0, 'unchanged': 0}"
    assert told["Changing"] == "{'new': 0, 'changed': 1, 'unchanged': 2}"
    assert told["Deleting"] == "/news"
    assert "/pin" in told["In the FAQ"]
    assert "/bill" in told["Second Page"]
    assert told["Near Enough"] == "nothing"


def test_on_tidb_a_second_run_finds_what_the_first_one_stored(run_demo, on_tidb, tidb):
    run_demo(script=SCRIPT, env=on_tidb)

    told = story(run_demo(script=SCRIPT, env=on_tidb))

    assert told["Saving"] == "{'new': 1, 'changed': 1, 'unchanged': 1}"
    assert sql(tidb, f"SELECT url FROM {TABLE}") == [("/bill",), ("/pin",)]


def test_each_model_has_a_table_of_its_own(run_demo, on_tidb, tidb):
    done = run_demo(script=SCRIPT, env={**on_tidb, "JINAAI_MODEL": "jina-embeddings-v3"})

    assert done.returncode == 0, done.stderr
    assert sql(tidb, "SHOW TABLES") == [(TABLE + "_jina_embeddings_v3",)]


def test_a_wrong_key_is_an_error_in_a_line_and_leaves_no_table(run_demo, on_tidb, tidb):
    done = run_demo(script=SCRIPT, env={**on_tidb, "JINAAI_API_KEY": "wrong"})

    assert_one_line_error(done, "401", "JINAAI_API_KEY")
    assert sql(tidb, "SHOW TABLES") == []


def test_a_wrong_option_is_an_error_in_a_line(run_demo):
    done = run_demo("--nonsense", script=SCRIPT)

    assert_one_line_error(done, "--nonsense", "--help", status=2)
