"""ONNX files to networks, beside a run of the same file by an independent evaluator."""
