"""Files -> what a model eats: checked pairs, their augmented views, and the built-in demo."""
