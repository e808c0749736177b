"""The model: any Hugging Face causal LM with a segmented vocabulary and LoRA, and its files."""
