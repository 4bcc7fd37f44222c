"""Local pages on which a person writes critiques (label) and compares two of them blind (judge)."""
