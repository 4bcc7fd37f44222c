"""The advisor service: HTTP, jobs, A/B and pages. It never imports MLX: worker/ does."""
