"""The generative model: geometry, energy code, latent prior, encoder, decoder, bundles, training."""
