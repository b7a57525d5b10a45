"""Trained weights and a test set -> scores of every method and image: what evaluate.py does."""
