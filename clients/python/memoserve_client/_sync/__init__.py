"""The blocking client. client.py and stream.py are written by tools/unasync.py; seam.py is not."""
