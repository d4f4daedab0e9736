"""Networks whose units are put into another order: symmetry, matching, correction."""
