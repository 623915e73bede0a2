"""Loss and metrics of each kind of task."""
