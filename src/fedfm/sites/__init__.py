"""Where clients' data is: what a machine that holds clients makes of a recipe."""
