"""Articles in a table of your own: save, change, delete and find them."""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from sqlalchemy import Engine, Index, String, Text, delete, inspect, select
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.schema import CreateIndex
from tidb_vector.sqlalchemy import VectorType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import jina_ai_embeddings_demo as demo
from examples.command_line import Parser, main
from examples.stand_ins import Embed

# A request has up to 256 articles and 50,000 characters. In Chinese, these are
# 50,000 tokens, and a free key has 100,000 a minute.
CHARACTERS = 50_000

# A key takes 768 characters. Other collations refuse "/FAQ" or "/faq " beside "/faq".
EXACT = String(768, collation="utf8mb4_0900_bin")


class Article(demo.Base):
    """An article, which is stored once for its URL."""

    __tablename__ = demo.name_table("jinaai_tidb_demo_articles")

    url: Mapped[str] = mapped_column(
        String(768).with_variant(EXACT, "mysql"), primary_key=True)
    section: Mapped[str] = mapped_column(String(255))
    title: Mapped[str] = mapped_column(String(255))
    # This is MEDIUMTEXT. TEXT ends at 21,845 Chinese characters, a row at 6 MiB.
    text: Mapped[str] = mapped_column(Text(2_000_000))
    # A search does not read this, because few callers need 768 floats.
    embedding: Mapped[list[float]] = mapped_column(
        VectorType(demo.DIMENSIONS), deferred=True)

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
    After an error, another call embeds only what is left.
    Raises EmbeddingError, ValueError and SQLAlchemyError.
    """
    by_url = {article.url: article for article in articles}
    states = compare_all(engine, by_url)
    to_embed = [by_url[url] for url in states if states[url] in ("new", "changed")]
    for batch in demo.batches(to_embed):
        for group in cut(batch):
            texts = [f"{article.title}\n{article.text}" for article in group]
            store(engine, group, embed(texts))

    count = Counter(states.values())
    count["changed"] += count.pop("moved", 0)
    return count


def compare_all(engine: Engine, by_url: dict) -> dict:
    """Return the state of each URL's article, and store a section that differs."""
    # In different orders, two programs could wait for each other's rows.
    states = dict.fromkeys(sorted(by_url), "new")
    for urls in demo.batches(list(states)):
        query = select(Article).where(Article.url.in_(urls))
        with Session(engine) as session:
            for stored in session.scalars(query):
                article = by_url[stored.url]
                states[stored.url] = compare(article, stored)
                stored.section = article.section
            session.commit()
    return states


def compare(article: Article, stored: Article) -> str:
    """Return "changed", "moved" (to another section) or "unchanged"."""
    if (article.title, article.text) != (stored.title, stored.text):
        return "changed"
    if article.section != stored.section:
        return "moved"
    return "unchanged"


def cut(articles: list):
    """Yield groups of up to 50,000 characters. A longer article is alone."""
    group: list = []
    characters = 0
    for article in articles:
        length = len(article.title) + len(article.text)
        if group and characters + length > CHARACTERS:
            yield group
            group = []
            characters = 0
        group.append(article)
        characters += length
    yield group


def store(engine: Engine, articles: list, embeddings: list) -> None:
    """Store articles in one transaction, which stays under 1 MiB."""
    if len(embeddings) != len(articles):
        raise ValueError("each article needs one embedding")

    rows = []
    for article, embedding in zip(articles, embeddings):
        rows.append({
            "url": article.url, "section": article.section,
            "title": article.title, "text": article.text, "embedding": embedding})
    # PyMySQL sends an INSERT for many rows, but an UPDATE for each.
    insert = mysql.insert(Article)
    upsert = insert.on_duplicate_key_update(insert.inserted)
    with engine.begin() as connection:
        connection.execute(upsert, rows)


def delete_articles(engine: Engine, urls: Iterable[str]) -> None:
    """Delete the articles of these URLs. Raises TypeError and SQLAlchemyError."""
    for batch in demo.batches(demo.list_texts(urls)):
        with engine.begin() as connection:
            connection.execute(delete(Article).where(Article.url.in_(batch)))


def find_articles(engine: Engine, embedding: list[float], limit: int, offset: int = 0,
                  section: Optional[str] = None, max_distance: float = 2.0) -> list:
    """Return (Article, distance) pairs, the *limit* nearest after *offset* others."""
    distance = Article.embedding.cosine_distance(embedding)
    # A vector index serves ORDER BY distance with LIMIT and OFFSET, and no more.
    # So articles of equal distance may move between pages.
    query = select(Article, distance).order_by(distance).limit(limit).offset(offset)
    if section is not None:
        # The index on `section` serves, and the URL keeps pages stable. A search for
        # the nearest 100 with the section outside may return fewer than *limit*.
        query = query.where(Article.section == section).order_by(Article.url)
    with Session(engine) as session:
        found = session.execute(query).all()
    return [row for row in found if row.cosine_distance <= max_distance]


def run() -> None:
    """Show what the functions do. Another run finds what this one stored."""
    Parser(description=__doc__).parse_args()
    engine, embed = demo.connect()
    question = embed(["How do I get a new PIN?"], "retrieval.query")[0]
    create_table(engine)

    pin = Article(url="/pin", section="faq", title="The PIN", text="Ask us.")
    bill = Article(url="/bill", section="faq", title="The bill", text="By mail.")
    office = Article(url="/office", section="news", title="Office", text="Moved.")
    articles = [pin, bill, office]
    print("- Saving Three:", dict(save_articles(engine, embed, articles)))
    pin.text = "Get a new PIN where you sign in."
    print("- Changing One:", dict(save_articles(engine, embed, articles)))
    delete_articles(engine, [office.url])
    print("- Deleting One:", office)
    print("- In a Section:", find_articles(engine, question, 1, section="faq"))
    print("- Second Page:", find_articles(engine, question, 1, offset=1))
    near = find_articles(engine, question, 1, max_distance=0.01)
    print("- Near Enough:", near or "nothing")


if __name__ == "__main__":
    main(run)
