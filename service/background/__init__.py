"""Work that the service does by itself, in threads of its own."""
