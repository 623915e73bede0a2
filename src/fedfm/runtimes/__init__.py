"""Who carries instructions to clients and updates back."""
