"""The HTTP routes of the service, one module for each part of its API and pages."""
