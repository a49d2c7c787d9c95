"""Text members outside of MLX: Hugging Face folders, ONNX, Core ML."""
