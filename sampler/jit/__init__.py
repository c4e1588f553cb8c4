"""Compiled code: numba with a cache on disk, and vector types for its kernels."""
