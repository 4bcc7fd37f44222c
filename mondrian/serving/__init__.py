"""The advisor service: HTTP, jobs, A/B and pages. Only worker/ imports MLX."""
