"""Images -> mask logits: SAM's parts, the adapters, and the segmenter that joins them."""
