"""Read dataset repositories into the Hub's cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kpi_bench.errors import HubError
from kpi_bench.hub.retry import Patience, client_errors, network_off, patient_session, pause, status

# What a suite consists of; anything else in the repository (scripts above all) is not fetched.
SUITE_FILES = ("suite.json", "README.md", "eval.yaml", "kgs/**/*.parquet", "tasks/**/*.parquet")
# A star matches slashes as well: a misplaced result is fetched, and reported.
RESULT_FILES = ("results/*.json", "results/*.queries.parquet")


def fetch_dataset(
    repo: str,
    revision: str,
    *,
    patterns: Sequence[str] = SUITE_FILES,
    offline: bool | None = None,
    endpoint: str | None = None,
    cache: Path | None = None,
    patience: Patience | None = None,
) -> Path:
    """Folder of one revision of a dataset repository, downloaded into the Hub's cache unless it is there.

    Nothing of the repository is executed: only JSON, Markdown, YAML and Parquet files are fetched. A download that was cut off is
    continued.

    Args:
        repo: ``OWNER/NAME``.
        revision: full commit hash.
        patterns: which files.
        offline: use the cache alone; None follows HF_HUB_OFFLINE.
        endpoint: another Hub, None for the client's own (HF_ENDPOINT).
        cache: another cache folder, None for the client's own (HF_HOME, HF_HUB_CACHE).
        patience: how long to insist, None for the usual.

    Raises:
        HubError: offline and not cached, no access, no such repository or revision, or no connection. Tokens are never shown.
    """
    # Here and not above: the client takes a while to import, and most commands never need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    alone = network_off() if offline is None else offline
    what = f"dataset {repo} at {revision}"
    how = patience or Patience()
    for attempt in range(how.attempts):
        try:
            with patient_session(how.timeout):
                folder = snapshot_download(
                    repo,
                    repo_type="dataset",
                    revision=revision,
                    allow_patterns=list(patterns),
                    local_files_only=alone,
                    endpoint=endpoint,
                    cache_dir=cache,
                )
            return Path(folder)
        except HFValidationError as error:
            raise HubError(f"{repo!r} is no valid name of a Hub repository: {error}") from error
        except client_errors() as error:
            if alone:
                raise HubError(
                    f"{what} is not (completely) in the local Hub cache and the network is off. Fetch it once online "
                    "(with HF_HUB_OFFLINE unset), or point HF_HOME at a cache that has it."
                ) from None
            if status(error) == 404:
                raise HubError(
                    f"{what}: the Hub answered 404: the repository or the revision does not exist. Copy the full commit hash from its history."
                ) from None
            pause(what, error, attempt, how)
    raise HubError(f"{what}: no attempt was allowed; Patience.attempts must be 1 or more")
