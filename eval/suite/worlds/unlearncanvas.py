"""UnlearnCanvas (arXiv 2402.11846): 50 painted styles and the photos they were made from, times 20 objects.

The order is that of the benchmark's classifiers (``theme_available`` and ``class_available`` of its code), the
template that of its model's training captions. Its published samplers ask erased models for photos as "Seed Images",
which is the folder's name and no style of those captions, and the base for "Photo". Here both are asked for "Photo";
``COMPAT`` asks both as the erased models are asked there, and leaves the photos' style accuracy out, as the authors do
(49 other styles). The object accuracy on photos counts in both.
"""

from dataclasses import replace

from eval.suite.world import World


PHOTO = "Seed_Images"
STYLES = (
    "Abstractionism",
    "Artist_Sketch",
    "Blossom_Season",
    "Bricks",
    "Byzantine",
    "Cartoon",
    "Cold_Warm",
    "Color_Fantasy",
    "Comic_Etch",
    "Crayon",
    "Cubism",
    "Dadaism",
    "Dapple",
    "Defoliation",
    "Early_Autumn",
    "Expressionism",
    "Fauvism",
    "French",
    "Glowing_Sunset",
    "Gorgeous_Love",
    "Greenfield",
    "Impressionism",
    "Ink_Art",
    "Joy",
    "Liquid_Dreams",
    "Magic_Cube",
    "Meta_Physics",
    "Meteor_Shower",
    "Monet",
    "Mosaic",
    "Neon_Lines",
    "On_Fire",
    "Pastel",
    "Pencil_Drawing",
    "Picasso",
    "Pop_Art",
    "Red_Blue_Ink",
    "Rust",
    PHOTO,
    "Sketch",
    "Sponge_Dabbed",
    "Structuralism",
    "Superstring",
    "Surrealism",
    "Ukiyoe",
    "Van_Gogh",
    "Vibrant_Flow",
    "Warm_Love",
    "Warm_Smear",
    "Watercolor",
    "Winter",
)
OBJECTS = (
    "Architectures",
    "Bears",
    "Birds",
    "Butterfly",
    "Cats",
    "Dogs",
    "Fishes",
    "Flame",
    "Flowers",
    "Frogs",
    "Horses",
    "Human",
    "Jellyfish",
    "Rabbits",
    "Sandwiches",
    "Sea",
    "Statues",
    "Towers",
    "Trees",
    "Waterfalls",
)

COMPAT = World(
    name="unlearncanvas",
    styles={label: label.replace("_", " ") for label in STYLES},
    objects={label: label for label in OBJECTS},
    template="A {object} image in {style} style.",
    aliases={"style": {"photo": PHOTO}},
    uncounted_styles=(PHOTO,),
)
WORLD = replace(COMPAT, styles={**COMPAT.styles, PHOTO: "Photo"}, uncounted_styles=())
