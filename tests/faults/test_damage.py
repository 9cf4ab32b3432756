"""Damaged files of a run, an export or a cache are named, or make no difference."""

import json
import random
import shutil
import zipfile
from contextlib import suppress

import pytest
import torch
from safetensors import safe_open

import genlab
from genlab import runs
from genlab.callbacks.csv_logger import CSVLogger
from genlab.data.corpus import corpus, shards, tokens
from genlab.errors import RunError
from genlab.metrics import store as cache
from genlab.reading import read_json
from genlab.runs.schema import BegunManifest, TrainedManifest
from genlab.tensors import read_safetensors, read_torch, save_safetensors, save_torch
from genlab.weights.bundle import read_bundle
from genlab.weights.source import Source, WeightsError, read_tensors


@pytest.fixture(scope="module")
def whole(trained_in, tiny, tmp_path_factory):
    """An undamaged run."""
    run = tmp_path_factory.mktemp("damage") / "whole"
    trained_in(run, "model=ogan", "data=digits", *tiny)
    return run


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the undamaged run."""
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture(scope="module")
def weights(whole):
    return genlab.load(whole).state_dict()


def flip(content: bytes, at: int, bit: int = 4) -> bytes:
    return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]


def damages(content: bytes, seed: int, count: int):
    """(description, damaged content): a flipped bit, a lost end, zeros or random bytes within."""
    rng = random.Random(seed)
    for number in range(count):
        at = rng.randrange(len(content))
        kind = ("flip", "flip", "cut", "zero", "noise")[number % 5]
        length = min(rng.choice((1, 16, 4096)), len(content) - at)
        start, rest = content[:at], content[at + length :]
        damaged = {
            "flip": flip(content, at, rng.randrange(8)),
            "cut": start,
            "zero": start + bytes(length) + rest,
            "noise": start + rng.randbytes(length) + rest,
        }
        yield f"{kind} at {at}", damaged[kind]


# --- checkpoints ----------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_named_or_loads_the_same(run, weights):
    path = run / "checkpoints" / "last.ckpt"
    refused = 0
    for what, content in [*damages(path.read_bytes(), 1, 60), ("empty", b""), ("text", b"hello")]:
        path.write_bytes(content)
        try:
            found = genlab.load(run).state_dict()
        except RunError as error:
            refused += 1
            assert str(path) in str(error), what
            assert "ckpt=best" in str(error), what
        else:
            assert all(torch.equal(found[name], weights[name]) for name in weights), what
    assert refused > 30


def data_start(content: bytes, entry: zipfile.ZipInfo) -> int:
    """Where the data of an entry of a zip file begins: behind its header, name and extra field."""
    header = content[entry.header_offset :][:30]
    name = int.from_bytes(header[26:28], "little")
    extra = int.from_bytes(header[28:30], "little")
    return entry.header_offset + 30 + name + extra


def test_a_flipped_bit_of_any_tensor_of_a_checkpoint_is_found(run):
    path = run / "checkpoints" / "last.ckpt"
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.file_size]
    for entry in entries:
        offset = random.Random(entry.filename).randrange(entry.file_size)
        path.write_bytes(flip(content, data_start(content, entry) + offset))
        with pytest.raises(RunError, match=rf"^{path}: .*{entry.filename}"):
            read_torch(path)


def test_a_checkpoint_of_compressed_zeros_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "last.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("last/data/0", bytes(1 << 20))
    with pytest.raises(RunError, match=r"last\.ckpt: .*last/data/0"):
        read_torch(tmp_path / "last.ckpt")


# Each case below changes the content of a checkpoint in place.


def without(name):
    return lambda content: content.pop(name)


def first(content):
    """The name of the first averaged tensor of floats that is not a scalar."""
    tensors = content["ema"].items()
    return next(name for name, value in tensors if value.is_floating_point() and value.dim())


def with_first(part, change):
    """Changes one tensor of "state_dict" or "ema"."""

    def apply(content):
        name = first(content)
        content[part][name] = change(content[part][name])

    return apply


def both(content, change):
    for part in ("state_dict", "ema"):
        with_first(part, change)(content)


ALSO_SAMPLING = {
    "no state_dict": without("state_dict"),
    "a list as state_dict": lambda content: content.update(state_dict=[1]),
    "text among the tensors": lambda content: content["state_dict"].update(x="y"),
    "NaN": with_first("ema", lambda value: value * float("nan")),
    "integers": with_first("state_dict", lambda value: value.to(torch.int8)),
    "integers throughout": lambda content: both(content, lambda value: value.to(torch.int8)),
    "an average of other shapes": with_first("ema", lambda value: value[:1]),
    "an average without a tensor": lambda content: content["ema"].pop(first(content)),
    "an average of another tensor": lambda content: content["ema"].update(other=torch.zeros(1)),
    "other shapes": lambda content: both(content, lambda value: value.flatten()),
    "more numbers than stored": with_first(
        "state_dict", lambda value: torch.zeros(1).expand(10**11)
    ),
    "sparse": with_first("state_dict", lambda value: value.to_sparse()),
    "more tensors": lambda content: content["state_dict"].update(extra=torch.zeros(2)),
}
TRAINING_ALONE = {
    **{
        f"no {name}": without(name)
        for name in ("global_step", "epoch", "callbacks", "lr_schedulers", "loops")
    },
    "no optimiser": without("optimizer_states"),
    "no version": without("pytorch-lightning_version"),
    "a step in letters": lambda content: content.update(global_step="many"),
    "a step below zero": lambda content: content.update(global_step=-1),
    "no state of an optimiser": lambda content: content.update(optimizer_states=[3]),
    "a callback's state of another type": lambda content: content["callbacks"].update(
        EMA={"images_seen": "x"}
    ),
}


@pytest.mark.parametrize("case", ALSO_SAMPLING | TRAINING_ALONE)
def test_a_wrong_part_of_a_checkpoint_is_named(case, run, weights):
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    (ALSO_SAMPLING | TRAINING_ALONE)[case](content)
    save_torch(content, path)
    named = rf"{path}: .*ckpt=best"
    if case in TRAINING_ALONE:
        for name, value in genlab.load(run).state_dict().items():
            assert torch.equal(value, weights[name]), name
        with pytest.raises(RunError, match=named):
            runs.read_resumable(path)
    else:
        with pytest.raises(RunError, match=named):
            genlab.load(run)


@pytest.mark.parametrize("change", ["shapes", "groups", "loops", "none"])
def test_a_checkpoint_of_another_optimiser_is_refused_before_the_first_step(
    change, run, trained_in
):
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    optimizer = content["optimizer_states"][0]
    if change == "shapes":
        for state in optimizer["state"].values():
            state |= {key: value.flatten()[:1] for key, value in state.items() if value.dim()}
    elif change == "groups":
        optimizer["param_groups"].pop()
    elif change == "loops":
        content["loops"]["fit_loop"] = {"nothing": 1}
    else:
        content["optimizer_states"] = []
    save_torch(content, path)
    with pytest.raises(RunError, match=rf"^{path}: "):
        trained_in(run, f"run={run}", "trainer.max_steps=8")


def test_old_checkpoints_without_checksums_are_read(tmp_path):
    path = tmp_path / "old.ckpt"
    content = {"state_dict": {"x": torch.ones(2)}}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert torch.equal(runs.read_checkpoint(path)["state_dict"]["x"], torch.ones(2))


# --- safetensors and other weights ----------------------------------------------------------------


def test_a_damaged_export_is_named_or_loads_the_same(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {"a": torch.randn(40), "b": torch.arange(30.0).view(5, 6)}
    save_safetensors(tensors, path, {"format": "pt"})
    content = path.read_bytes()
    data = len(content) - 70 * 4
    flips = [(f"flip at {at}", flip(content, at, at % 8)) for at in range(0, len(content), 3)]
    for what, damaged in [*flips, *damages(content, 2, 40), ("empty", b"")]:
        path.write_bytes(damaged)
        try:
            found = read_safetensors(path)
        except RunError as error:
            assert str(path) in str(error), what
        else:
            assert not what.startswith("flip") or int(what.split()[-1]) < data, what
            assert found.keys() == tensors.keys(), what
            assert all(torch.equal(found[n], tensors[n]) for n in tensors), what
    torch.save(tensors, path)
    with pytest.raises(RunError, match=r"model\.safetensors"):
        read_safetensors(path)


def test_an_export_contains_a_checksum_of_its_tensors(run, command, tmp_path):
    export = tmp_path / "export"
    command("export", tmp_path / "out", f"run={run}", "format=safetensors", f"out={export}")
    with safe_open(export / "model.safetensors", "pt") as file:
        assert len(file.metadata()["genlab.sha256"]) == 64
    assert genlab.load(export).state_dict().keys() == genlab.load(run).state_dict().keys()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_pretrained_weights_are_named(name, tmp_path):
    path, weight = tmp_path / name, torch.randn(50, 4)
    if name.endswith("bin"):
        save_torch({"word.weight": weight}, path)
    else:
        save_safetensors({"word.weight": weight}, path, {})
    content = path.read_bytes()
    for what, damaged in [*damages(content, 3, 20), ("empty", b"")]:
        path.write_bytes(damaged)
        try:
            found = read_tensors(Source("x", path))
        except WeightsError as error:
            assert str(path) in str(error), what
        else:
            assert torch.equal(found["word.weight"], weight), what
    save_torch({"word.weight": torch.full((2, 2), float("nan"))}, tmp_path / "nan.bin")
    with pytest.raises(WeightsError, match=r"nan\.bin: word\.weight"):
        read_tensors(Source("x", tmp_path / "nan.bin"))


def test_a_damaged_tensorflow_index_is_named(tmp_path):
    rng = random.Random(4)
    for _ in range(40):
        content = rng.randbytes(rng.randrange(120)) + (0xDB4775248B80FB57).to_bytes(8, "little")
        (tmp_path / "model.ckpt.index").write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.ckpt\.index"):
            read_bundle(tmp_path / "model.ckpt")


# --- manifest, metrics, JSON ----------------------------------------------------------------------

EVAL, EXPORT = ("eval", "num=20", "features=random"), ("export", "format=explorer")
TRAIN = ("train", "trainer.max_steps=8")
NO_MANIFEST = [
    b"",
    b"{",
    b"{}",
    b"[]",
    b"null",
    b"NaN",
    b'"text"',
    b"\xff\xfe\0\0",
    b"[" * 100_000,
    b'{"a":' * 5000,
]


@pytest.mark.parametrize("content", NO_MANIFEST, ids=lambda content: repr(content[:8]))
def test_an_unreadable_manifest_is_named_with_a_command_that_needs_none(content, tmp_path):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunError, match=r"manifest\.json: .*`genlab sample`"):
        runs.Manifest.read(tmp_path)


def test_keys_of_a_manifest_with_the_wrong_type_are_named(run):
    path = run / "manifest.json"
    whole = json.loads(path.read_text())
    read_json(path, TrainedManifest)
    known = [key for key in whole if key in TrainedManifest.model_fields]
    assert len(known) > 12
    for key in known:
        for value in (5, "x", [1], {"a": [1]}, None, True, 1.5, -3):
            path.write_text(json.dumps(whole | {key: value}))
            with suppress(RunError):  # some values have a right type
                runs.read_manifest(run, TrainedManifest)
                fits = type(value) is type(whole[key]) or value is None
                assert fits or key in ("seconds", "seed"), (key, value)
                continue
            with pytest.raises(RunError, match=rf"manifest\.json: {key}\b"):
                runs.read_manifest(run, TrainedManifest)
    for key in ("status", "steps", "images_seen", "seconds"):
        path.write_text(json.dumps({name: value for name, value in whole.items() if name != key}))
        with pytest.raises(RunError, match=rf"manifest\.json: {key}: "):
            runs.read_manifest(run, BegunManifest)
    path.write_text(json.dumps(whole | {"a key of tomorrow": {"x": 1}}))
    assert runs.Manifest.read(run).content["a key of tomorrow"] == {"x": 1}


@pytest.mark.parametrize("words", [EVAL, EXPORT, TRAIN], ids=lambda words: words[0])
def test_commands_name_a_damaged_manifest_before_they_write(
    words, run, command, trained_in, tmp_path
):
    (run / "manifest.json").write_text('{"status": "finished"}')
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    before = {path: path.read_bytes() for path in files}
    with pytest.raises(RunError, match=r"manifest\.json: \w+: "):
        if words[0] == "train":
            trained_in(run, f"run={run}", *words[1:])
        else:
            command(words[0], tmp_path / "out", f"run={run}", *words[1:])
    assert {path: path.read_bytes() for path in before} == before


def test_sampling_needs_no_manifest_and_no_curves(run, command, tmp_path):
    for path in (run / "manifest.json", run / "metrics.csv"):
        path.write_bytes(b"\xff\0{")
    command("sample", tmp_path / "out", f"run={run}", "num=4")
    assert (tmp_path / "out" / "grid.npz").is_file()


@pytest.mark.parametrize("name", ["manifest.json", "report.html", ".lock", "metrics.csv"])
def test_a_folder_in_place_of_a_file_is_named(name, run, trained_in):
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    with pytest.raises(RunError, match=rf"^{run / name}: "):
        trained_in(run, f"run={run}", "trainer.max_steps=8")


@pytest.mark.parametrize("name", ["checkpoints", "samples"])
def test_a_file_in_place_of_a_folder_is_named(name, run, trained_in):
    shutil.rmtree(run / name)
    (run / name).write_text("x")
    with pytest.raises(RunError, match=rf"^{run / name}: "):
        trained_in(run, f"run={run}", "trainer.max_steps=8")


ROWS = "step,loss\n1,0.5\n2,0.25\n3,0.125\n"
CSV = {  # content: the steps that are left; None where the file is refused
    "": [],
    "step,loss\n": [],
    ROWS: [1, 2, 3],
    ROWS[:-4]: [1, 2, 3],
    ROWS + "4": [1, 2, 3],
    ROWS + "4,0.1,7,8\n": [1, 2, 3],
    ROWS + "4,x\n": [1, 2, 3],
    ROWS + "4.0,1\n": [1, 2, 3],
    ROWS + "4,\0\0\n": [1, 2, 3],
    ROWS + '4,"0.1': [1, 2, 3, 4],
    ROWS.replace("step", "stop"): None,
    "step,step\n1,2\n": None,
    ROWS + '"' + "x" * 200_000 + '",1\n': [1, 2, 3],
    b"\xff\xfe\0\0": None,
}


@pytest.mark.parametrize("content", CSV, ids=lambda content: repr(content[-12:]))
def test_damaged_curves_are_repaired_or_named(content, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    logger = CSVLogger(str(tmp_path))
    if CSV[content] is None:
        with pytest.raises(RunError, match=r"metrics\.csv: "):
            logger.rewind(10)
        return
    logger.rewind(10)
    logger.log_metrics({"loss": 1.0}, 11)
    logger.save()
    assert [int(row["step"]) for row in runs.read_curves(tmp_path)] == [*CSV[content], 11]


def test_a_report_shows_what_can_be_read(run):
    from genlab.report.html import write_report

    damaged = {
        "eval/metrics.json": b"[1]",
        "eval/certificate.json": b"{}",
        "metrics.csv": b"\xff",
        "samples/texts_000001.jsonl": b"[1]",
        "samples/fixed_x.png": b"",
    }
    for name, content in damaged.items():
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(content)
    assert "step 6" in write_report(run).read_text()
    (run / "manifest.json").write_text("{}")
    with pytest.raises(RunError, match=r"manifest\.json: "):
        write_report(run)


# --- caches ---------------------------------------------------------------------------------------


def test_a_damaged_or_foreign_feature_cache_is_computed_again(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path))
    made = []

    def make():
        made.append(1)
        return {"points": torch.arange(3.0)}

    def found():
        return cache.load_or_make("x.pt", make, lambda content: content["points"].sum().item())

    assert [found(), found()] == [3, 3] and len(made) == 1
    path = tmp_path / "features" / "x.pt"
    content = path.read_bytes()
    numbers = content.index(torch.arange(3.0).numpy().tobytes())
    for damaged in (b"", content[:-9], flip(content, numbers + 5)):
        path.write_bytes(damaged)
        made.clear()
        assert [found(), found()] == [3, 3] and len(made) == 1
    for other in ({"mean": 1}, [1], {"points": "text"}):
        save_torch(other, path)
        made.clear()
        assert [found(), found()] == [3, 3] and len(made) == 1


@pytest.fixture
def prepared(tmp_path):
    """prepared(): the shards of some documents, made if they do not exist."""
    from genlab.data.text.tokenizer import Tokenizer

    tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"], True)
    options = {"fractions": {"val": 0.3}, "characters": 20}

    def documents():
        return iter(["a b c " * 9, "b c", "c a " * 5, "a", "b a c"])

    return lambda: shards.prepare(tmp_path / "corpus", documents, tokenizer, **options)


def content_of(found):
    streams = [found.stream(split) for split in ("train", "val")]
    texts = [stream[0 : len(stream)].tolist() for stream in streams if len(stream)]
    return texts, found.sha256


def test_a_damaged_corpus_is_tokenised_again(prepared, tmp_path, caplog):
    whole = content_of(prepared())
    files = sorted((tmp_path / "corpus").glob("[i0-9]*.*"))
    assert len(files) > 4
    for file in files:
        content = file.read_bytes()
        for damaged in (b"", b"{}", b"[]", b"\xff", flip(content, len(content) // 2), content[:-1]):
            file.write_bytes(damaged)
            assert content_of(prepared()) == whole, (file.name, damaged[:20])
        file.unlink()
        assert content_of(prepared()) == whole
    assert str(tmp_path / "corpus") in caplog.text


def test_a_damaged_shard_of_a_large_corpus_is_named_when_it_is_read(
    prepared, tmp_path, monkeypatch
):
    prepared()
    monkeypatch.setattr(tokens, "CHECKED", 0)
    file = tmp_path / "corpus" / "00000.tokens"
    file.write_bytes(flip(file.read_bytes(), 3))
    with pytest.raises(ValueError, match=r"00000\.tokens: "):
        content_of(prepared())


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"vocab": 5, "lowercase": true, "keep_tokens": null}', "flip"]
)
def test_a_damaged_vocabulary_is_built_again(content, tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path / "data"))
    (tmp_path / "text.txt").write_text("one two three\n\nfour five\n" * 30)

    def build():
        return corpus.Corpus(str(tmp_path / "text.txt"), vocab_size=60)._build_tokenizer().vocab

    whole = build()
    (file,) = (tmp_path / "data").rglob("vocab.json")
    if content == "flip":
        content = file.read_bytes().replace(b"three", b"thref")
    file.write_bytes(content)
    assert build() == whole


# --- any file and any command ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_any_file_of_a_run_damaged_in_any_command(seed, whole, command, trained_in, tmp_path):
    rng = random.Random(seed)
    verbs = {
        "sample": ["num=4"],
        "encode": ["split=test"],
        "eval": ["num=20", "features=random"],
        "export": ["format=explorer"],
        "train": ["trainer.max_steps=8"],
    }
    files = [path for path in whole.rglob("*") if path.is_file() and path.name != "config.yaml"]
    files = [path.relative_to(whole) for path in files]
    for number in range(12):
        run = shutil.copytree(whole, tmp_path / f"run{number}")
        file, verb = rng.choice(files), rng.choice(list(verbs))
        content = (whole / file).read_bytes() or b"x"
        damaged = list(damages(content, rng.randrange(10**6), 5))
        what, content = damaged[rng.randrange(5)]
        (run / file).write_bytes(content)
        try:
            if verb == "train":
                trained_in(run, f"run={run}", *verbs[verb])
            else:
                command(verb, tmp_path / f"out{number}", f"run={run}", *verbs[verb])
        except ValueError as error:
            assert file.name in str(error), (verb, file, what)
