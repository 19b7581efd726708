"""The command line; above everything: nothing imports it."""
