"""OpenBLAS, kernels and threads that make MLX fast on a Linux CPU; on a Mac none of it runs."""
