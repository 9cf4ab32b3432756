"""Questions about short texts on countries and elements, from a table that comes with genlab."""

import string
from collections.abc import Iterable
from importlib.resources import files

import numpy as np

from genlab.data.splits import SPLIT_SEED
from genlab.data.text.module import TextDataModule
from genlab.data.text.records import Example
from genlab.errors import DataError
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["TEMPLATES", "Facts", "make_question", "read_table"]

# kind -> field -> (ways to state it, ways to ask for it); {n} is the name, {v} the value
TEMPLATES = {
    "country": {
        "capital": (
            (
                "The capital of {n} is {v}.",
                "{v} is the capital of {n}.",
                "The government of {n} sits in {v}.",
            ),
            (
                "What is the capital of {n}?",
                "Which city is the capital of {n}?",
                "From where is {n} governed?",
            ),
        ),
        "continent": (
            ("{n} lies in {v}.", "{n} is a country in {v}.", "On the map one finds {n} in {v}."),
            (
                "On which continent is {n}?",
                "Where does {n} lie?",
                "Which part of the world does {n} belong to?",
            ),
        ),
        "currency": (
            (
                "People in {n} pay with the {v}.",
                "The currency of {n} is the {v}.",
                "Prices in {n} are given in the {v}.",
            ),
            (
                "What is the currency of {n}?",
                "What do people in {n} pay with?",
                "Which money is used in {n}?",
            ),
        ),
        "language": (
            (
                "Most people in {n} know {v}.",
                "{v} is spoken in {n}.",
                "The schools of {n} teach in {v}.",
            ),
            (
                "Which language is spoken in {n}?",
                "What do people in {n} speak?",
                "What is a language of {n}?",
            ),
        ),
    },
    "element": {
        "symbol": (
            (
                "The symbol of {n} is {v}.",
                "Chemists write {v} for {n}.",
                "In formulas, {v} stands for {n}.",
            ),
            (
                "What is the symbol of {n}?",
                "How do chemists write {n}?",
                "Which letters stand for {n}?",
            ),
        ),
        "number": (
            (
                "The atomic number of {n} is {v}.",
                "An atom of {n} has {v} protons.",
                "{n} has number {v} in the periodic table.",
            ),
            (
                "What is the atomic number of {n}?",
                "How many protons has {n}?",
                "Which number has {n}?",
            ),
        ),
        "year": (
            (
                "The year of the discovery of {n} was {v}.",
                "In {v}, {n} was discovered.",
                "{n} has been known since {v}.",
            ),
            (
                "When was {n} discovered?",
                "In which year was {n} found?",
                "Since when has {n} been known?",
            ),
        ),
        "discoverer": (
            (
                "{v} discovered {n}.",
                "{n} was discovered by {v}.",
                "We owe the discovery of {n} to {v}.",
            ),
            ("Who discovered {n}?", "By whom was {n} found?", "Who found {n}?"),
        ),
    },
}
WHOLE = ("What does the text say about {n}?", "What is said of {n}?")
Table = dict[str, dict[str, dict[str, str]]]  # kind -> name -> field -> value


class Facts(TextDataModule):
    """Questions, each with short texts about one or two countries or elements.

    A question asks for one fact or for all that a text says about a name. One of val or test has
    two texts, of which one has the answer, or none, and both are true. A training question has one
    text, in which the values are exchanged among the others of a kind: a model has to read and
    cannot learn the answers by heart, since training never shows the true ones.

    Args:
        num_train: Training questions.
        num_val: Questions of val.
        num_test: Questions of test.
        options: See TextDataModule. no_answer is the fraction of the questions, in all splits, that
            no text answers; in training a further fifth comes with the wrong text.
    """

    name = "facts"

    def __init__(
        self,
        num_train: PositiveInt = 12_000,
        num_val: NonNegativeInt = 200,
        num_test: NonNegativeInt = 400,
        **options,
    ) -> None:
        super().__init__(num_val=num_val, num_test=num_test, **options)
        if min(num_train, num_val, num_test) < 1:
            raise DataError(
                f"data.num_train={num_train}, num_val={num_val}, num_test={num_test}: "
                "expected 1 or more"
            )
        self.num_train = num_train
        # The questions are made without an answer, so that no row has to be drawn without one.
        self.unanswered = self.no_answer
        self.no_answer = 0.0

    def _read(self) -> dict[str, list[Example]]:
        random = np.random.RandomState(SPLIT_SEED)
        table = read_table()
        counts = {"train": self.num_train, "val": self.num_val, "test": self.num_test}
        return {
            split: [
                make_question(table, f"{split}-{i}", self.unanswered, split == "train", random)
                for i in range(count)
            ]
            for split, count in counts.items()
        }

    def _corpus(self) -> Iterable[str]:
        """The training texts, and all letters and digits, first in a word and in it.

        So names that training lacks can be written. Twice, for the min_count of build_vocab.
        """
        signs = string.ascii_letters + string.digits
        pairs = [sign + other for sign in signs for other in signs]
        return [*super()._corpus(), *2 * ["-", *pairs]]


def read_table() -> Table:
    """The facts of facts.tsv, in which a line with the names of its fields begins each kind."""
    table: Table = {}
    fields: list[str] = []
    for line in files("genlab.data.text").joinpath("facts.tsv").read_text().splitlines():
        kind, name, *values = line.split("\t")
        if name == "name":
            table[kind], fields = {}, values
        else:
            table[kind][name] = dict(zip(fields, values, strict=True))
    return table


def make_question(
    table: Table, id: str, no_answer: float, exchanged: bool, random: np.random.RandomState
) -> Example:
    """A question with a text about its subject and perhaps another name, and a text about others.

    Args:
        table: The facts.
        id: Of the example, and of its document.
        no_answer: The probability that no text answers the question.
        exchanged: The values are exchanged among the names, and one text is kept: for training.
        random: What all of it is drawn from.
    """
    kind = list(table)[random.randint(len(table))]
    rows, templates = table[kind], TEMPLATES[kind]
    names = [list(rows)[i] for i in random.permutation(len(rows))[:4]]
    facts = {}
    for name in names:
        owners = {  # whose value each field has
            field: list(rows)[random.randint(len(rows))] if exchanged else name
            for field in templates
        }
        facts[name] = {field: rows[owners[field]][field] for field in templates}
    field = None  # None: all that is said
    if random.random_sample() < 0.5:
        field = list(templates)[random.randint(len(templates))]
    answered = random.random_sample() >= no_answer
    subject = names[0]
    sources: list[str] = []
    about_subject: list[str] = []
    first = names[1:2] if field is None and not answered else names[: random.randint(1, 3)]
    for pair in (first, names[2 : random.randint(3, 5)]):
        sentences = []
        for name in (pair[i] for i in random.permutation(len(pair))):
            needed = [field] if name == subject and answered and field else []
            others = [f for f in templates if name != subject or f != field]
            num = random.randint(0 if needed else 1, 3)
            fields = needed + [others[i] for i in random.permutation(len(others))[:num]]
            own = [
                say(templates[fields[i]][0], name, facts[name][fields[i]], random)
                for i in random.permutation(len(fields))
            ]
            sentences += own
            about_subject += own if name == subject else []
        sources.append(" ".join(sentences))
    answer = " ".join(about_subject) if field is None else facts[subject][field]
    targets = ((answer,) if answered else (), ())
    # One text in training: a row without an answer teaches little.
    order = [int(random.random_sample() < 0.2)] if exchanged else random.permutation(2)
    question = say(WHOLE if field is None else templates[field][1], subject, "", random)
    sources = tuple(sources[i] for i in order)
    return Example(id, sources, tuple(targets[i] for i in order), question, document=id)


def say(ways: tuple[str, ...], name: str, value: str, random: np.random.RandomState) -> str:
    """One of the ways to put a fact, with a capital at its start."""
    text = ways[random.randint(len(ways))].format(n=name, v=value)
    return text[0].upper() + text[1:]
