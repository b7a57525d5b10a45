"""Predictions and truth -> numbers, with intervals over images and spread over seeds."""
