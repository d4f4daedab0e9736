"""Common code of the commands."""
