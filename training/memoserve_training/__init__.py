"""Training of memory models: the modules that serve, with attention that gradients follow."""
