"""Memory models: tensors in, tensors out; they never see the page pool."""
