"""Numbers from answers and truth: metrics, flags, cards. NumPy only."""
