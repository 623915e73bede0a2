"""What a run is: one recipe."""
