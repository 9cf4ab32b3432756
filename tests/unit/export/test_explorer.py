"""The page that decodes in the browser shows the pictures that torch computes."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

import genlab
from genlab import config, runs
from genlab.export import explorer, images
from genlab.export.program import Unknown, program
from genlab.report import html

RUNTIME = Path(html.__file__).parent / "runtime.js"
# A dropped picture is a blob.
READY = {"ready": "body[data-ready]", "schemes": ("file:", "data:", "blob:")}
NODE = shutil.which("node")
# Recipes, and how far the page may be from torch: weights in float16 have 11 bits
CASES = {
    "dcgan": (["model=dcgan"], 0.005),
    "dcgan_conditional": (
        ["model=dcgan", "net/modulation=conditional", "model.num_classes=10"],
        0.005,
    ),
    "dcgan_shuffle": (
        ["model=dcgan", "net.generator.upsample=pixel_shuffle", "net.generator.kernel_size=5"],
        0.005,
    ),
    "dcgan_bilinear": (["model=dcgan", "net.generator.upsample=bilinear"], 0.01),
    "ogan": (["model=ogan"], 0.005),
    "ogan_spectral": (
        ["model=ogan", "net.discriminator.norm=none", "net.discriminator.spectral_norm=true"],
        0.005,
    ),
    "ogan_group": (["model=ogan", "net.discriminator.norm=group"], 0.005),
    "sagan": (["model=sagan"], 0.01),
    "stylegan": (["model=stylegan"], 0.005),
    "biggan": (["model=biggan", "net.generator.hidden_dim=4", "model.num_classes=10"], 0.01),
    "pggan": (["model=pggan", "net.generator.hidden_dim=16"], 0.01),
}
QUICK = ("dcgan", "dcgan_conditional", "ogan", "sagan")
# Standard deviation of the noise on weights, 0.15 for other cases
NOISE = {"sagan": 0.02, "biggan": 0.02, "dcgan_shuffle": 0.05}


def system_of(composed, words, noise):
    """An untrained model, with noise on its weights and statistics."""
    small = (
        ["net.generator.hidden_dim=16"]
        if words[0] in ("model=dcgan", "model=ogan", "model=stylegan")
        else []
    )
    settings = config.resolve(composed(*words, *small))
    system = config.build_system(settings).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for value in system.parameters():
        value.add_(noise * torch.randn(value.shape, generator=generator))
    for name, value in system.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(0.1 + 0.3 * torch.rand(value.shape, generator=generator))
    system.stand(1)  # statistics that do not fit would make errors grow from layer to layer
    calm(system.generator, torch.randn(8, system.latent_dim, generator=generator), system.labels(8))
    data = settings["data"]
    return system, (data["channels"], data["image_size"], data["image_size"])


def calm(generator, z, y):
    """Scales the last convolution so that tanh does not saturate, which keeps errors small."""
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    last = [module for module in generator.modules() if isinstance(module, kinds)][-1]
    if not torch.nn.utils.parametrize.is_parametrized(last):
        spread = generator(z, y).clamp(-0.999, 0.999).atanh().std()
        last.weight.div_(2 * spread)
        last.bias.div_(2 * spread)


def in_node(made, inputs):
    """The outputs of runtime.js for a program and inputs (N, ...)."""
    code = f"""const {{load}} = require({json.dumps(str(RUNTIME))});
      const {{made, inputs}} = JSON.parse(require("fs").readFileSync(0)), run = load(made);
      console.log(JSON.stringify(inputs.map((one) => Array.from(run(...one)))));"""
    rows = [[part[i].flatten().tolist() for part in inputs] for i in range(len(inputs[0]))]
    text = json.dumps({"made": made, "inputs": rows})
    options = {"capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run([NODE, "-e", code], input=text, **options)
    assert done.returncode == 0, done.stderr
    return torch.tensor(json.loads(done.stdout))


@pytest.mark.skipif(NODE is None, reason="there is no node")
@pytest.mark.parametrize(
    "case",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_the_runtime_decodes_and_encodes_as_torch_does(case, composed):
    words, most = CASES[case]
    system, shape = system_of(composed, words, NOISE.get(case, 0.15))
    verbs = images.graphs(system, shape)
    assert set(verbs) == ({"decode", "encode"} if "ogan" in case else {"decode"})
    for module in verbs.values():
        inputs = module.example(3)
        want = module(*inputs).flatten(1)
        assert want.std() > 0.1
        assert (in_node(program(module), inputs) - want).abs().max() < most


class Strange(torch.nn.Module):
    def forward(self, x, labels=None):
        return torch.special.erfinv(x)


def test_an_operation_that_the_page_lacks_is_named():
    with pytest.raises(Unknown, match="erfinv"):
        program(images.Verb(Strange(), "decode", torch.zeros(5, 3)))


@pytest.fixture(scope="module")
def run(trained_in, tiny, tmp_path_factory):
    """The run of a tiny O-GAN with classes, and its page."""
    folder = tmp_path_factory.mktemp("explorer") / "run"
    words = [word for word in tiny if not word.startswith(("explorer", "callbacks.grids"))]
    trained_in(folder, "model=ogan", "data=digits", "model.num_classes=10", *words)
    assert (folder / "explorer.html").exists()
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = runs.read_checkpoint(path)
    # Noise, because an untrained generator makes grey pictures
    for state in (checkpoint["state_dict"], checkpoint["ema"]):
        for name, value in state.items():
            if value.dim() > 1 and name.startswith("generator"):
                value.add_(0.2 * torch.randn(value.shape))
    torch.save(checkpoint, path)
    assert explorer.explore(folder, data_of(folder)) is None
    return folder


def data_of(run):
    data = config.build(config.read_frozen(run)["data"])
    data.prepare_data()
    data.setup()
    return data


def content_of(page):
    return json.loads(page.read_text().partition('id="data">')[2].partition("</script>")[0])


def test_a_run_leaves_the_page_and_its_report_links_it(run):
    page = (run / "explorer.html").read_text()
    assert 'href="explorer.html"' in (run / "report.html").read_text()
    assert 'href="report.html"' in page
    assert "://" not in page
    content = content_of(run / "explorer.html")
    assert content["shape"] == [1, 16, 16] and content["num_classes"] == 10
    assert "training images" in content["about"]
    shares = content["shares"]
    assert len(shares) == 10 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1


def test_the_report_says_why_there_is_no_page(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.setattr(explorer, "MAX_BYTES", 10)
    reason = explorer.explore(tmp_path / "run", data_of(run))
    assert "format=explorer" in reason and not (tmp_path / "run" / "explorer.html").exists()
    path = tmp_path / "run" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"no_explorer": reason}))
    report = html.write_report(tmp_path / "run").read_text()
    assert reason.partition("`")[0] in report


def test_directions_of_a_generator_alone_are_those_in_which_pictures_change():
    class Stretch(torch.nn.Module):
        def forward(self, z, labels=None):
            return z * torch.tensor([1.0, 3.0, 0.5, 2.0])

    stretch = images.Verb(Stretch(), "decode", torch.zeros(5, 4))
    found = explorer.measured_directions(stretch, torch.randn(8, 4))
    halves = bytearray(base64.b64decode(found["directions"]))
    rows = torch.frombuffer(halves, dtype=torch.float16).view(4, 4).float()
    assert torch.allclose(rows, torch.eye(4)[[1, 3, 0, 2]], atol=1e-3)
    squares = [9, 4, 1, 0.25]
    expected = [square / sum(squares) for square in squares]
    assert found["shares"] == pytest.approx(expected, rel=1e-3)


def picture(page, name):
    seen = (
        f"[...document.getElementById('{name}').getContext('2d').getImageData(0, 0, 16, 16).data]"
    )
    return torch.tensor(page.evaluate(seen)).float().view(16, 16, 4)[..., 0]


def test_the_page_in_a_browser(run, opened, tmp_path):
    model = genlab.load(run)
    x = data_of(run).pick("val", 2)["image"]
    grey = x[1, 0].add(1).mul(127.5).round().byte()
    Image.fromarray(grey.numpy()).save(tmp_path / "dropped.png")
    phone = {"viewport": {"width": 390, "height": 800}, "color_scheme": "dark"}
    with opened(run / "explorer.html", **READY, **phone) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 28)"
        page.select_option("#label", "3")
        page.set_input_files("#file", tmp_path / "dropped.png")
        page.wait_for_selector("#seen:not([hidden])")
        want = model.reconstruct(x[1:], labels=torch.tensor([3]))[0, 0].add(1).mul(127.5)
        assert (picture(page, "given") - grey).abs().max() <= 1
        assert (picture(page, "again") - want).abs().max() <= 2 and want.std() > 1
        page.locator("#sliders input").first.focus()
        before = float(page.input_value("#sliders input >> nth=0"))
        page.keyboard.press("ArrowRight")
        after = float(page.input_value("#sliders input >> nth=0"))
        assert after == pytest.approx(before + 0.05, abs=0.051)
        page.locator("#between").focus()
        page.keyboard.press("End")
        page.wait_for_function("document.body.dataset.ready > 2")
        page.wait_for_timeout(100)
        assert torch.equal(picture(page, "picture"), picture(page, "b"))
        page.keyboard.press("Home")
        page.wait_for_timeout(100)
        assert torch.equal(picture(page, "picture"), picture(page, "a"))
        assert not torch.equal(picture(page, "a"), picture(page, "b"))
        page.locator("#held button").first.press("Enter")
        page.locator("#to-a").press("Enter")
        page.wait_for_timeout(100)
        assert torch.equal(picture(page, "picture"), picture(page, "a"))


def test_a_generator_alone_has_a_page_with_its_classes(trained_in, tiny, opened, tmp_path):
    words = [word for word in tiny if not word.startswith("explorer")]
    labels = ["net/modulation=conditional", "model.num_classes=10", "data=digits"]
    trained_in(tmp_path / "run", "model=dcgan", *labels, *words)
    content = content_of(tmp_path / "run" / "explorer.html")
    assert content["encode"] is None and content["held_out"] is None
    assert "change most" in content["about"]
    with opened(tmp_path / "run" / "explorer.html", **READY) as page:
        assert page.locator("#label option").count() == 10 and page.locator("#file").count() == 0
        page.locator("#random").press("Enter")
        page.select_option("#label", "7")
        page.locator("#play").press("Enter")
        # Polled from here, because the page's policy forbids wait_for_function's own script
        while page.evaluate("+document.body.dataset.ready") <= 3:
            page.wait_for_timeout(50)
