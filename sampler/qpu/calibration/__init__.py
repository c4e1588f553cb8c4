"""The effective inverse temperature of a solver: estimated, stored, watched for drift."""
