"""Latents that are ready before they are asked for: what fills the caches, and who is served from them."""
