"""Samplers of Boltzmann machines: classical chains and quantum annealers behind one protocol."""
