"""Timing of the hot paths beside peers and limits (README.md)."""

import os
import sys

PEERS = "KPI_BENCH_PEERS"
"""The variable that names folders of packages (site-packages of another environment) where peers are looked for that this one lacks."""

# Behind our own packages: numpy and torch stay ours for everybody. Here, since each process that runs a contender imports this package.
sys.path.extend(path for path in os.environ.get(PEERS, "").split(os.pathsep) if path and path not in sys.path)
