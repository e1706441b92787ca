"""Policies over a wire: the server, and a client that needs no torch."""
