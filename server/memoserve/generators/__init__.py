"""Who writes the final answer from the evidence."""
