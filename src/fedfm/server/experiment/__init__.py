"""A recipe made real: data, backbone, tunable, proxy and clients, ready to run."""
