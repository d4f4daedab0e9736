"""Diagnostics of networks and of training runs, and their figures."""
