"""The recipes: memorize, recall, retrieve, generate."""
