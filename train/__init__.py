"""Training: data, attacks, schedules, methods, the one loop, checkpoints."""
