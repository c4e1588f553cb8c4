"""Judging showers the CaloChallenge way."""
