"""PKGM (Zhang et al., ICDE 2021, arXiv 2105.00388): a triple module and a relation module, served as vectors.

:mod:`.model` holds the scores, :mod:`.train` the margin loss, :mod:`.service` key relations, service vectors and the checkpoint.
"""
