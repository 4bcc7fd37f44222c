"""A new adapter beside what served before: who gets it, how it does, and what follows from that."""
