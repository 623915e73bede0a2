"""Partitions: how examples are split among clients. One kind, one file; the registry is `PARTITIONS`."""
