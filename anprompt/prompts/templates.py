"""Prompts that turn a class name into text: one hand-written template per dataset, and paraphrases of it.

The templates are the ones the CoOp family evaluates zero-shot CLIP with, so that numbers compare. The paraphrases say
the same thing in other words; they stand in for class descriptions written by a language model (``descriptions.py``)
when the user has no such files: both as source and as perturbation of the weak semantic noise.
"""

from collections.abc import Sequence

DEFAULT_TEMPLATE = "a photo of a {}."

# Datasets whose classes are not plain objects; the other names of the family (ImageNet and its variants, Caltech101,
# StanfordCars, SUN397) use the default, as does any dataset that is not listed.
# Actions in clips have GA2-CLIP's.
_TEMPLATES = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "Food101": "a photo of {}, a type of food.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "UCF101": "a photo of a person doing {}.",
    "HMDB51Video": "a video of a person {}.",
    "UCF101Video": "a video of a person {}.",
    "SSv2Video": "a video of a person {}.",
    "Kinetics400Video": "a video of a person {}.",
    "VideoList": "a video of {}.",
}

_OBJECTS = (
    "a picture of a {}.",
    "an image of a {}.",
    "a photograph of a {}.",
    "a snapshot of a {}.",
    "a clear photo of a {}.",
    "a close view of a {}.",
    "a photo showing a {}.",
    "a picture that shows a {}.",
    "an image with a {} in it.",
    "a photo of one {}.",
    "a photo of some {}.",
    "a photo of the {}.",
    "this is a {}.",
    "here is a {}.",
    "there is a {} in this picture.",
    "you can see a {} here.",
    "we are looking at a {}.",
    "a {} is visible in the photo.",
    "a {} in the middle of the image.",
    "a typical example of a {}.",
    "a well lit shot of a {}.",
    "a camera pointed at a {}.",
    "the object in the photo is a {}.",
    "what this image depicts is a {}.",
    "a plain view of a {}.",
    "somebody took a picture of a {}.",
)

_PETS = (
    "a picture of a {}, a kind of pet.",
    "an image of a {}, a pet breed.",
    "a photograph of a pet {}.",
    "a snapshot of a {} at home.",
    "a pet called a {}.",
    "an animal of the {} breed.",
    "a {}, a breed that people keep as a pet.",
    "a portrait of a {}, a house pet.",
    "a friendly {} looking at the camera.",
    "a close view of the face of a {}.",
    "a photo showing a {}, an animal kept at home.",
    "the breed of this pet is {}.",
    "the animal in the photo is a {}.",
    "this pet is a {}.",
    "here is a {}, somebody's pet.",
    "an owner's picture of their {}.",
    "a {} resting indoors.",
    "a {} playing outside.",
    "the fur of a {}, a domestic animal.",
    "a young or grown {}, a household animal.",
    "a typical {}, one breed of pet.",
    "a photo of the {}, a companion animal.",
    "a companion animal: a {}.",
    "you can see a {}, a popular pet.",
    "we are looking at a {}, a pet.",
    "a well lit shot of a {}, an animal breed.",
)

_FLOWERS = (
    "a picture of a {}, a kind of flower.",
    "an image of a {}, a flowering plant.",
    "a photograph of a {} flower.",
    "a snapshot of a {} in bloom.",
    "a blooming {}.",
    "a flower called {}.",
    "the blossom of a {}.",
    "the petals of a {} flower.",
    "a close view of a {} blossom.",
    "a {} growing in a garden.",
    "a {} in a flower bed.",
    "a plant of the {} species with open flowers.",
    "the name of this flower is {}.",
    "the flower in the photo is a {}.",
    "this plant is a {}.",
    "here is a {}, a flower.",
    "a botanical photo of a {}.",
    "a gardener's picture of a {}.",
    "a fresh {} flower in daylight.",
    "a photo of the {}, a species of flower.",
    "a flower species: {}.",
    "one or more {} blossoms.",
    "you can see a {}, a plant with flowers.",
    "we are looking at a {} flower.",
    "a typical {}, a type of blossom.",
    "a photo showing the colour and shape of a {} flower.",
)

_FOOD = (
    "a picture of {}, a kind of food.",
    "an image of {}, a dish.",
    "a photograph of a plate of {}.",
    "a snapshot of {} on a table.",
    "a serving of {}.",
    "a portion of {}, ready to eat.",
    "a dish called {}.",
    "some {} on a plate.",
    "freshly made {}.",
    "home made {}.",
    "{} served in a restaurant.",
    "{}, a food that people eat.",
    "a meal of {}.",
    "a close view of {}, something to eat.",
    "the name of this dish is {}.",
    "the food in the photo is {}.",
    "this meal is {}.",
    "here is some {}.",
    "a cook's picture of {}.",
    "a menu photo of {}.",
    "a tasty looking {}.",
    "a photo showing {}, an item on a menu.",
    "you can see {}, a prepared food.",
    "we are looking at {}, a type of dish.",
    "a typical example of {}, a food.",
    "somebody is about to eat {}.",
)

_AIRCRAFT = (
    "a picture of a {}, a kind of aircraft.",
    "an image of a {}, an airplane.",
    "a photograph of a {} plane.",
    "a snapshot of a {} aircraft.",
    "an aircraft of the {} model.",
    "an airplane of type {}.",
    "a {} on the runway.",
    "a {} aircraft in flight.",
    "a {} parked at an airport.",
    "a {} plane during landing.",
    "a {} plane taking off.",
    "a side view of a {} airplane.",
    "the model of this aircraft is {}.",
    "the plane in the photo is a {}.",
    "this airplane is a {}.",
    "here is a {}, an aircraft.",
    "a plane spotter's picture of a {}.",
    "a flying machine: the {}.",
    "a photo of the {}, an aircraft model.",
    "a {} seen from the ground.",
    "the fuselage and wings of a {}.",
    "a photo showing an airplane, a {}.",
    "you can see a {}, a plane.",
    "we are looking at a {} aircraft.",
    "a typical {}, one model of airplane.",
    "a clear shot of a {}, a variant of plane.",
)

_CARS = (
    "a picture of a {}.",
    "an image of a {}, a car.",
    "a photograph of a {} car.",
    "a snapshot of a {} vehicle.",
    "a car of the model {}.",
    "a vehicle, namely a {}.",
    "a {} parked on a street.",
    "a {} driving on a road.",
    "a {} in a parking lot.",
    "a {} at a car dealer.",
    "a {} seen from the front.",
    "a {} seen from the side.",
    "the make and model of this car is {}.",
    "the car in the photo is a {}.",
    "this automobile is a {}.",
    "here is a {}, a car.",
    "a seller's picture of a {}.",
    "an automobile: the {}.",
    "a photo of the {}, a car model.",
    "a photo of my {}.",
    "the body of a {}, an automobile.",
    "a photo showing a car, a {}.",
    "you can see a {}, a motor vehicle.",
    "we are looking at a {}.",
    "a typical {}, one model of car.",
    "a clear shot of a {}, a road vehicle.",
)

_TEXTURES = (
    "a {} texture.",
    "a photo of a {} texture.",
    "a picture of a {} pattern.",
    "an image of a {} surface.",
    "a photograph of a {} material.",
    "a close view of a {} texture.",
    "something with a {} texture.",
    "something with a {} surface.",
    "a surface that looks {}.",
    "a material that looks {}.",
    "a pattern that is {}.",
    "an object with a {} pattern on it.",
    "the texture in the photo is {}.",
    "the surface in the photo is {}.",
    "this texture is {}.",
    "here is a {} pattern.",
    "a texture best described as {}.",
    "a texture that people call {}.",
    "a {} look and feel.",
    "a {} thing seen from near.",
    "a detail of a {} surface.",
    "a sample of a {} texture.",
    "a {} background.",
    "you can see a {} structure.",
    "we are looking at a {} texture.",
    "a typical {} pattern.",
)

_SATELLITE = (
    "a satellite photo of {}.",
    "a satellite image of {}.",
    "a satellite picture showing {}.",
    "an aerial photo of {}.",
    "an aerial view of {}.",
    "a view of {} from space.",
    "a view of {} from above.",
    "an overhead image of {}.",
    "a top down view of {}.",
    "a remote sensing image of {}.",
    "an earth observation image of {}.",
    "a bird's eye view of {}.",
    "land covered by {}.",
    "an area of {} seen from orbit.",
    "a patch of {} seen by a satellite.",
    "a region with {}, photographed from the sky.",
    "the land in this satellite photo is {}.",
    "the land cover in this image is {}.",
    "this satellite image shows {}.",
    "here is {} as a satellite sees it.",
    "a map tile showing {}.",
    "a low resolution satellite photo of {}.",
    "a square of land with {}.",
    "you can see {} from the air.",
    "we are looking down at {}.",
    "a typical satellite view of {}.",
)

_ACTIONS = (
    "a picture of a person doing {}.",
    "an image of someone doing {}.",
    "a photograph of a human doing {}.",
    "a video frame of a person doing {}.",
    "a still from a video of {}.",
    "a snapshot of people doing {}.",
    "somebody is doing {}.",
    "a person who is busy with {}.",
    "a person performing {}.",
    "a person practicing {}.",
    "a person engaged in {}.",
    "a person in the middle of {}.",
    "the action in this photo is {}.",
    "the activity in this image is {}.",
    "this person is doing {}.",
    "here is someone doing {}.",
    "an example of the action {}.",
    "an example of a human doing {}.",
    "the human activity called {}.",
    "a scene of {}.",
    "a photo that shows {}.",
    "a photo of the activity {}.",
    "a photo of the sport or activity {}.",
    "you can see a person doing {}.",
    "we are watching someone do {}.",
    "a demonstration of {}.",
)

_SCENES = (
    "a picture of a {}.",
    "an image of a {}.",
    "a photograph of a {}.",
    "a snapshot taken at a {}.",
    "a photo of a {} scene.",
    "a view of a {}.",
    "a wide view of a {}.",
    "a scene showing a {}.",
    "a place: a {}.",
    "a place that people call a {}.",
    "a location of the kind {}.",
    "the surroundings of a {}.",
    "the place in the photo is a {}.",
    "the scene in this image is a {}.",
    "this place is a {}.",
    "here is a {}.",
    "a visitor's picture of a {}.",
    "a photo taken at a {}.",
    "a photo of the {}.",
    "a photo of some {}.",
    "what a {} looks like.",
    "standing in front of a {}.",
    "you can see a {} here.",
    "we are looking at a {}.",
    "a typical {}.",
    "an environment such as a {}.",
)

# Objects are the default family: ImageNet and its variants, Caltech101, Shapes, and any dataset that is not listed.
_PARAPHRASES = {
    "OxfordPets": _PETS,
    "OxfordFlowers": _FLOWERS,
    "Food101": _FOOD,
    "FGVCAircraft": _AIRCRAFT,
    "StanfordCars": _CARS,
    "DescribableTextures": _TEXTURES,
    "EuroSAT": _SATELLITE,
    "UCF101": _ACTIONS,
    "HMDB51Video": _ACTIONS,
    "UCF101Video": _ACTIONS,
    "SSv2Video": _ACTIONS,
    "Kinetics400Video": _ACTIONS,
    "SUN397": _SCENES,
}

# What KgCoOp's authors hold soft prompts near, where it is not the family's sentence.
KGCOOP_TEMPLATES = {"DescribableTextures": "a photo of a {}, a type of texture."}


def template_for(dataset_name: str, own: str = "") -> str:
    """Return the hand-written template of a dataset, by its registry name (``OxfordPets``), or the user's ``own``.

    Raises:
        ValueError: ``own`` (``DATASET.TEMPLATE``) has no ``{}``, or more than one.
    """
    template = own or _TEMPLATES.get(dataset_name, DEFAULT_TEMPLATE)
    check_template("DATASET.TEMPLATE", template)
    return template


def check_template(key: str, template: str) -> None:
    """Raise a ValueError unless ``template`` has one ``{}`` for the class name; ``key`` names it."""
    if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
        raise ValueError(f"{key} is {template!r}: expected one {{}} for the class name, 'a photo of a {{}}.'")


def clip_templates() -> list[str]:
    """The 80 templates that CLIP's authors wrote for ImageNet, in their order, each with one ``{}``."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]


def ensemble_for(dataset_name: str, own: str = "") -> list[str]:
    """The seven templates that CLIP's authors chose from their 80, and :func:`template_for` unless it is ImageNet.

    The ensemble of the CoOp family's second zero-shot baseline.
    """
    from open_clip import SIMPLE_IMAGENET_TEMPLATES

    chosen = [template("{}") for template in SIMPLE_IMAGENET_TEMPLATES]
    return chosen if dataset_name == "ImageNet" else [*chosen, template_for(dataset_name, own)]


def paraphrases_for(dataset_name: str) -> tuple[str, ...]:
    """Return at least 24 other wordings of a dataset's template, each with one ``{}``, never the template itself."""
    return _PARAPHRASES.get(dataset_name, _OBJECTS)


def class_text(classname: str) -> str:
    """Return a class name as it is read in a sentence: underscores become spaces."""
    return classname.replace("_", " ")


def prompts_for(dataset_name: str, classnames: Sequence[str], own: str = "") -> list[str]:
    """Return the prompt of each class, in the order of ``classnames``, from :func:`template_for`."""
    return filled(template_for(dataset_name, own), classnames)


def filled(template: str, classnames: Sequence[str]) -> list[str]:
    """Return the prompt of each class, in the order of ``classnames``."""
    return [template.format(class_text(name)) for name in classnames]
