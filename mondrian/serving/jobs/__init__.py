"""Critiques as jobs: admission, the runner, results, and the view of a job on pages."""
