"""Critiques that can be read but should not be learned: flags, and what each setting would add."""
