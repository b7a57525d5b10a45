"""New images without truth -> masks."""
