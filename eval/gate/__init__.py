"""Which numbers stand, and the verdict."""
