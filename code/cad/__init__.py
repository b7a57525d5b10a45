"""CAD: a convolutional adapter beside a frozen Segment Anything encoder.

Four rooms, each readable on its own: `datasets` (files -> what a model eats), `models` (images -> mask logits),
`evaluation` (predictions and truth -> numbers and figures) and `training` (the loops). `training` knows the other
three; they know nothing of it.
"""
