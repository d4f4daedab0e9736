"""Second derivatives of the loss: operators, and what is computed from their products."""
