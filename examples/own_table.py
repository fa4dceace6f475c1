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
from examples.stand_ins import Embed

# In a request. In Chinese, it is half the tokens that a free key has a minute.
CHARACTERS = 50_000


class Article(demo.Base):
    """An article, which is stored once for its URL."""
    __tablename__ = demo.name_table("jinaai_tidb_demo_articles")
    # A key takes 768 characters. Other collations refuse "/FAQ" beside "/faq".
    url: Mapped[str] = mapped_column(
        String(768, collation="utf8mb4_0900_bin"), primary_key=True)
    section: Mapped[str] = mapped_column(String(255))
    title: Mapped[str] = mapped_column(String(255))
    # This is MEDIUMTEXT. TEXT ends at 21,845 Chinese characters, a row at 6 MiB.
    text: Mapped[str] = mapped_column(Text(2_000_000))
    embedding: Mapped[list[float]] = mapped_column(
        VectorType(demo.DIMENSIONS), deferred=True)  # A search does not read it.

    def __repr__(self) -> str:
        return self.url


BY_SECTION = Index("by_section", Article.section)


def create_table(engine: Engine) -> None:
    """Create the table and its index unless it exists. Raises SQLAlchemyError."""
    if not inspect(engine).has_table(Article.__tablename__):
        demo.create_table(engine, Article)
        with engine.begin() as connection:
            connection.execute(CreateIndex(BY_SECTION, if_not_exists=True))


def save_articles(engine: Engine, embed: Embed, articles: Iterable[Article]) -> Counter:
    """Store what is new or changed. Count "new", "changed" and "unchanged".
    *embed* is demo.embed_texts or its stand-in. The last article of a URL counts.
    After EmbeddingError, ValueError or SQLAlchemyError, a call embeds what is left."""
    by_url = {article.url: article for article in articles}
    by_state = compare_all(engine, by_url)
    for group in cut(by_state["moved"]):
        store_sections(engine, group)
    for state in ("new", "changed"):
        for group in cut(by_state[state]):
            texts = [f"{article.title}\n{article.text}" for article in group]
            store(engine, group, embed(texts))
    count = Counter({state: len(by_state[state]) for state in by_state})
    count["changed"] += count.pop("moved")
    return count


def compare_all(engine, by_url):
    """Return the articles by how they differ from what is stored."""
    by_state = {"new": [], "changed": [], "moved": [], "unchanged": []}
    # In different orders, two programs could wait for each other's rows.
    for urls in demo.batches(sorted(by_url)):
        query = select(Article).where(Article.url.in_(urls))
        with Session(engine) as session:
            stored = {article.url: article for article in session.scalars(query)}
        for url in urls:
            state = compare(by_url[url], stored.get(url))
            by_state[state].append(by_url[url])
    return by_state


def compare(article, stored):
    """Return "new", "changed", "moved" (to another section) or "unchanged"."""
    if stored is None:
        return "new"
    if (article.title, article.text) != (stored.title, stored.text):
        return "changed"
    if article.section != stored.section:
        return "moved"
    return "unchanged"


def cut(articles):
    """Yield the articles for each request. A longer article gets its own."""
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
    """Store articles in one transaction, which stays under 1 MiB."""
    if len(embeddings) != len(articles):
        raise ValueError("each article needs one embedding")
    rows = []
    for article, embedding in zip(articles, embeddings):
        rows.append({"url": article.url, "section": article.section,
                     "title": article.title, "text": article.text, "embedding": embedding})
    # PyMySQL sends one INSERT for many rows, but an UPDATE for each.
    insert = mysql.insert(Article)
    upsert = insert.on_duplicate_key_update(insert.inserted)
    with engine.begin() as connection:
        connection.execute(upsert, rows)


def store_sections(engine, articles):
    """Store other sections in one UPDATE. They need no embeddings."""
    sections = {article.url: article.section for article in articles}
    change = update(Article).where(Article.url.in_(list(sections)))
    change = change.values(section=case(sections, value=Article.url))
    with engine.begin() as connection:
        connection.execute(change)


def delete_articles(engine: Engine, urls: Iterable[str]) -> None:
    """Delete the articles of these URLs. Raises TypeError and SQLAlchemyError."""
    for batch in demo.batches(demo.list_texts(urls)):
        with engine.begin() as connection:
            connection.execute(delete(Article).where(Article.url.in_(batch)))


def find_articles(engine: Engine, embedding: list[float], limit: int, offset: int = 0,
                  section: Optional[str] = None, max_distance: float = 2.0) -> list:
    """Return (Article, distance) pairs, the nearest first. Raises SQLAlchemyError."""
    distance = Article.embedding.cosine_distance(embedding)
    # A vector index serves ORDER BY distance with LIMIT and OFFSET, and no more.
    # So articles of equal distance may move between pages.
    query = select(Article, distance).order_by(distance).limit(limit).offset(offset)
    if section is not None:
        # The index on `section` serves, and the URL keeps pages stable. A search for
        # the nearest 100 with the section outside may return fewer than *limit*.
        query = query.where(Article.section == section).order_by(Article.url)
    with Session(engine) as session:
        return [row for row in session.execute(query) if row.cosine_distance <= max_distance]


def run() -> None:
    """Show what the functions do. A second run finds what is stored."""
    Parser(description=__doc__).parse_args()
    engine, embed = demo.connect()
    question = embed(["How do I get a new PIN?"], "retrieval.query")[0]
    create_table(engine)

    pin = Article(url="/pin", section="faq", title="PIN", text="Ask us.")
    bill = Article(url="/bill", section="faq", title="Bill", text="By mail.")
    news = Article(url="/news", section="news", title="News", text="None.")
    articles = [pin, bill, news]
    print("- Saving:", dict(save_articles(engine, embed, articles)))
    pin.text = "Get a new PIN where you sign in."
    print("- Changing:", dict(save_articles(engine, embed, articles)))
    delete_articles(engine, [news.url])
    print("- Deleting:", news)
    print("- In the FAQ:", find_articles(engine, question, 1, section="faq"))
    print("- Second Page:", find_articles(engine, question, 1, offset=1))
    near = find_articles(engine, question, 1, max_distance=0.01)
    print("- Near Enough:", near or "nothing")


if __name__ == "__main__":
    main(run)
