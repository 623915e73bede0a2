"""Search in a client's own texts: how they are cut, embedded and searched, and what an answer to the server holds."""
