"""Made-up instructions that a small model can learn from scratch, for a first try without a
download: tasks with words and numbers, in several wordings.

No test question occurs in training. A word to reverse, for instance, was not reversed in training,
though it may have occurred in other tasks; two numbers to add were not added before; and an
opposite is asked for in a wording that training used for other words only.
"""

import random
from collections.abc import Callable, Iterator

from gptlit.data.entry import Entry
from gptlit.data.instruction_files import split_entries
from gptlit.data.instructions import SPLITS, InstructionDataModule

NUMBER_CASES = 1000  # of each task with numbers; those with words take each word once

WORD_TASKS: tuple[tuple[Callable[[str], str], str], ...] = (
    (str, "Copy:|Repeat:|Say again:"),
    (str.upper, "Capitals:|Upper case:|In capital letters:"),
    (lambda word: word[::-1], "Reverse:|Backwards:|Turn round:"),
    (lambda word: word[0], "First letter:|Begins with:|Initial:"),
    (lambda word: word[-1], "Last letter:|Ends with:|Final letter:"),
    (lambda word: str(len(word)), "Count letters:|Length:|How long:"),
    (lambda word: f"{word} {word}", "Twice:|Double:|Two times:"),
)
SUM = "Add:|Sum:|Total:"
NEXT = "Next number:|Plus one:|Count on:"
OPPOSITE = (
    "Opposite:|The opposite:|Its opposite:|Opposite word:|Contrary:|The contrary:|Its contrary:|"
    "Antonym:|The antonym:|Not this, but:|Reverse meaning:|The other way:"
)
OPPOSITES = (
    "hot cold|big small|fast slow|up down|left right|open shut|day night|full empty|rich poor|"
    "hard soft|high low|old new|wet dry|long short|light dark|good bad|happy sad|early late|"
    "near far|thick thin|strong weak|loud quiet|clean dirty|sweet sour|push pull|win lose|"
    "buy sell|start stop|true false|in out"
)

WORDS = (
    "actor add agent ant ape apple april arm ash ask aunt axe azure back bacon bag bagel bake "
    "baker ball band bank barn baron basin bath bay beach bean bear beard bed bee beet beige bell "
    "belt bench bend berry bike bin bird black blink blow blue boar boat boil bone book boot boss "
    "bowl box boxer brain brave bread brick brief bring broad broom broth brow brown brush bud "
    "build bull bun bus bush busy buy cabin cable cage cake calf call calm camel camp can candy "
    "canoe cap car card carry cart case cat catch cave cedar chain chair chalk cheap cheek chef "
    "chest chew child chili chin clam clap clay clear clerk cliff climb clock close cloth cloud "
    "clown coach coast coat cocoa cod coin colt comb cook cool coral corn couch count cow crab "
    "crane crate crawl cream creek crew crisp crow crown crust cub cup curly curry cut dance date "
    "dawn day deep deer dense desk dig dill dish dive diver dizzy dog doll door dough dove draw "
    "dream dress drink drive drum duck dune dusk eager eagle ear earth easy eat eel egg elbow elk "
    "elm emu enjoy enter equal ewe exact extra eye face faint fair fall fan fawn feed feel fence "
    "fern fetch field fig fill finch find fire firm fish fist fix flag flame flat flea float "
    "flood flour fly foal fog fold foot fork fox frame fresh frog frost fruit fuzzy gate gecko "
    "give glad glass globe glove glow goat gold goose grab grand grape grass gravy great green "
    "grey grove grow guess gulf gull hail hair ham hand happy hare hat hawk head heart heavy heel "
    "help hen heron hide hill hinge hip hold honey hook hop horse hound hour house huge hum humid "
    "hunt hut hyena ibis ice idle inlet isle ivory ivy jam jar jaw join jolly judge jug juice "
    "july jump june kale kayak keen keep key kind king kite knee kneel knife knit knot know koala "
    "lace lady lake lamb lamp land large lark laugh lava lazy lead leaf leap learn leave leek leg "
    "lemon lend level lid lift lilac lily lime lion lip local lock look loose lucky lung lynx "
    "major make mango map maple march marsh mask mat may mayor meal meat meet melon melt mend "
    "mild milk miner minor mint mist mix moist mole month moon moose mop moss moth mouse mouth "
    "move mud mug mule nail navy neat neck net newt nice night noble nod noon nose nurse nut oak "
    "oar oat ocean odd offer olive onion open otter oven owl oxen pack pad page paint pale palm "
    "pan panda paper pass pasta path pay pea peach pear pearl peel pen petal phone piano pick pie "
    "pig pilot pine pink pipe pizza plain plan plant plate play plug plum poet pond pony pool pot "
    "pour press prime print proud pug pull pump pupil pure purse push quail queen quick quiet "
    "quilt quit race raft rail rain rake ram rapid rare rat raven raw reach read ready real red "
    "reef reply rest rib rice ride rider ring ripe rise river road robe robin rock roll roof root "
    "rope rose rough round row royal ruby rug run rusty rye sack safe sail salad salt salty sand "
    "sauce save say scan scarf scout sea seal seat seed sell send sew shade shake share shark "
    "sharp shed sheep shelf shell shin shiny ship shirt shoe shop shore short shout show shrew "
    "shy silly sing sink sit skate ski skin skip skull skunk sky sled sleek sleep slide sloth "
    "slug small smart smell smile snail snake snow snug soap sock sofa soil solid sort soup spade "
    "spark speak spell spend spice spicy spin split spoon squid stag stair stamp stand star stay "
    "steak steam steep stem stew stiff still stir stone stool stork storm stove straw study sugar "
    "sun sunny super swamp swan swap sweep swift swim swing sword syrup table take talk tall tame "
    "tan tank tape tapir taste tasty tea teach teal tell tent think thorn throw thumb tide tidy "
    "tie tiger tile tiny toad toast toe tool tooth torch touch tough towel tower toy trade train "
    "tray tree trim trout truck try tub tulip tuna turn tutor uncle urban use vague vale van vase "
    "vast vein vest vet vine viper visit vivid wagon waist wait wake walk wall want warm wash "
    "wasp watch wave wear weave week whale wheat wheel whisk white wild wind wire wise wish witty "
    "wolf wood work worm wrap wren wrist write yak yarn yawn year yeast yolk young zebra zesty "
    "zip zoom"
)


class InstructionsSampleDataModule(InstructionDataModule):
    """Made-up instructions about words and numbers, unless `path` names a file of yours."""

    @property
    def source(self) -> str:
        return str(self.path or "made-up instructions")

    def prepare_data(self) -> None:
        pass

    def read_splits(self) -> dict[str, list[Entry]]:
        """The splits; `val_fraction` and `test_fraction` are shares of each task."""
        if self.path is not None:
            return super().read_splits()
        seed = self.seed if self.shuffle else None
        splits: dict[str, list[Entry]] = {name: [] for name in SPLITS}
        for cases in made_up_tasks():
            for name, part in split_entries(
                cases, self.val_fraction, self.test_fraction, seed
            ).items():
                splits[name] += part
        for part in splits.values():
            random.Random(0).shuffle(part)
        return splits


def made_up_tasks(seed: int = 0) -> Iterator[list[Entry]]:
    """The entries of each task, all different, in random order; the same for the same seed."""
    chance = random.Random(seed)
    pairs = [pair.split() for pair in OPPOSITES.split("|")]
    opposites = {word: other for a, b in pairs for word, other in ((a, b), (b, a))}
    words = sorted({*WORDS.split(), *(word for word in opposites if 3 <= len(word) <= 5)})
    for answer, wordings in WORD_TASKS:
        chance.shuffle(words)
        yield [_entry(chance.choice(wordings.split("|")), word, answer(word)) for word in words]
    sums = [(a, b) for a in range(10, 90) for b in range(a, 90) if _digits_add_up(a, b)]
    numbers = chance.sample(sums, NUMBER_CASES)
    yield [
        _entry(chance.choice(SUM.split("|")), " + ".join(map(str, pair)), str(sum(pair)))
        for pair in (chance.sample(pair, 2) for pair in numbers)
    ]
    yield [
        _entry(chance.choice(NEXT.split("|")), str(number), str(number + 1))
        for number in chance.sample(range(2000), NUMBER_CASES)
    ]
    asked = [_entry(how, *pair) for how in OPPOSITE.split("|") for pair in opposites.items()]
    chance.shuffle(asked)
    yield asked


def _digits_add_up(a: int, b: int) -> bool:
    """Whether no digit is carried in a + b."""
    return a % 10 + b % 10 < 10 and a // 10 + b // 10 < 10


def _entry(instruction: str, about: str, output: str) -> Entry:
    raw = {"instruction": instruction, "input": about, "output": output}
    return Entry(instruction, about, output, raw)
