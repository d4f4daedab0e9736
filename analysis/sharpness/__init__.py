"""Sharpness beside robustness: decision boundaries, spikes and classes, and many checkpoints."""
