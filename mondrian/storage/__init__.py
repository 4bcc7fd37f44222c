"""The jobs database: its tables, the job queue, and feedback."""
