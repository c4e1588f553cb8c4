"""Corrections of the offsets that qubits and couplers have."""
