"""Tunables: which parameters of a backbone are trained and travel. One kind, one file; the registry is `TUNABLES`."""
