"""The round loop and everything it needs at the server."""
