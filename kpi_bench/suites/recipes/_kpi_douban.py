"""KPI's Douban side from the cleaned review files: the KG of users' tags, interactions, and music reviews.

Inferred (REBUILD.md): reviews in the order book, movie, music; of each, one triple per ``|``-separated label, an empty field giving one triple
to the empty tag. The authors sorted tags into at least nine relation types by a rule that is not public; here all have the one relation has_tag.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kpi_bench.errors import RecipeError
from kpi_bench.suites.recipes._kpi_graph import KgBuilder
from kpi_bench.suites.recipes._kpi_raw import douban_reviews, locate
from kpi_bench.suites.recipes._kpi_text import TextRow

DOMAINS = ("book", "movie", "music")
RELATIONS = ("has_tag",)


def item_key(domain: str, item: str) -> str:
    """Key of an item as the authors write it: ``music"8220"``."""
    return f'{domain}"{item}"'


def build_douban(raw: Path) -> tuple[KgBuilder, dict[str, list[tuple[str, str]]]]:
    """The KG of the three review files, and (user, item key) of each review of books and movies in file order.

    Raises:
        RecipeError: a file is missing or its header is not as expected.
    """
    kg = KgBuilder("douban", DOMAINS, RELATIONS)
    pairs: dict[str, list[tuple[str, str]]] = {"book": [], "movie": []}
    for number, domain in enumerate(DOMAINS):
        for review in douban_reviews(_file(raw, domain), domain):
            item = item_key(domain, review.item)
            if review.labels is not None:
                for tag in review.labels.split("|"):
                    kg.add(number, item, 0, tag)
            if domain in pairs:
                pairs[domain].append((review.user, item))
    kg.describe("", "(no label)", None)
    return kg, pairs


def music_reviews(raw: Path, kg: KgBuilder) -> Iterator[TextRow]:
    """Every complete music review of an item in the KG, as ``Item: <the user's tags> | Review: <comment>``; class = rating - 1."""
    path = _file(raw, "music")
    for review in douban_reviews(path, "music"):
        item = item_key("music", review.item)
        if review.comment is None or item not in kg.ids:
            continue
        if review.rating not in {"1", "2", "3", "4", "5"}:
            raise RecipeError(f"{path}: a review of {item} has rating {review.rating!r}; expected 1 to 5")
        yield TextRow(item, f"Item: {review.labels} | Review: {review.comment}", int(review.rating) - 1)


def _file(raw: Path, domain: str) -> Path:
    return locate(raw, f"{domain}reviews_cleaned.txt")
