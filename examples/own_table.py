"""Articles in a table of your own: save, change, delete and find them."""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from sqlalchemy import Engine, Index, String, Text, case, delete, inspect, select, update
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.schema import CreateIndex
from tidb_vector.sqlalchemy import VectorType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import jina_ai_embeddings_demo as demo
from examples.command_line import Parser, main

# The most in a request, because a free key may use 100,000 tokens a minute.
CHARACTERS = 50_000


class Article(demo.Base):
    """An article, which is stored once for its URL."""
    __tablename__ = demo.name_table("jinaai_tidb_demo_articles")
    # A key has up to 768 characters. Other collations take "/FAQ" for "/faq".
    url: Mapped[str] = mapped_column(
        String(768, collation="utf8mb4_0900_bin"), primary_key=True)
    section: Mapped[str] = mapped_column(String(255))
    title: Mapped[str] = mapped_column(String(255))
    # MEDIUMTEXT. TEXT ends at 21,845 Chinese characters.
    text: Mapped[str] = mapped_column(Text(2_000_000))
    # Deferred, because results do not need it.
    embedding: Mapped[list[float]] = mapped_column(
        VectorType(demo.DIMENSIONS), deferred=True)

    def __repr__(self) -> str:
        return self.url


BY_SECTION = Index("by_section", Article.section)


def create_table(engine: Engine) -> None:
    """Create the table and its index unless it exists. Raises SQLAlchemyError."""
    if not inspect(engine).has_table(Article.__tablename__):
        demo.create_table(engine, Article.__tablename__)
        with engine.begin() as connection:
            connection.execute(CreateIndex(BY_SECTION, if_not_exists=True))


def save_articles(
        engine: Engine, embed: demo.Embed, articles: Iterable[Article]) -> Counter:
    """Store articles. Return how many were "new", "changed" and "unchanged".
    *embed* is demo.embed_texts or its stand-in. The last article of a URL is stored.
    After EmbeddingError, ValueError or SQLAlchemyError, call this again for the rest."""
    by_url = {article.url: article for article in articles}
    by_state = compare_all(engine, by_url)
    for state in ("new", "changed"):
        for group in cut(by_state[state]):
            texts = [f"{article.title}\n{article.text}" for article in group]
            store(engine, group, embed(texts))
    for group in cut(by_state["moved"]):
        store_sections(engine, group)
    count = Counter({state: len(by_state[state]) for state in by_state})
    count["changed"] += count.pop("moved")
    return count


def compare_all(engine, by_url):
    """Return the articles by how they differ from what is stored."""
    by_state = {"new": [], "changed": [], "unchanged": [], "moved": []}
    # Sorted, because in different orders, two programs could block each other.
    for urls in demo.batches(sorted(by_url)):
        query = select(Article).where(Article.url.in_(urls))
        with Session(engine) as session:
            stored = {article.url: article for article in session.scalars(query)}
        for url in urls:
            state = compare(by_url[url], stored.get(url))
            by_state[state].append(by_url[url])
    return by_state


def compare(article, stored):
    """Return "new", "changed", "moved" (only to another section) or "unchanged"."""
    if stored is None:
        return "new"
    if (article.title, article.text) != (stored.title, stored.text):
        return "changed"
    if article.section != stored.section:
        return "moved"
    return "unchanged"


def cut(articles):
    """Yield groups for a request. An article over CHARACTERS is a group of its own."""
    group = []
    characters = 0
    for article in articles:
        length = len(article.title) + len(article.text)
        is_full = len(group) == demo.BATCH_SIZE or characters + length > CHARACTERS
        if group and is_full:
            yield group
            group = []
            characters = 0
        group.append(article)
        characters += length
    if group:
        yield group


def store(engine, articles, embeddings):
    """Store a group of articles in one transaction."""
    if len(embeddings) != len(articles):
        raise ValueError("each article needs one embedding")
    rows = []
    for article, embedding in zip(articles, embeddings):
        row = {"url": article.url, "section": article.section, "title": article.title}
        rows.append({**row, "text": article.text, "embedding": embedding})
    # No UPDATE: PyMySQL would send one for each row.
    insert = mysql.insert(Article)
    upsert = insert.on_duplicate_key_update(insert.inserted)  # in each column
    with engine.begin() as connection:
        connection.execute(upsert, rows)


def store_sections(engine, articles):
    """Store sections by one UPDATE, whose CASE has a section for each URL."""
    sections = {article.url: article.section for article in articles}
    change = update(Article).where(Article.url.in_(list(sections)))
    change = change.values(section=case(sections, value=Article.url))
    with engine.begin() as connection:
        connection.execute(change)


def delete_articles(engine: Engine, urls: Iterable[str]) -> None:
    """Delete the articles of these URLs. Raises TypeError and SQLAlchemyError."""
    for batch in demo.batches(demo.check_texts(urls)):
        with engine.begin() as connection:
            connection.execute(delete(Article).where(Article.url.in_(batch)))


def find_articles(engine: Engine, embedding: list[float], limit: int, offset: int = 0,
                  section: Optional[str] = None, max_distance: float = 2.0) -> list:
    """Return (Article, distance) pairs, the nearest first. Raises SQLAlchemyError."""
    distance = Article.embedding.cosine_distance(embedding).label("distance")
    # A vector index can serve this, but not a WHERE, or the URL in ORDER BY. So
    # articles of equal distance may change places between pages.
    query = select(Article, distance).order_by(distance).limit(limit).offset(offset)
    if section is not None:
        # The index on `section` serves, and the URL keeps pages stable.
        # Only the nearest 100, filtered by section, could be too few.
        query = query.where(Article.section == section).order_by(Article.url)
    with Session(engine) as session:
        return [row for row in session.execute(query) if row.distance <= max_distance]


def run() -> None:
    """Show what the functions do."""
    Parser(description=__doc__).parse_args()
    engine, embed = demo.connect()
    question = embed(["How do I get a new PIN?"], "retrieval.query")[0]
    create_table(engine)
    pin = Article(url="/pin", section="faq", title="PIN", text="Ask us.")
    bill = Article(url="/bill", section="faq", title="Bill", text="By mail.")
    news = Article(url="/news", section="news", title="News", text="None.")
    print("- Saving:", dict(save_articles(engine, embed, [pin, bill, news])))
    pin.text = "Get a new PIN where you sign in."
    print("- Changing:", dict(save_articles(engine, embed, [pin, bill, news])))
    delete_articles(engine, [news.url])
    print("- Deleting:", news)
    print("- In the FAQ:", find_articles(engine, question, 1, section="faq"))
    print("- Second Page:", find_articles(engine, question, 1, offset=1))
    near = find_articles(engine, question, 1, max_distance=0.01)
    print("- Near Enough:", near or "nothing")


if __name__ == "__main__":
    main(run)
