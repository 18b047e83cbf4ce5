"""The model bundle and its ONNX sessions."""
