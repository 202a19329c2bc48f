"""Objects that captions name and no reference does: CHAIR (Rohrbach et al. 2018, arXiv:1809.02156).

The paper takes COCO's 80 objects, and knows what is in an image from its segmentation as well. Here
the objects are those of `WORDS`, which people write about, and what is in an image is what its
references name, so that values hold for any data set with several English references an image, and
compare with each other alone.
"""

from collections.abc import Sequence

# An object a line: the words that name it, without plurals in s and es.
WORDS = """
person people man men woman women boy girl child children kid baby toddler guy lady gentleman adult
person teenager crowd player skier snowboarder surfer skateboarder cyclist biker bicyclist
person climber hiker swimmer rider runner worker musician dancer athlete couple family
dog puppy puppies hound terrier labrador poodle greyhound
cat kitten
horse pony ponies
cow bull calf cattle
sheep lamb
goat
bird duck goose geese seagull pigeon swan
elephant
bear
teddy-bear
zebra
giraffe
monkey
fish
bicycle bike mountain-bike bmx-bike
motorcycle motorbike dirt-bike dirtbike
car race-car racecar taxi
truck
bus
train subway
airplane plane jet
boat kayak canoe raft sailboat ship
skateboard
snowboard
surfboard
ski
sled sleigh
scooter
ball tennis-ball soccer-ball
frisbee disc
kite
bat baseball-bat
racket racquet tennis-racket
helmet
hat cap
glasses sunglasses goggles
shirt t-shirt tshirt jersey
jacket coat vest
dress skirt
shorts pants jeans trousers
shoe boot sneaker sandal
umbrella
bag backpack handbag purse suitcase
book newspaper magazine
phone cellphone cell-phone
camera
guitar
drum
microphone
bench
chair couch sofa
table desk
bed
television tv
laptop computer
cup mug glass
bottle beer
plate bowl
knife knives
fork
spoon
pizza
sandwich burger
cake
banana
apple
orange
carrot
hot-dog
toy
stick branch
rope leash
fence
wall brick-wall
building house skyscraper
bridge
stairs steps staircase
ramp half-pipe
rail railing
slide
swing
trampoline
tent
fountain
street road
sidewalk pavement
beach shore
ocean sea wave
pool swimming-pool
river stream creek
lake pond
waterfall
mountain hill cliff
rock boulder
snow
ice
grass lawn
sand
tree
forest woods
flower
leaf leaves
tunnel
window
door doorway
fire campfire fireworks
clock
traffic-light
fire-hydrant
stop-sign sign
vase
toilet
sink
refrigerator fridge
oven stove microwave
"""


def _table() -> dict[tuple[str, ...], str]:
    """The words of a name -> the first name of its object."""
    table = {}
    for line in WORDS.split("\n"):
        names = line.split()
        for name in names:
            words = tuple(name.split("-"))
            for ending in ("", "s", "es"):
                table[(*words[:-1], words[-1] + ending)] = names[0]
    return table


_OBJECTS = _table()


def objects(tokens: Sequence[str]) -> list[str]:
    """The objects that a tokenized caption names, one for each time; longer names come first."""
    found, position = [], 0
    while position < len(tokens):
        for size in (2, 1):
            name = _OBJECTS.get(tuple(tokens[position : position + size]))
            if name is not None:
                found.append(name)
                position += size
                break
        else:
            position += 1
    return found


def chair(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """How often captions name objects that no reference of their image names.

    Args:
        candidates: tokenized captions, words by blanks, as `ptb.tokenize` returns them.
        references: tokenized, of each.

    Returns:
        `CHAIR-i`, the fraction of the objects named, and `CHAIR-s`, of the captions; {} where no
        caption names any.
    """
    named = absent = wrong = 0
    for candidate, group in zip(candidates, references, strict=True):
        there = {name for reference in group for name in objects(reference.split())}
        own = objects(candidate.split())
        missing = [name for name in own if name not in there]
        named, absent, wrong = named + len(own), absent + len(missing), wrong + bool(missing)
    if not named:
        return {}
    return {"CHAIR-i": absent / named, "CHAIR-s": wrong / len(candidates)}
