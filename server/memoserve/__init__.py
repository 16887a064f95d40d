"""memoserve: named, versioned, persistent compressed memories over gRPC."""

__version__ = "0.1.0"
