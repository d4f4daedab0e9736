"""Points, directions and paths in weight space."""
