"""What a child process has of its parent's environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

# A child gets these variables and no others: an allow-list cannot forget a secret.
PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHASHSEED", "VIRTUAL_ENV",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR", "KMP_AFFINITY", "KMP_BLOCKTIME", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT",
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_HOME", "TRITON_CACHE_DIR", "PYTORCH_CUDA_ALLOC_CONF",
    "NCCL_DEBUG", "NCCL_IB_DISABLE", "NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "DGLBACKEND",
)  # fmt: skip

# Of use to a child that may reach the Hub (``--online``) behind a proxy or mirror.
PASSED_ON_ONLINE = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HF_ENDPOINT")  # fmt: skip


def child_environment(
    scratch: Path, *, offline: bool, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Environment of a child: the allow-list, the Hub offline by default and without token, its home in the scratch folder.

    Of the user's Hub folder it gets the cache of models and data sets only: the token lies beside that cache.
    """
    source = os.environ if environ is None else environ
    passed = PASSED_ON if offline else PASSED_ON + PASSED_ON_ONLINE
    env = {name: source[name] for name in passed if name in source}
    env.update(
        HOME=str(scratch),
        HF_HOME=str(scratch / "huggingface"),
        HF_HUB_CACHE=str(_hub_cache(source)),
        HF_TOKEN_PATH=str(scratch / "no-token"),
        HF_HUB_DISABLE_IMPLICIT_TOKEN="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_OFFLINE="1" if offline else "0",
        TOKENIZERS_PARALLELISM="false",
        PYTHONUNBUFFERED="1",
    )
    return env


def _hub_cache(environ: Mapping[str, str]) -> Path:
    """Where the Hub's client keeps what it has downloaded."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return Path(environ[name]).expanduser()
    caches = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "~"), ".cache")
    home = environ.get("HF_HOME") or Path(caches, "huggingface")
    return Path(home).expanduser() / "hub"


def import_path() -> tuple[str, ...]:
    """Folders that this process imports from: a child can then import what it can (a checkout that is not installed, for one)."""
    known = [path for path in sys.path if path and Path(path).is_dir()]
    return (*([str(Path.cwd())] if "" in sys.path else []), *known)
