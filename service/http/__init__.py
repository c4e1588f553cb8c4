"""HTTP: routes, formats, problem+json and middleware."""
