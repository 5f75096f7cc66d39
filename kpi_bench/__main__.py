"""``python -m kpi_bench``."""

import sys

from kpi_bench.cli import main

sys.exit(main())
