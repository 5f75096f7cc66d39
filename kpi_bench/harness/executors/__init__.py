"""Where runs are made: in this process one after another (``local``), or side by side on a cluster (``ray``)."""
