"""Every error that a user of kpi-bench can meet.

Each message says what is wrong, where, and what to do about it.
"""


class KpiBenchError(Exception):
    """Base of all errors raised on purpose by this package."""


class SuiteError(KpiBenchError):
    """A suite, its manifest or one of its files breaks a rule."""


class RecipeError(KpiBenchError):
    """Raw files handed to a recipe are missing or are not what the recipe expects."""


class SubmissionError(KpiBenchError):
    """A submission's folder, ``submission.toml`` or code breaks the protocol."""


class PredictionError(KpiBenchError):
    """Predictions cannot be scored: unknown ids, duplicates, masked items, NaN and the like."""


class EvaluationError(KpiBenchError):
    """An evaluator was given input that has no honest score."""


class ResultError(KpiBenchError):
    """A result file breaks its schema or contradicts its place on disk."""


class HubError(KpiBenchError):
    """A call to the Hugging Face Hub failed or would be unsafe."""


class RunError(KpiBenchError):
    """A run did not finish: the submission crashed, hung, or exceeded a limit."""


class BenchError(KpiBenchError):
    """The benchmarks cannot be run or read here, or two of their runs must not be compared."""
