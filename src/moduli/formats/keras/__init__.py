"""Keras files: layers and weights read as data, and translated to ONNX in memory."""
