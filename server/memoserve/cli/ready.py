"""The line by which a server says that it answers calls; its address follows."""

READY = "memoserve is ready on "
