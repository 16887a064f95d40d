"""Compiles the Triton kernels without a GPU and judges the machine code (`make aot`)."""
