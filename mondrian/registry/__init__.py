"""Adapters as versions: released in the repository, pulled and put to use on a serving machine."""
