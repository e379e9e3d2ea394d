"""Public model layouts: Hugging Face folders in and out, GGUF files in."""
