"""One HTML page of checkpoints and results: verdict, warnings, figures, methods."""
