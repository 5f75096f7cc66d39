"""The most popular items for everyone."""

from __future__ import annotations

from baselines.common.top_k import popularity, rank_by_one_score
from baselines.reference._floor import Floor
from kpi_bench import Context, Predictions, Queries, RecommendationQueries, RecommendationTask, Task


class Popularity(Floor):
    """An item's score is its number of train users."""

    def adapt(self, task: Task, ctx: Context) -> None:
        self.state = {"popularity": popularity(self.expect(task, RecommendationTask).train_matrix)}

    def predict(self, task: Task, queries: Queries, ctx: Context) -> Predictions:
        return rank_by_one_score(self.expect(queries, RecommendationQueries), self.state["popularity"])
