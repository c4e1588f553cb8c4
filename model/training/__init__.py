"""Training of the generative model."""
