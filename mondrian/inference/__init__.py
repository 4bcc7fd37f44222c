"""Critiques of photos in files and folders: texts, a table, a contact sheet and XMP sidecars."""
