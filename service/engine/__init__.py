"""The queue in front of the samplers and the decoder."""
