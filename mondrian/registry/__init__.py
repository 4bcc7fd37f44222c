"""Versions of adapters: released in the repository, pulled and activated on a serving machine."""
