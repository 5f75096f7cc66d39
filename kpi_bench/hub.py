"""The only module that talks to the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from kpi_bench.errors import HubError

# What a suite consists of; anything else in the repository (scripts above all) is not fetched.
SUITE_FILES = ("suite.json", "README.md", "eval.yaml", "kgs/**/*.parquet", "tasks/**/*.parquet")


def fetch_dataset(
    repo: str,
    revision: str,
    *,
    offline: bool | None = None,
    endpoint: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Folder of one revision of a dataset repository, downloaded into the Hub's cache unless it is there.

    Nothing of the repository is executed: only JSON, Markdown, YAML and Parquet files are fetched.

    Args:
        repo: ``OWNER/NAME``.
        revision: full commit hash.
        offline: use the cache alone; None follows HF_HUB_OFFLINE.
        endpoint: another Hub, None for the client's own (HF_ENDPOINT).
        cache: another cache folder, None for the client's own (HF_HOME, HF_HUB_CACHE).

    Raises:
        HubError: offline and not cached, no access, no such repository or revision, or no connection. Tokens are never shown.
    """
    # Here and not above: the client takes a while to import, and most commands never need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    alone = _offline_environment() if offline is None else offline
    # The client has changed its HTTP library twice; this is HTTPError of the one it uses.
    transport_error = cast(type[Exception], HfHubHTTPError.__mro__[1])
    try:
        folder = snapshot_download(
            repo,
            repo_type="dataset",
            revision=revision,
            allow_patterns=list(SUITE_FILES),
            local_files_only=alone,
            endpoint=endpoint,
            cache_dir=cache,
        )
    except HFValidationError as error:
        raise HubError(f"{repo!r} is no valid name of a Hub repository: {error}") from error
    except (OSError, transport_error) as error:
        # From None: the client's error holds the request with its headers, which a traceback printer might show.
        raise HubError(_reason(repo, revision, error, alone=alone)) from None
    return Path(folder)


def _offline_environment() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def _reason(repo: str, revision: str, error: BaseException, *, alone: bool) -> str:
    what = f"dataset {repo} at {revision}"
    if alone:
        return (
            f"{what} is not (completely) in the local Hub cache and the network is off. Fetch it once online "
            "(with HF_HUB_OFFLINE unset), or point HF_HOME at a cache that has it."
        )
    status = _status(error)
    if status == 401:
        return f"{what}: the Hub answered 401: no such repository, or a private one. Check the name; log in with `hf auth login` if it is private."
    if status == 403:
        return f"{what}: the Hub answered 403: your account has no access. Ask for it on the dataset's page, or use a token that may read it."
    if status == 404:
        return f"{what}: the Hub answered 404: the repository or the revision does not exist. Copy the full commit hash from its history."
    if status is not None:
        return f"{what}: the Hub answered {status}; try again later."
    return f"{what}: the Hub could not be reached ({type(error).__name__}) and the cache lacks it. Check the connection, HF_ENDPOINT and proxies."


def _status(error: BaseException | None) -> int | None:
    """HTTP status behind an error of the client, which may wrap the answer in an error of its own."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None
