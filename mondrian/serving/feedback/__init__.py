"""Ratings and corrections of critiques: API request, page form, export."""
