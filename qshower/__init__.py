"""Calorimeter showers from a generative model whose latent prior is a Boltzmann machine on an annealer's qubits.

The sub-packages lie at the top of the repository; the links in this folder give them one import name.
"""
