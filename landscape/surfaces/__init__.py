"""The loss on grids and along curves in weight space."""
