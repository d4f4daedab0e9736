"""Sharpness and robustness: decision boundaries, eigenvectors and classes, many checkpoints."""
