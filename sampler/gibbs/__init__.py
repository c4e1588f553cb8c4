"""Block Gibbs sampling of a BoltzmannMachine: one law, on the CPU (numba) and on CUDA (Triton or torch)."""
