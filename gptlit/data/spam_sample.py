"""Made-up text messages, ham and spam, for a first try without a download.

Both kinds use the same words: a friend may ask for a number, win a prize or pay a fee. What tells
them apart is how the words go together.
"""

import random
import re

from gptlit.data.labelled import LabelledDataModule
from gptlit.data.labelled_files import LabelledTable

PER_CLASS = 600

WORDS = {
    "who": "mum|dad|Ana|Ben|Chloe|Dev|Ella|Farid|Grace|Hugo|my sister|my boss|our coach",
    "when": "today|tonight|tomorrow|on Friday|on Sunday|this week|before noon|by 9 pm|now",
    "prize": "phone|tablet|weekend trip|gift card|camera|bike|hamper|pair of tickets",
    "goods": "shoes|flights|headphones|blankets|phones|garden chairs|games|lamps",
    "sum": "$20|$35|$50|$90|$150|$400|$750|$1200",
    "fee": "$1.50|$2|$2.99|$4|$5.25|$6",
    "word": "YES|WIN|GO|STAR|PLAY|CLUB",
    "site": "north-shop.example|city-post.example|club-win.example|my-bank.example",
    "place": "gym|station|cafe|library|office|school|bakery|cinema",
    "match": "match|quiz|raffle|race|derby|spelling bee",
    "meal": "lunch|dinner|breakfast|tea|a picnic|cake",
    "thing": "keys|charger|jacket|laptop|notes|umbrella|parcel|tickets",
    "account": "account|card|phone plan|bank login|membership",
}

SPAM = (
    "Your number won a {prize} in our {match}! Call {phone} {when} to claim it.",
    "You were picked for a free {prize}. Reply {word} {when}, {fee} per text.",
    "Last chance {when}: claim {sum} at {site} before your code ends.",
    "Urgent: your {account} will be closed {when}. Confirm your code at {site}.",
    "We tried to call you about a {prize}. Call back {phone}, calls cost {fee}.",
    "Free {goods} {when} for the first callers. Text {word} to {phone}.",
    "Your parcel is held at the station. Pay {fee} at {site} to have it back {when}.",
    "Need {sum} {when}? No checks, no questions. Reply {word} or call {phone}.",
    "{who} sent you a gift: {sum} for {goods}. Open {site} {when}.",
    "All {goods} half price {when} at {site}. Text {word} for the code.",
    "Hi, it is {who}! I have a new number, please pay {sum} at {site}, urgent.",
    "Play our {match} and win {sum} {when}. Text {word} to {phone}, {fee} a go.",
    "Bank news: {sum} left your {account} {when}. Not you? Call {phone}.",
    "A {prize} is waiting for you at the {place}. Send {word} to {phone} to pick it up.",
)
HAM = (
    "Are you free {when}? {who} wants to have {meal} at the {place}.",
    "{who} won the {match}! The prize is a {prize}, what a week.",
    "Lost my phone, this is my new number: {phone}. Call me {when}.",
    "I paid the {fee} for your parcel, pick it up at the {place} {when}.",
    "Urgent: {who} left the {thing} at the {place}. Can you call {when}?",
    "Last chance to come to {meal} with {who}. Reply {word} if you can make it {when}.",
    "You owe me {sum} for the tickets, no hurry, {when} is fine.",
    "My {account} was closed again, I will call the bank {when}. Can you pay for {meal}?",
    "Saw the {goods} at {site}, half price {when}. Do we need them?",
    "What was the code for the {place}? {who} is waiting with the {thing}.",
    "Text {who} about the {match} {when}, the number is {phone}.",
    "I claimed back {sum} for the late train, so {meal} is on me {when}.",
    "Did you send {who} a gift? I have {sum} left for a {prize}.",
    "Play the {match} with us {when}? {who} says the first go is free.",
    "Please confirm {meal} {when}, I have to call the {place} before they close.",
    "Open the door for {who} {when}, the {thing} will not fit in the bag.",
)


class SpamSampleDataModule(LabelledDataModule):
    """Made-up messages, ham and spam, unless `path` names a table of yours."""

    def default_table(self) -> LabelledTable:
        return made_up_messages()


def made_up_messages(seed: int = 0) -> LabelledTable:
    """PER_CLASS different messages of each class, shuffled; the same for the same seed."""
    chance = random.Random(seed)
    rows: dict[str, str] = {}
    for label, templates in (("ham", HAM), ("spam", SPAM)):
        wanted = len(rows) + PER_CLASS
        while len(rows) < wanted:
            rows.setdefault(_filled(chance.choice(templates), chance), label)
    table = LabelledTable("made-up messages")
    texts = list(rows)
    chance.shuffle(texts)
    for number, text in enumerate(texts, 1):
        table.add(f"{table.name}: row {number}", text, rows[text])
    return table


def _filled(template: str, chance: random.Random) -> str:
    """A message from a template: with words drawn, and some without capitals or last dot."""

    def drawn(slot: re.Match[str]) -> str:
        if slot[1] == "phone":
            return f"555 01{chance.randrange(100):02d}"
        return chance.choice(WORDS[slot[1]].split("|"))

    text = re.sub(r"\{(\w+)\}", drawn, template)
    text = text[0].upper() + text[1:]
    if chance.random() < 0.4:
        text = text.lower()
    return text.removesuffix(".") if chance.random() < 0.4 else text
