"""A run, shown to people: the page and its sections, model cards, drawings."""
