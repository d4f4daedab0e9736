"""Reorder the hidden units of networks: symmetry, matching, correction of statistics."""
