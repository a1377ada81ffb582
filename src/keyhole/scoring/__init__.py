"""Metrics, flags and cards, from what methods answered and from the truth. NumPy only."""
