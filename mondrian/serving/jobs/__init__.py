"""Critiques as jobs: admission, the runner, results and how they are shown."""
