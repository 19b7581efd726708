"""Loading a base model, and all that differs between model families."""
