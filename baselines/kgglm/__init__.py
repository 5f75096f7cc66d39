"""KGGLM (doi 10.1145/3640457.3691703): a causal language model of paths over a knowledge graph, decoded along the graph's edges."""
