"""Values per image: each module has a ``Config`` and ``load(config)``, a callable on a batch of images."""
