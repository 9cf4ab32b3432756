"""Texts with labels that a model writes by: a user's own, regular poems, sentences from a table."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from genlab.data.splits import SPLITS
from genlab.data.text.facts import TEMPLATES, read_table
from genlab.data.text.module import TextDataModule, split_documents
from genlab.data.text.records import Example, Record, read_labelled
from genlab.data.text.rows import Drawn
from genlab.errors import DataError
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["ConditionalText", "FactSentences", "LabelledText", "Poems", "known_values"]


class ConditionalText(TextDataModule):
    """Texts for models that write under a condition, which subclasses return in `given`."""

    def given(self, split: str) -> dict[str, Tensor]:
        """The condition of each example of a split, a row an example."""
        raise NotImplementedError

    def encoded(self, split: str) -> Drawn:
        """The examples of a split as ids, with their conditions."""
        if split not in self._encoded:
            self._encoded[split] = Drawn(self.examples(split), self.codec, self.given(split))
        return self._encoded[split]


def known_values(
    examples: Sequence[Example], fields: Sequence[str], min_count: int
) -> dict[str, list[str]]:
    """The values of each field that a model can write by.

    Args:
        examples: Of the training split.
        fields: The names of the labels.
        min_count: How many examples must have a value.

    Returns:
        field -> its values, the most frequent first.

    Raises:
        DataError: A field has fewer than two values.
    """
    found = {}
    for i, field in enumerate(fields):
        counts = Counter(e.labels[i] for e in examples if e.labels[i])
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        found[field] = [value for value, count in ranked if count >= min_count]
        if len(found[field]) < 2:
            raise DataError(
                f"data.fields: {field} has {len(found[field])} values with data.min_count="
                f"{min_count} training texts or more, and 2 are needed; leave the field out or "
                "lower data.min_count"
            )
    return found


class LabelledText(ConditionalText):
    """Texts with one or more labels; see genlab.data.text.records.read_labelled.

    Args:
        fields: The names of the labels; in a table without names, their columns.
        text_field: The field, or column, of the text.
        source_field: The field of what the text is written to, for models that read; None: there is
            none, for language models.
        min_count: A value in fewer training texts counts as an unknown label.
        max_source: Tokens of a source; 0 without one.
        options: See TextDataModule.
    """

    name = "labelled_text"

    def __init__(
        self,
        fields: list = ("label",),
        text_field: str | int = "text",
        source_field: str | int | None = None,
        min_count: PositiveInt = 1,
        max_source: NonNegativeInt = 0,
        **options,
    ) -> None:
        super().__init__(max_source=max_source, max_question=0, stride=None, **options)
        self.fields = list(fields) if isinstance(fields, list | tuple) else [fields]
        if not self.fields or len(set(map(str, self.fields))) < len(self.fields):
            raise DataError(
                f"data.fields={self.fields}: expected the names of one or more labels, each once"
            )
        if (source_field is None) != (max_source == 0):
            raise DataError(
                f"data.source_field={source_field}, data.max_source={max_source}: set both for "
                "texts with a source; without one, data.source_field=null data.max_source=0"
            )
        self.text_field = text_field
        self.source_field = source_field
        self.min_count = min_count
        self._values: dict[str, list[str]] | None = None

    def read_examples(self, path: Path) -> Iterator[Record]:
        """A text with its labels a record."""
        return read_labelled(path, self.text_field, self.fields, self.source_field)

    @property
    def label_values(self) -> dict[str, list[str]]:
        """field -> its values in training, the most frequent first; known after setup()."""
        if self._values is None:
            fields = list(map(str, self.fields))
            self._values = known_values(self.examples("train"), fields, self.min_count)
        return self._values

    def given(self, split: str) -> dict[str, Tensor]:
        """{"labels": int64 (N, F)}, -1 where a label is unknown."""
        known = self.label_values.values()
        places = [{value: i for i, value in enumerate(values)} for values in known]
        rows = [
            [place.get(label, -1) for place, label in zip(places, e.labels, strict=True)]
            for e in self.examples(split)
        ]
        return {"labels": torch.tensor(rows, dtype=torch.long).reshape(-1, len(places))}


class Poems(LabelledText):
    """Regular poems by form (characters x lines, as in 5x8), dynasty and author."""

    name = "poems"

    def __init__(self, fields: list = ("form", "dynasty", "author"), **options) -> None:
        super().__init__(fields, **options)


class FactSentences(LabelledText):
    """The sentences that the templates of `data=facts` make from its table, by topic and form.

    3,120 true sentences on 81 countries and 49 elements, each a statement or a question.

    Args:
        num_val: Sentences held out for val: other ways to put what training says, or to ask for it.
        num_test: The same for test.
        options: See LabelledText.
    """

    name = "fact_sentences"

    def __init__(
        self, num_val: NonNegativeInt = 200, num_test: NonNegativeInt = 400, **options
    ) -> None:
        super().__init__(["topic", "form"], num_val=num_val, num_test=num_test, **options)

    def _read(self) -> dict[str, list[Example]]:
        examples = [
            Example(str(i), ("",), ((text,),), document=text, labels=labels)
            for i, (text, labels) in enumerate(_fact_sentences())
        ]
        rows = split_documents(examples, self.num_val, self.num_test)
        return {split: [examples[row] for row in rows[split]] for split in SPLITS}


def _fact_sentences() -> Iterator[tuple[str, tuple[str, str]]]:
    """(sentence, (topic, form)) of all facts and templates."""
    for kind, rows in read_table().items():
        for name, facts in rows.items():
            for topic, (statements, questions) in TEMPLATES[kind].items():
                for form, ways in (("statement", statements), ("question", questions)):
                    for way in ways:
                        text = way.format(n=name, v=facts[topic])
                        yield text[0].upper() + text[1:], (topic, form)
