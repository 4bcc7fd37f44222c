"""Requests and responses: parsing, uploads, security, errors, logs, pages."""
