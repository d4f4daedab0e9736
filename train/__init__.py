"""How did we get here? Data, attacks, schedules, the one training loop, checkpoints."""
