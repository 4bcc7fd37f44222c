"""OpenBLAS, kernels and threads that make MLX fast on a Linux CPU; not used on a Mac."""
