"""The model process: one base and its adapters, resident, and nothing else that touches MLX."""
