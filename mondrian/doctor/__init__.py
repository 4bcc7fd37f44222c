"""Checks of this machine for `mondrian doctor`; MLX runs in processes of their own only."""
