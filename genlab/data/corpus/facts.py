"""Short true texts on countries and elements as a corpus, from a table that comes with genlab."""

import json
from collections.abc import Iterator

import numpy as np

from genlab.data.corpus.corpus import Corpus
from genlab.data.splits import SPLIT_SEED
from genlab.data.text.facts import TEMPLATES, make_question, read_table
from genlab.errors import DataError
from genlab.ranges import PositiveInt

__all__ = ["FactTexts"]


class FactTexts(Corpus):
    """True texts as a corpus to pretrain on; every second one ends with a question and its answer.

    Args:
        num_documents: How many texts, 20 or more.
        options: See Corpus.
    """

    name = "fact_texts"

    def __init__(self, num_documents: PositiveInt = 20_000, **options) -> None:
        super().__init__(**options)
        if num_documents < 20:
            raise DataError(f"data.num_documents={num_documents}: expected 20 or more")
        self.num_documents = num_documents

    def documents(self, split: str) -> Iterator[str]:
        """The texts, always the same."""
        table = read_table()
        random = np.random.RandomState(SPLIT_SEED)
        for i in range(self.num_documents):
            example = make_question(table, str(i), no_answer=0.0, exchanged=False, random=random)
            lines = list(example.sources)
            if i % 2:
                lines.append(f"{example.question} {example.accepted[0]}.")
            yield "\n".join(lines)

    def stamp(self, split: str) -> list:
        """What the texts depend on, in place of a file; about 300 bytes a text."""
        content = json.dumps([TEMPLATES, read_table()])
        return [[content, 300 * self.num_documents, self.num_documents]]
