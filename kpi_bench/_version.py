"""The one version number of code, rules and board."""

__version__ = "0.1.0"
