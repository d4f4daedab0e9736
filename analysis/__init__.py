"""What does it mean? Perturbation similarity, distances, filter spectra, figures."""
