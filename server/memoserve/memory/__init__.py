"""Windows, pages and what of them is kept on disk."""
