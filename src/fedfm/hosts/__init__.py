"""A worker and its data on some machine, for every runtime."""
