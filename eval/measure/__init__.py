"""Records -> estimates and differences."""
