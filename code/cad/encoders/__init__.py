"""Frozen image encoders: a normalised image -> feature maps; their weights, and the features kept on disk."""
