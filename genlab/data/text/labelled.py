"""Texts with labels that a model is to write them by: your own, regular poems, and sentences out of
a table.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from genlab.data.splits import SPLITS
from genlab.data.text.facts import STATED, read_table
from genlab.data.text.module import TextDataModule, split_documents
from genlab.data.text.records import Example, Records, read_labelled
from genlab.data.text.rows import Drawn
from genlab.errors import DataError
from genlab.ranges import NonNegativeInt, PositiveInt

__all__ = ["FactSentences", "LabelledText", "Poems", "SteeredText", "known_values"]


class SteeredText(TextDataModule):
    """Texts that are written under something given with each, which subclasses say in `given`."""

    def given(self, split: str) -> dict[str, Tensor]:
        """What each example of a split is written under, a row an example."""
        raise NotImplementedError

    def encoded(self, split: str) -> Drawn:
        """The examples of a split as ids, with what is given."""
        if split not in self._encoded:
            self._encoded[split] = Drawn(self.examples(split), self.codec, self.given(split))
        return self._encoded[split]


def known_values(
    examples: Sequence[Example], fields: Sequence[str], min_count: int
) -> dict[str, list[str]]:
    """field -> its values in at least min_count of the examples, the most frequent first; DataError
    without two.
    """
    found = {}
    for i, field in enumerate(fields):
        counts = Counter(e.labels[i] for e in examples if e.labels[i])
        found[field] = [
            v
            for v, count in sorted(counts.items(), key=lambda vc: (-vc[1], vc[0]))
            if count >= min_count
        ]
        if len(found[field]) < 2:
            raise DataError(
                f"data.fields: {field} has {len(found[field])} values of data.min_count={min_count} training texts or more, "
                "and so cannot steer anything; leave it out or lower data.min_count"
            )
    return found


class LabelledText(SteeredText):
    """Texts with one or more labels, a text a line; see read_labelled.

    fields: the names of the labels, in a table without names their columns. A value in fewer than
    min_count training texts is one that is not told. source_field: what a text is written to, for
    models that read (max_source tokens); null: none, for language models (max_source=0).
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
                f"data.source_field={source_field}, data.max_source={max_source}: a source needs both its field and room, "
                "and texts that are written to nothing data.source_field=null data.max_source=0"
            )
        self.text_field, self.source_field, self.min_count = text_field, source_field, min_count
        self._values: dict[str, list[str]] | None = None

    def _records(self, paths: list[Path]) -> Records:
        return read_labelled(paths, self.on_error, self.text_field, self.fields, self.source_field)

    @property
    def label_values(self) -> dict[str, list[str]]:
        """field -> the values that training tells, the most frequent first; known after setup()."""
        if self._values is None:
            self._values = known_values(
                self.examples("train"), list(map(str, self.fields)), self.min_count
            )
        return self._values

    def given(self, split: str) -> dict[str, Tensor]:
        """{"labels": int64 (N, F)}, -1 where one is not told or not known."""
        places = [
            {value: i for i, value in enumerate(values)} for values in self.label_values.values()
        ]
        rows = [
            [place.get(v, -1) for place, v in zip(places, e.labels, strict=True)]
            for e in self.examples(split)
        ]
        return {"labels": torch.tensor(rows, dtype=torch.long).reshape(-1, len(places))}


class Poems(LabelledText):
    """Regular poems by form (characters x lines, as in 5x8), dynasty and author."""

    name = "poems"

    def __init__(self, fields: list = ("form", "dynasty", "author"), **options) -> None:
        super().__init__(fields, **options)


class FactSentences(LabelledText):
    """Each sentence that the templates of `data=facts` make of its table: a statement or a question
    on one topic.

    3,120 sentences on 81 countries and 49 elements, all true. num_val and num_test of them, drawn
    once, are held out: other ways to put what training says, or to ask for it.
    """

    name = "fact_sentences"

    def __init__(
        self, num_val: NonNegativeInt = 200, num_test: NonNegativeInt = 400, **options
    ) -> None:
        super().__init__(["topic", "form"], num_val=num_val, num_test=num_test, **options)

    def _read(self) -> dict[str, list[Example]]:
        made = []
        for kind, rows in read_table().items():
            for name, facts in rows.items():
                for topic, ways in STATED[kind].items():
                    for form, templates in zip(("statement", "question"), ways, strict=True):
                        for way in templates:
                            text = way.format(n=name, v=facts[topic])
                            text = text[0].upper() + text[1:]
                            made.append(
                                Example(
                                    f"{len(made)}",
                                    ("",),
                                    ((text,),),
                                    document=text,
                                    labels=(topic, form),
                                )
                            )
        rows = split_documents(made, self.num_val, self.num_test)
        return {split: [made[row] for row in rows[split]] for split in SPLITS}
