"""A run's folder: its files, how they are written and how they are read back."""
