"""The pages of link and prepare."""
