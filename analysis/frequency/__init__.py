"""Spatial frequencies: in filters, in the images networks need, and in noise they fail on."""
