"""The loss around given weights: curvature, surfaces, curves."""
