"""Reads files, folders and hub data sets as tables."""
