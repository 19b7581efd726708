"""The embedded canvas world as a world of a suite."""

from erase.canvas.world import OBJECTS, STYLES, TEMPLATE
from eval.suite.world import World


WORLD = World(
    name="canvas",
    styles={label: words.name for label, words in STYLES.items()},
    objects={label: words.name for label, words in OBJECTS.items()},
    template=TEMPLATE,
    aliases={
        kind: {words.alias: label for label, words in concepts.items()}
        for kind, concepts in (("style", STYLES), ("object", OBJECTS))
    },
)
