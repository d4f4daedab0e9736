"""Parts of training methods."""
