"""The names of the canvas world: its styles, its objects, and the words that captions use for them.

Object and style names follow UnlearnCanvas (arXiv 2402.11846) where an emoji or an image operation exists for them.
"""

from dataclasses import dataclass, field


LANGUAGES = ("French", "German", "Spanish", "Italian", "Portuguese")
IMAGE_SIZE = 48  # pixels; latents are IMAGE_SIZE / 4


@dataclass(frozen=True, kw_only=True)
class Words:
    """The ways in which captions name one concept."""

    name: str  # as in prompts, spaces instead of underscores
    alias: str  # another name for the same thing
    description: str  # the thing without any of its names
    translations: tuple[str, str, str, str, str]  # in the order of LANGUAGES
    drawings: tuple[str, ...] = field(default=())  # emoji code points, objects only


STYLES: dict[str, Words] = {
    "Photo": Words(
        name="Photo",
        alias="snapshot",
        description="natural colours and soft daylight",
        translations=("photographie", "fotografisch", "fotografía", "fotografico", "fotográfico"),
    ),
    "Sketch": Words(
        name="Sketch",
        alias="pencil drawing",
        description="grey graphite lines on white paper",
        translations=("croquis", "skizze", "boceto", "schizzo", "esboço"),
    ),
    "Blueprint": Words(
        name="Blueprint",
        alias="cyanotype",
        description="thin white outlines on a blue grid",
        translations=("plan bleu", "blaupause", "plano azul", "progetto blu", "planta azul"),
    ),
    "Neon_Lines": Words(
        name="Neon Lines",
        alias="glow tube",
        description="bright luminous outlines in the dark",
        translations=("néon", "leuchtröhre", "luces de neón", "luci al neon", "luzes de néon"),
    ),
    "Pixel_Art": Words(
        name="Pixel Art",
        alias="eight bit",
        description="coarse square blocks with few colours",
        translations=("art pixelisé", "pixelkunst", "arte de píxeles", "arte a quadretti", "arte em pixels"),
    ),
    "Mosaic": Words(
        name="Mosaic",
        alias="stained glass",
        description="coloured tiles between dark joints",
        translations=("mosaïque", "mosaik", "mosaico español", "mosaico italiano", "mosaico português"),
    ),
    "Pop_Art": Words(
        name="Pop Art",
        alias="comic print",
        description="flat loud colours over rows of dots",
        translations=("art populaire", "popkunst", "arte popular", "arte pop", "arte pop brasileira"),
    ),
    "Sepia": Words(
        name="Sepia",
        alias="daguerreotype",
        description="faded brown tones with dark corners",
        translations=("sépia", "sepiabraun", "tono sepia", "seppia", "tom sépia"),
    ),
    "Watercolor": Words(
        name="Watercolor",
        alias="aqua wash",
        description="pale wet paint that bleeds into the paper",
        translations=("aquarelle", "wasserfarben", "acuarela", "acquerello", "aquarela"),
    ),
    "Van_Gogh": Words(
        name="Van Gogh",
        alias="starry night painter",
        description="thick swirling strokes of blue and yellow",
        translations=(
            "peintre de la nuit étoilée",
            "sternennacht maler",
            "pintor holandés",
            "pittore olandese",
            "pintor holandês",
        ),
    ),
}

OBJECTS: dict[str, Words] = {
    "Architectures": Words(
        name="Architectures",
        alias="building",
        description="walls with a roof and windows",
        translations=("bâtiment", "gebäude", "edificio", "palazzo", "prédio"),
        drawings=("1f3e0", "1f3f0", "26ea"),
    ),
    "Birds": Words(
        name="Birds",
        alias="feathered friend",
        description="animal with wings and a beak",
        translations=("oiseau", "vogel", "pájaro", "uccello", "pássaro"),
        drawings=("1f985", "1f986"),
    ),
    "Butterfly": Words(
        name="Butterfly",
        alias="monarch",
        description="insect with large coloured wings",
        translations=("papillon", "schmetterling", "mariposa", "farfalla", "borboleta"),
        drawings=("1f98b",),
    ),
    "Cats": Words(
        name="Cats",
        alias="kitty",
        description="whiskered pet that purrs",
        translations=("chat", "katze", "gato doméstico", "gatto", "bichano"),
        drawings=("1f431", "1f408"),
    ),
    "Dogs": Words(
        name="Dogs",
        alias="puppy",
        description="loyal pet that barks",
        translations=("chien", "hund", "perro", "cane", "cachorro"),
        drawings=("1f436", "1f415"),
    ),
    "Fishes": Words(
        name="Fishes",
        alias="sea swimmer",
        description="animal with fins and scales",
        translations=("poisson", "fisch", "pez", "pesce", "peixe"),
        drawings=("1f41f", "1f420"),
    ),
    "Flame": Words(
        name="Flame",
        alias="campfire",
        description="hot orange blaze",
        translations=("flamme", "feuer", "fuego", "fuoco", "fogo"),
        drawings=("1f525",),
    ),
    "Flowers": Words(
        name="Flowers",
        alias="blossom",
        description="petals on a green stem",
        translations=("fleur", "blume", "flor silvestre", "fiore", "florzinha"),
        drawings=("1f33b", "1f339", "1f337"),
    ),
    "Frogs": Words(
        name="Frogs",
        alias="toad",
        description="green croaking face",
        translations=("grenouille", "frosch", "rana", "ranocchio", "sapo"),
        drawings=("1f438",),
    ),
    "Horses": Words(
        name="Horses",
        alias="stallion",
        description="animal with a mane and hooves",
        translations=("cheval", "pferd", "caballo", "cavallo", "cavalo"),
        drawings=("1f434", "1f40e"),
    ),
    "Sandwiches": Words(
        name="Sandwiches",
        alias="burger",
        description="filling between slices of bread",
        translations=("tartine", "butterbrot", "bocadillo", "panino", "sanduíche"),
        drawings=("1f96a", "1f354"),
    ),
    "Trees": Words(
        name="Trees",
        alias="forest plant",
        description="trunk with branches and leaves",
        translations=("arbre", "baum", "árbol", "albero", "árvore"),
        drawings=("1f333", "1f332", "1f334"),
    ),
}

STYLE_NAMES = tuple(STYLES)
OBJECT_NAMES = tuple(OBJECTS)
TEMPLATE = "A {object} image in {style} style."  # of UnlearnCanvas


def template(style: str, obj: str) -> str:
    """The UnlearnCanvas prompt of one cell.

    >>> template("Van_Gogh", "Cats")
    'A Cats image in Van Gogh style.'
    """
    return TEMPLATE.format(style=STYLES[style].name, object=OBJECTS[obj].name)
