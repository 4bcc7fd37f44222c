"""Ratings and corrections of critiques: schema, form, merge, export."""
