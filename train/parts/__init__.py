"""What training methods are made of."""
