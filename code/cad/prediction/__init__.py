"""Images without truth -> masks: one by one from Python, or whole folders."""
