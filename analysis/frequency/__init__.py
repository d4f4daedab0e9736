"""Which spatial frequencies networks hold, need and are disturbed by."""
