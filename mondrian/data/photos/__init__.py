"""Photos of the application: found by stored path, scanned once, grouped by what they show."""
