"""Lines to nodes over Flower: the only folder that imports flwr."""
