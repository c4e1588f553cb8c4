"""A local server that speaks the solver API of a quantum annealer."""
