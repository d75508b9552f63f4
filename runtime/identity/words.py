"""The words that bytes are read out in: one for each, in alphabetical order.

Lower case letters only. No two begin with the same three letters or differ in fewer than three, so
that a word which was misread is none, or is known for what was meant.
"""

from typing import Final

_TEXT: Final = """
able acid actor adult agent album almond amber april arch arrow atlas autumn avocado bacon badge
baker bamboo banjo barrel basil beach beetle berry bicycle blanket blossom boat bonus border
bread broom bucket buffalo button cabin cactus camel candle carpet cedar cement chalk cheese
circle citrus clay cliff clock cobalt coffee copper crystal cube curtain dagger daisy dance deck
delta denim desert diamond dinner dolphin donkey double dragon drum dwarf echo eclipse elbow
elder elm empire engine epoch errand estate evening fabric famous farmer feather fig final fjord
flute forest fossil frame funnel future galaxy garden gate genius ghost giant glacier gravel
guitar gulf harbor helmet herb hexagon hill horse hotel humid hunter hybrid igloo index ink iris
island item ivory jaguar jasmine jelly jewel jigsaw joke jungle jury kayak kernel kidney kimono
kiwi koala ladder lagoon lamp lantern leaf legend lemon lever library lilac linen lizard lobster
lunar lyric magnet mask meadow menu mercury meteor middle mineral mirror mobile morning mosaic
museum napkin nebula nephew nickel night noodle north nylon obelisk ocean octopus olive onion
opal opera orange orbit orchid otter oxygen palace panda pebble pelican pencil pickle pigeon
pillow pioneer polar pony potato prairie pudding pulse pumpkin puzzle pyramid quail queen quiver
rabbit railway recipe rhubarb ribbon saffron school season sesame silver siphon sketch slipper
snow sofa spider square stadium summer sunset swan symbol syrup teapot temple tennis tiger
trumpet tulip tundra turtle typhoon uncut unicorn urban valley vanilla vapor violin voyage
walnut wheat window wood yacht yard yeast yogurt zebra zenith zigzag zodiac
"""

WORDS: Final = tuple(_TEXT.split())
