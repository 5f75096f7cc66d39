"""MulDE: several hyperbolic teachers, a low-dimensional Junior and a Senior that weighs the teachers (arXiv 2010.07152)."""
