"""Training steps of fixed shapes: the losses and gradients of those that are not, and nothing the
host would wait for.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from genlab.data.corpus.corpus import RowDraw, Rows
from genlab.data.text.codec import Codec
from genlab.data.text.records import Example
from genlab.data.text.rows import Drawn, Encoded, TextBatches, TextDraw
from genlab.data.text.tokenizer import Tokenizer
from genlab.models.seq2seq.bert import BERT
from genlab.nn.conditions import Labels
from genlab.systems.text.conditional import Conditional
from genlab.systems.text.encoders import Backbone
from genlab.systems.text.pretraining import Pretraining
from genlab.systems.text.seq2seq import Seq2Seq
from genlab.training.lamb import LAMB

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(40))]
PRETRAINING = ["mlm", "mlm isolated", "gpt", "gpt isolated", "unilm"]
CASES = [
    *PRETRAINING,
    "seq2seq",
    "adversarial",
    "smoothed",
    "qa",
    "labels",
    "labels to a source",
    "image",
]
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
WAITS = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "_unique2",
    "lift_fresh",
    "repeat_interleave",
    "equal",
)


class Unwaiting(TorchDispatchMode):
    """Refuses operations that wait for the device, have a shape that depends on the data, or read
    the host's memory.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        assert name not in WAITS, name
        if name.removeprefix("_unsafe_") in INDEXING:
            assert all(i is None or i.dtype not in (torch.bool, torch.uint8) for i in args[1]), (
                "an index of truth values"
            )
        return function(*args, **(kwargs or {}))


def words(count: int, seed: int) -> str:
    drawn = torch.randint(0, 40, (count,), generator=torch.Generator().manual_seed(seed))
    return " ".join(f"w{i}" for i in drawn.tolist())


def made(case: str, seed: int = 0):
    """(a system in training, a batch of the case: of the same shape whatever the seed)."""
    torch.manual_seed(0)
    kind = case.split()[0]
    source = {"labels": 0, "image": 0}.get(case, 20)
    codec = Codec(source, 12, 8 if kind == "qa" else 0)
    codec.use(Tokenizer(VOCAB))
    width = 6 if kind in ("labels", "image") else 0
    options = {"dropout": 0.0, "attention_dropout": 0.0, "init_std": 0.6}
    net = BERT(len(VOCAB), 16, 2, 2, 32, 65, **options, condition_dim=width)
    if case in PRETRAINING:
        system = Pretraining(net, codec, torch.optim.AdamW, kind)
        sizes = (18, 30, 25, 3, 40) * 30
        documents = [torch.tensor([2, *torch.randint(5, 45, (n,)).tolist(), 3]) for n in sizes]
        ids = torch.cat(documents)
        rows = Rows((2 * ids + 1).numpy(), 64, codec.tokenizer, "isolated" in case, seed, None)
        batch = rows[RowDraw(torch.arange(30) + seed, torch.zeros(30, dtype=torch.long))]
    else:
        texts = [
            (words(9 + i % 5, 100 * seed + i), words(4 + i % 6, 7000 + 100 * seed + i))
            for i in range(8)
        ]
        texts[0] = (words(18, seed), words(11, seed + 50))
        question = "w1 w2" if kind == "qa" else None
        examples = [
            Example(str(i), (s if source else "",), ((t,),), question)
            for i, (s, t) in enumerate(texts)
        ]
        if kind == "qa":
            examples = [
                Example(e.id, e.sources, ((" ".join(e.sources[0].split()[:2]),),), question)
                for e in examples
            ]
        labels = torch.randint(-1, 2, (8, 2), generator=torch.Generator().manual_seed(seed))
        given = {"labels": labels}
        if kind != "labels":
            given = {"image": torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)}
        encoded = Encoded(examples, codec) if not width else Drawn(examples, codec, given)
        batch = TextBatches(encoded, 0, 0.0)[TextDraw(torch.arange(8))]
        if width:
            values = {"form": ["a", "b"], "author": ["c", "d"]}
            condition = (
                Labels(values, 6)
                if kind == "labels"
                else Backbone(weights=None, frozen=False, condition_dim=6)
            )
            system = Conditional(
                net, codec, torch.optim.AdamW, condition, target_segment=int(source > 0)
            )
        else:
            options = {
                "adversarial": 0.5 * (case == "adversarial"),
                "label_smoothing": 0.1 * (case == "smoothed"),
            }
            system = Seq2Seq(net, codec, torch.optim.AdamW, **options)
    system = system.double().train()
    system._trainer = SimpleNamespace(
        world_size=1, datamodule=SimpleNamespace(codec=codec, pack="cross_document")
    )
    system.log = system.log_dict = lambda *args, **kwargs: None
    return system, batch


def gradients(system, batch) -> dict[str, torch.Tensor]:
    """Of one step, with its loss."""
    system.zero_grad()
    torch.manual_seed(1)
    loss = system.training_step(batch, 0)
    loss.backward()
    return {"loss": loss.detach()} | {
        name: p.grad for name, p in system.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("case", CASES)
def test_fixed_shapes_change_neither_loss_nor_gradients(case):
    system, batch = made(case)
    for module in system.modules():  # whose statistics a step moves
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    expected = gradients(system, batch)
    system.static = True
    found = gradients(system, batch)
    assert found.keys() == expected.keys() and len(found) > 20
    for name, value in expected.items():
        assert torch.allclose(
            found[name], value, rtol=1e-5, atol=1e-7 * max(1.0, value.abs().max().item())
        ), name


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_fixed_shapes_waits_for_nothing_and_always_launches_the_same(case):
    system, batch = made(case)
    _, other = made(case, seed=3)
    assert {name: v.shape for name, v in batch.items()} == {
        name: v.shape for name, v in other.items()
    }
    system.static = True
    assert system.graph_key() == ()
    launched = []

    class Recorded(Unwaiting):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = super().__torch_dispatch__(function, types, args, kwargs)
            launched[-1].append((str(function), getattr(out, "shape", None)))
            return out

    for given in (batch, other):
        launched.append([])
        system.zero_grad()
        with Recorded():
            system.training_step(given, 0).backward()
    assert len(launched[0]) > 200 and launched[0] == launched[1]
    system.static = False
    with pytest.raises(AssertionError, match="nonzero"), Unwaiting():
        system.training_step(batch, 0)


@pytest.mark.parametrize("case", ["seq2seq", "labels", "labels to a source"])
@pytest.mark.parametrize("static", [False, True])
def test_wider_rows_have_the_same_loss(case, static):
    system, batch = made(case)
    wide = batch | {name: nn.functional.pad(batch[name], (0, 7)) for name in ("ids", "segments")}
    system.static = static
    expected, found = gradients(system, batch), gradients(system, wide)
    for name, value in expected.items():
        assert torch.allclose(
            found[name], value, rtol=1e-5, atol=1e-7 * max(1.0, value.abs().max().item())
        ), name


@pytest.mark.parametrize("objective", ["mlm", "gpt", "unilm"])
def test_lengths_that_are_not_said_are_those_of_full_rows(objective):
    system, batch = made(objective)
    assert "lengths" not in batch
    expected = gradients(system, batch | {"lengths": torch.full((30,), 64)})
    for name, value in gradients(system, batch).items():
        assert torch.allclose(
            value, expected[name], rtol=1e-5, atol=1e-7 * max(1.0, value.abs().max().item())
        ), name


def test_the_head_sees_no_more_places_than_may_be_predicted():
    seen = []
    for case, most in (("mlm", 30 * 64 // 3), ("seq2seq", 8 * 12)):
        system, batch = made(case)
        system.static = True
        system.net.head.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
        system(batch)
        assert int(batch.get("segments", torch.ones(1)).sum()) <= seen[-1] <= most
        system.eval()(batch)
        assert seen[-1] < seen[-2]  # as many as are predicted


def test_what_cannot_be_captured_is_named():
    for case, change, message in (
        (
            "unilm",
            lambda s: setattr(s._trainer.datamodule, "pack", "isolated"),
            r"data\.pack=isolated",
        ),
        ("mlm", lambda s: setattr(s.net, "checkpointing", True), r"net\.checkpointing"),
        ("seq2seq", lambda s: setattr(s.net, "checkpointing", True), r"net\.checkpointing"),
        (
            "seq2seq",
            lambda s: setattr(s._trainer.datamodule, "codec", Codec(20, 13, 0)),
            r"model\.codec\.max_target=12: .*13",
        ),
    ):
        system, _ = made(case)
        change(system)
        with pytest.raises(ValueError, match=message):
            system.graph_key()


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("adapt", [False, True])
def test_lamb_that_can_be_captured_takes_the_same_steps(correct, adapt):
    torch.manual_seed(0)
    start, found = [torch.randn(3, 2, dtype=torch.float64), torch.randn(4, dtype=torch.float64)], []
    for capturable in (False, True):
        torch.manual_seed(1)
        weights = [w.clone().requires_grad_() for w in start]
        lr = torch.zeros((), dtype=torch.float64) if capturable else 0.0
        optimizer = LAMB(weights, bias_correction=correct, adapt=adapt, capturable=capturable)
        for step in range(5):
            if step == 3:  # the rate lives in the group, and goes on after a resume
                state = optimizer.state_dict()
                optimizer = LAMB(weights)
                optimizer.load_state_dict(state)
            rate = 0.1 / (step + 1)
            optimizer.param_groups[0]["lr"] = lr.fill_(rate) if capturable else rate
            for w in weights:
                w.grad = torch.randn_like(w)
            if capturable:
                with Unwaiting():
                    optimizer.step()
            else:
                optimizer.step()
        found.append(torch.cat([w.detach().flatten() for w in weights]))
    assert torch.allclose(*found, rtol=1e-13, atol=1e-13)
