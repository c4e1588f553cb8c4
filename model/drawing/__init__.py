"""Showers drawn from a bundle's decoder in compiled kernels, without torch."""
