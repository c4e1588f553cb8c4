"""Side-by-side measurements; ``python -m benchmarks.bench`` runs them all."""
