"""Diagnostics over the epochs of a training run."""
