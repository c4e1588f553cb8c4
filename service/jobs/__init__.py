"""Requests that are too large to wait for: drawn in the background, kept on disk."""
