"""The images that networks are trained on and judged by."""
