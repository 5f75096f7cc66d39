"""How fast the hot paths are: runs of ``benchmarks/``, read as ratios to peers and limits of the same run, and kept by machine."""
