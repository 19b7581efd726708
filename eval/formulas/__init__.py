"""Pure functions of arrays: they read no file and hold no model, so every number can be recomputed from the scores."""
