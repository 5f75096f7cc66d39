"""JPLR (arXiv 2306.02679), rebuilt from its abstract: a teacher over linked KGs, and students re-trained on linked subgraphs."""
