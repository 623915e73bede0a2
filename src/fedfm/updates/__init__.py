"""The way an update takes: what a client sends back is encoded, carried and decoded."""
