"""KGGLM (doi 10.1145/3640457.3691703): a causal language model of paths over a knowledge graph, decoded along the graph's edges.

:mod:`.model` is the language model, :mod:`.body` its transformer and :mod:`.losses` its softmaxes.
"""
