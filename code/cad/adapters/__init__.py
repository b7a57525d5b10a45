"""Trained adapters: what is added to the features of a frozen encoder."""
