"""KPI's Amazon side from the Amazon-2014 dumps: the KG of three product files, questions and reviews.

Inferred (REBUILD.md): products in the order movies, music, games; of each the sales-rank group, the brand, then each distinct category
name; relation ids 0 sales rank, 1 category, 2 brand. An entity is its string, so a category and a sales-rank group of one name are one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kpi_bench.errors import RecipeError
from kpi_bench.suites.recipes._kpi_graph import KgBuilder
from kpi_bench.suites.recipes._kpi_raw import locate, records
from kpi_bench.suites.recipes._kpi_text import TextRow

FILES = {
    "movies": "meta_Movies_and_TV.json.gz",
    "music": "meta_Digital_Music.json.gz",
    "games": "meta_Video_Games.json.gz",
}
RELATIONS = ("sales_rank", "category", "brand")
SALES_RANK, CATEGORY, BRAND = range(3)
TEXT_LENGTH = 512  # of a product's description, to keep memory modest; KPI's text encoder sees 512 tokens
QUESTION_TEXT = 64  # measured on the published questions; the published script says 128


def build_amazon(raw: Path) -> KgBuilder:
    """The KG of the three product files.

    Raises:
        RecipeError: a file is missing, or a product is not as in the 2014 dump.
    """
    kg = KgBuilder("amazon", tuple(FILES), RELATIONS)
    for domain, name in enumerate(FILES.values()):
        path = locate(raw, name)
        for product in records(path):
            asin = _text(path, product, "asin")
            for relation, value in _attributes(path, asin, product):
                kg.add(domain, asin, relation, value)
            description = str(product.get("description") or "").strip()
            kg.describe(
                asin, str(product.get("title") or "").strip() or None, description[:TEXT_LENGTH] or None
            )
    return kg


def questions(raw: Path, kg: KgBuilder) -> list[list[TextRow]]:
    """Rows of the yes/no questions by class: 1 where the answer type is Y, 0 for N and for ``?``.

    Each class is cut to the size of the smaller one, in file order.
    """
    path = locate(raw, "qa_Video_Games.json.gz")
    rows: list[list[TextRow]] = [[], []]
    for record in records(path):
        if record.get("questionType") == "yes/no":
            asin, question = _text(path, record, "asin"), _text(path, record, "question")
            label = int(record.get("answerType") == "Y")
            rows[label].append(
                TextRow(
                    asin, f"Product: {asin} {kg.text(asin)[:QUESTION_TEXT]}\n\n Question: {question}", label
                )
            )
    count = min(map(len, rows))
    return [found[:count] for found in rows]


def movie_reviews(raw: Path, kg: KgBuilder) -> Iterator[TextRow]:
    """Every review of a film in the KG, as ``Review: <text>, Product: <asin> <description>``; class = stars - 1.

    The authors drew from a ``review_small.json`` whose making is not public; here every review of the dump is a candidate.
    """
    path = locate(raw, "reviews_Movies_and_TV.json.gz")
    for record in records(path):
        asin, stars = _text(path, record, "asin"), record.get("overall")
        if stars not in (1, 2, 3, 4, 5):
            raise RecipeError(f"{path}: a review of {asin} has overall = {stars!r}; expected 1 to 5")
        if asin in kg.ids:
            yield TextRow(
                asin,
                f"Review: {record.get('reviewText', '')}, Product: {asin} {kg.text(asin)}",
                int(stars) - 1,
            )


def _attributes(path: Path, asin: str, product: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """(relation, value) of one product in the inferred file order: sales rank, brand, categories."""
    ranks, paths = product.get("salesRank") or {}, product.get("categories") or []
    if not isinstance(ranks, dict) or not all(isinstance(names, list) for names in paths):
        raise RecipeError(
            f"{path}: product {asin}: salesRank must be a dict and categories a list of lists, as in the 2014 dump"
        )
    for group in list(ranks)[:1]:
        yield SALES_RANK, str(group)
    if product.get("brand"):
        yield BRAND, str(product["brand"])
    for category in dict.fromkeys(str(name) for names in paths for name in names):
        yield CATEGORY, category


def _text(path: Path, record: dict[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value:
        raise RecipeError(f"{path}: a record has no {field}: {str(record)[:120]}")
    return value
