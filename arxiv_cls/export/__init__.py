"""From a model directory to ONNX files and a handler for Inference Endpoints."""
