"""A client of the service that needs nothing else of this project."""
