"""Checkpoints, recipes and the files of training runs."""
