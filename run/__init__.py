"""One command per question."""
