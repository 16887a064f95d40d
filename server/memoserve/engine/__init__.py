"""The one thread that owns the device, and what it steps."""
