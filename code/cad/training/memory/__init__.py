"""Memory of training: counting live tensors, and predicting the peak."""
