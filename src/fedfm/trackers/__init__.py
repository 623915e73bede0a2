"""What follows a run while it happens: listeners, TensorBoard, Prometheus."""
