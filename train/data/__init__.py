"""The images for training and evaluation."""
