"""A trained model for other software: ONNX, and a plain SAM file."""
