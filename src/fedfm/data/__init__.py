"""From a file to model-ready examples, split among clients."""
