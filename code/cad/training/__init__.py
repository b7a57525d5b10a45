"""The training loop, its losses, its log."""
