"""The only room that knows gRPC: translates messages to values and back."""
