"""Generated stubs of memoserve's gRPC contract."""
