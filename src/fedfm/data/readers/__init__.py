"""From files, folders and the hub to tables with the columns they have."""
