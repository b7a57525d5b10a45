"""Predictions and truth -> numbers and tables."""
