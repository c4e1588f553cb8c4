"""Quantum annealers through Ocean."""
