"""From a request for showers to the showers: selection of sampler and model, options, draw, provenance."""
