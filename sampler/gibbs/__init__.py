"""Block Gibbs sampling, on CPU and on GPU."""
