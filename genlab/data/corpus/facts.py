"""Short true texts on countries and chemical elements as a corpus, out of a table that comes with
genlab.
"""

import json
from collections.abc import Iterator

import numpy as np

from genlab.data.corpus.corpus import Corpus
from genlab.data.splits import SPLIT_SEED
from genlab.data.text.facts import STATED, asked, read_table
from genlab.errors import DataError
from genlab.ranges import PositiveInt

__all__ = ["FactTexts"]


class FactTexts(Corpus):
    """True texts, num_documents of them, as a corpus to pretrain on; every second one ends with a
    question answered.
    """

    name = "fact_texts"

    def __init__(self, num_documents: PositiveInt = 20_000, **options) -> None:
        super().__init__(**options)
        if num_documents < 20:
            raise DataError(f"data.num_documents={num_documents}: expected 20 or more")
        self.num_documents = num_documents

    def documents(self, split: str) -> Iterator[str]:
        """The texts, always the same."""
        table, random = read_table(), np.random.RandomState(SPLIT_SEED)
        for i in range(self.num_documents):
            example = asked(table, str(i), 0.0, False, random)
            answers = [f"{example.question} {example.accepted[0]}."] * (i % 2)
            yield "\n".join([*example.sources, *answers])

    def stamp(self, split: str) -> list:
        """What the texts depend on, in the place of a file's."""
        return [[json.dumps([STATED, read_table()]), 300 * self.num_documents, self.num_documents]]
