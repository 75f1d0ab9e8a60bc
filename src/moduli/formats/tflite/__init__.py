"""TensorFlow Lite files: read, translated to ONNX, and written again with fewer units."""
