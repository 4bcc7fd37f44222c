"""LoRA fine-tuning of Qwen3-VL for photographic critique, its verdict, and its serving."""

__version__ = "0.1.0"
