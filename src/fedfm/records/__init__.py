"""What a run leaves on disk, and the pages made from it."""
