"""What the course of a training run shows."""
