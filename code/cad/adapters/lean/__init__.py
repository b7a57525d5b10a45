"""Lean execution of the convolutional adapter."""
