"""What is the ground like here? Problems, Points, directions, paths, operators, scans, curves."""
