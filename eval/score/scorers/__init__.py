"""One module per scorer, found by the name of its file; ``eval.score.scorer`` says what a module has."""
