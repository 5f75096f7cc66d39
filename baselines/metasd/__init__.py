"""MetaSD (arXiv 2305.12209): a knowledge graph embedding and its pruned copy that teach each other.

:mod:`.logits` holds the passes over logits, :mod:`.tables` the way between tables and logits, :mod:`.meta` the meta-gradient,
:mod:`.train` the algorithm, :mod:`.mask` the pruning, :mod:`.pack` the format that is served.
"""
