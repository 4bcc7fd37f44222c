"""Engines, which generate critiques: the local model process, or an OpenAI-compatible server."""
