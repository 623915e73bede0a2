"""Flower as the way to nodes: the one place that knows flwr."""
