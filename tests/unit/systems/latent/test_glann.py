"""GLO, GLANN and IMLE: whose code moves, which noise is matched, and a resume inside each stage."""

import pytest
import torch

import genlab
from genlab import config
from genlab.losses.gan import Hinge
from genlab.losses.reconstruction import L2, Laplacian
from genlab.metrics.neighbours import nearest
from genlab.models.glann import Generator, Mapping
from genlab.runs import read_checkpoint
from genlab.systems.latent import glann as module
from genlab.systems.latent.codes import initial_codes
from genlab.systems.latent.glann import GLANN, block_sizes
from genlab.systems.latent.glo import GLO
from genlab.systems.latent.imle import IMLE
from genlab.systems.latent.inversion import refine

TINY = [
    "data=digits",
    "data.image_size=16",
    "data.num_train=100",
    "data.batch_size=20",
    "net.generator.hidden_dim=4",
]
TINY += [
    "net.generator.hidden_dim=32",
    "trainer=cpu",
    "trainer.val_check_interval=1000",
    "trainer.log_every_n_steps=1",
]
TINY += [
    "callbacks.grids=null",
    "callbacks.quality=null",
    "evaluate=false",
    "loss=l2",
    "model.latent_dim=8",
]


def build(cls=GLO, count=30, **options):
    torch.manual_seed(0)
    net = {
        "generator": Generator(16, 1, 6, hidden_dim=4, dense_dim=32),
        "mapping": Mapping(3, 6, 12),
    }
    system = cls(net, options.pop("loss", Laplacian(2)), 6, torch.optim.SGD, **options).eval()
    system.codes.allocate(torch.randn(count, 6))
    for norm in system.generator.modules():  # so that eval mode makes varied images
        if hasattr(norm, "running_var"):
            norm.running_var.fill_(0.05)
    return system


def trained(trained_in, run_dir, *words):
    trained_in(run_dir, *TINY, *words)
    return read_checkpoint(run_dir / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("space", ["sphere", "ball"])
def test_each_image_has_its_own_code_wherever_it_lies_in_the_shuffle(
    space, trained_in, tmp_path, composed
):
    words = [
        "model=glo",
        f"model.space={space}",
        "trainer.max_steps=300",
        "data.num_train=60",
        "model.halve_every=0",
    ]
    trained(trained_in, tmp_path / "run", *words)
    model = genlab.load(tmp_path / "run")

    data = config.build(config.resolve(composed(f"run={tmp_path / 'run'}"))["data"])
    data.setup()
    batch = data.pick("train", 60)
    again = model.decode(model.stored_codes()[batch["index"]])
    error = (again - batch["image"]).square().mean((1, 2, 3))
    shifted = (again.roll(1, 0) - batch["image"]).square().mean((1, 2, 3))
    assert error.mean() < 0.5 * shifted.mean() and (error < shifted).double().mean() > 0.9
    assert model.codes.moves.tolist() == [100] * 60  # 300 steps of 20 on 60 images
    norms = model.stored_codes().norm(dim=1)
    assert (norms <= 1 + 1e-6).all() and (space == "ball" or torch.allclose(norms, torch.ones(60)))


def test_a_step_moves_the_codes_of_its_batch_alone(trained_in, tmp_path):
    run = trained(trained_in, tmp_path / "run", "model=glo", "trainer.max_steps=3")
    moves = run["state_dict"]["codes.moves"]
    assert moves.sum() == 60 and moves.max() == 1


@pytest.mark.parametrize("stop", [3, 7, 9, 14])  # in GLO's first and second epoch, in IMLE's
@pytest.mark.parametrize(
    "option", ["model.reset_optimizer=true", "trainer.accumulate_grad_batches=2"]
)
def test_a_resume_inside_either_stage_is_exact(stop, option, trained_in, tmp_path, same_weights):
    words = ["model=glann", "model.glo_steps=7", option]
    whole = trained(trained_in, tmp_path / "a", *words, "trainer.max_steps=16")
    trained(trained_in, tmp_path / "b", *words, f"trainer.max_steps={stop}")
    trained_in(tmp_path / "b", f"run={tmp_path / 'b'}", "trainer.max_steps=16")
    same_weights(read_checkpoint(tmp_path / "b" / "checkpoints" / "last.ckpt"), whole)
    assert whole["global_step"] == 16


def test_each_stage_moves_its_own_parts(trained_in, tmp_path):
    states = [
        trained(
            trained_in,
            tmp_path / str(n),
            "model=glann",
            "model.glo_steps=7",
            f"trainer.max_steps={n}",
        )["state_dict"]
        for n in (3, 7, 8, 15)
    ]

    def same(one, other, part):
        return all(
            torch.equal(value, other[name]) for name, value in one.items() if name.startswith(part)
        )

    first, glo, imle, last = states
    assert same(first, glo, "mapping")
    assert not same(first, glo, "generator") and not same(first, glo, "codes.values")
    assert same(glo, last, "generator") and same(imle, last, "codes")
    assert not same(imle, last, "mapping")
    assert glo["codes.mean"].shape == (100, 8) and imle["codes.mean"].shape == (0, 8)
    torch.testing.assert_close(imle["codes.values"].norm(dim=1), torch.ones(100))
    assert len(glo["matches.noise"]) == 0
    assert imle["matches.noise"].shape == (100, 32) and imle["matches.begun"] == 7
    assert same(imle, last, "matches.begun")
    assert not same(imle, last, "matches.noise")  # drawn anew at each epoch


def test_rates_are_halved_by_passes_of_their_stage(trained_in, tmp_path):
    words = [
        "model=glann",
        "model.glo_steps=12",
        "model.halve_every=1",
        "model.mapping_halve_every=2",
    ]
    state = trained(trained_in, tmp_path / "run", *words, "trainer.max_steps=24")
    rates = {g["name"]: g["lr"] for g in state["optimizer_states"][0]["param_groups"]}
    # Steps 0 to 23 in epochs of 5; those of IMLE are 12 to 23.
    assert rates == {"generator": 1e-3 * 0.5**4, "mapping": 1e-3 * 0.5}


def prepared(monkeypatch, **options):
    """A GLANN with as much of a trainer as a match asks for."""
    system = build(GLANN, glo_steps=0, **options)
    system.codes.project()
    trainer = type("Trainer", (), {"is_global_zero": True, "world_size": 1, "global_step": 0})()
    monkeypatch.setattr(GLANN, "trainer", trainer)
    monkeypatch.setattr(system, "log", lambda *a, **k: None)
    return system


@pytest.mark.parametrize("block", [1 << 14, 25])
def test_each_code_is_matched_with_the_noise_whose_code_is_nearest(block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    system = prepared(monkeypatch, num_candidates=3.0)
    system.mapping.train()
    before = {name: value.clone() for name, value in system.mapping.state_dict().items()}
    torch.manual_seed(5)
    system.match()
    torch.manual_seed(5)
    noise = torch.cat([torch.randn(size, 3) for size in block_sizes(90)])
    mapped = torch.cat(
        [system.mapping(e) for e in noise.split(block_sizes(90))]
    ).detach()  # in batches' statistics
    distances = (system.codes.values[:, None].double() - mapped[None].double()).square().sum(2)
    assert torch.equal(system.matches.noise, noise[distances.argmin(1)])
    system.mapping.load_state_dict(before)
    system.match()
    assert all(
        torch.equal(value, before[name]) for name, value in system.mapping.state_dict().items()
    )


def test_candidates_are_drawn_in_blocks_of_equal_size():
    assert block_sizes(10) == [10] and sum(block_sizes(100_003)) == 100_003
    assert max(block_sizes(100_003)) - min(block_sizes(100_003)) <= 1


def test_the_sampler_is_the_gaussian_until_the_mapping_is_trained_and_can_be_chosen():
    system = build(GLANN, glo_steps=5)
    assert torch.equal(system.prior(4, 1), system.draw_gaussian(4, 1))
    system.matches.noise = torch.zeros(30, 3)
    assert torch.equal(system.prior(4, 1), system.map_noise(4, 1))
    system.sampler = "gaussian"
    assert torch.equal(system.prior(4, 1), system.draw_gaussian(4, 1))


def test_the_fitted_gaussian_has_the_codes_moments_before_it_is_projected():
    system = build(space="ball", count=400)
    system.codes.values.mul_(0.02).add_(0.1)  # so far inside that no sample is projected
    drawn = system.draw_gaussian(40_000, 0)
    torch.testing.assert_close(drawn.mean(0), system.codes.values.mean(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        torch.cov(drawn.T), torch.cov(system.codes.values.T), atol=1e-5, rtol=0
    )


def test_batch_statistics_are_those_of_the_batch_and_leave_no_trace():
    system = build(batch_statistics=True)
    z = system.stored_codes()
    state = {name: value.clone() for name, value in system.state_dict().items()}
    images = system.decode(z)
    assert all(torch.equal(value, state[name]) for name, value in system.state_dict().items())
    assert not any(m.training for m in system.modules())
    twin = build()
    plain = twin.decode(z)
    twin.generator.train()
    torch.testing.assert_close(images, twin.generator(z).detach())
    assert not torch.allclose(images, plain)


def test_refinement_finds_the_codes_of_the_generators_own_images():
    system = build(count=600)
    z = system.codes.inside(torch.randn(7, 6))
    images = system.decode(z)
    codes = system.encode(images)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(7))
    begun = system.decode(system.codes.inside(system.codes.values)).flatten(1)
    start = nearest(images.flatten(1), begun).distances.square().mean() / 256
    assert (system.decode(codes) - images).square().mean() < 0.01 * start


def test_an_image_is_done_when_its_distance_falls_no_more():
    counted = []
    target = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])

    def render(z):
        counted.append(len(z))
        return z

    start = torch.tensor([[1.0, 0.0, 0.0], [0.6, -0.6, 0.5]])  # the first is there already
    found = refine(
        render, lambda a, b: (a - b).square().sum(1), target, start, "sphere", max_steps=5000
    )
    torch.testing.assert_close(found, target, atol=2e-3, rtol=0)
    assert counted[0] == 2 and counted[-1] == 1 and len(counted) < 2000
    counted.clear()
    refine(render, lambda a, b: (a - b).square().sum(1), target, start, "sphere", max_steps=7)
    assert len(counted) == 8


def test_codes_are_searched_for_under_inference_mode_too():
    system = build()
    with torch.inference_mode():
        images = system.decode(system.stored_codes()[:3])
        assert system.encode(images, max_steps=5).shape == (3, 6)
    assert not any(p.grad is not None for p in system.parameters())


@pytest.mark.parametrize("per_batch", [False, True])
def test_generated_images_are_the_decoded_ones_with_gradients(per_batch):
    system = build(batch_statistics=per_batch)
    z = torch.randn(3, 6).requires_grad_()
    images = system.generate_images(z)
    assert torch.equal(images, system.decode(z.detach()))
    (gradient,) = torch.autograd.grad(images.sum(), z)
    assert gradient.abs().sum() > 0


def test_imle_pulls_the_nearest_fake_to_each_image():
    net = {"generator": Generator(16, 1, 6, hidden_dim=4, dense_dim=32)}
    system = IMLE(net, L2(), 6, torch.optim.SGD)
    x = torch.rand(5, 1, 16, 16, dtype=torch.double)
    fake = torch.rand(9, 1, 16, 16, dtype=torch.double, requires_grad=True)
    loss, used = system.objective(x, fake)
    squares = (x[:, None] - fake[None]).square().mean((2, 3, 4))
    torch.testing.assert_close(loss, squares.min(1).values.mean())
    assert used.item() == pytest.approx(len(set(squares.argmin(1).tolist())) / 9)
    (gradient,) = torch.autograd.grad(loss, fake)
    touched = gradient.abs().sum((1, 2, 3)).nonzero()[:, 0].tolist()
    assert touched == sorted(set(squares.argmin(1).tolist()))


def test_parts_that_do_not_fit_are_refused_by_key():
    for cls, options in ((GLO, {}), (IMLE, {}), (GLANN, {"glo_steps": 1})):
        net = {"generator": Generator(16, 1, 6, hidden_dim=4), "mapping": Mapping(3, 6)}
        with pytest.raises(ValueError, match=r"^loss: "):
            cls(net, Hinge(), 6, torch.optim.SGD, **options)
        with pytest.raises(ValueError, match=r"^net\.discriminator: "):
            cls(net | {"discriminator": torch.nn.Linear(1, 1)}, L2(), 6, torch.optim.SGD, **options)
    with pytest.raises(ValueError, match=r"^net\.mapping: "):
        GLANN(
            {"generator": Generator(16, 1, 6, hidden_dim=4)}, L2(), 6, torch.optim.SGD, glo_steps=1
        )
    with pytest.raises(ValueError, match=r"^model\.glo_steps=-1"):
        build(GLANN, glo_steps=-1)
    with pytest.raises(ValueError, match=r"^code_scale=0\.9"):
        build().reconstruct(torch.zeros(1, 1, 16, 16), 0.9)


def test_codes_begin_as_the_principal_components_of_the_images():
    images = torch.randint(
        0, 256, (40, 1, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    # Some directions have more variance than others.
    images[:, :, 0] = images[:, :, 1] // 2 + images[:, :, 2] // 3
    state = torch.get_rng_state()
    codes = initial_codes(images, 6, "pca", 0)
    assert torch.equal(torch.get_rng_state(), state)

    centred = (images.double() / 127.5 - 1).flatten(1)
    centred -= centred.mean(0)
    left, deviations, _ = torch.linalg.svd(centred, full_matrices=False)
    scores = left[:, :6] * deviations[:6]
    scores *= (scores * codes).sum(0).sign()  # a component has two directions
    torch.testing.assert_close(
        codes.double(), scores / scores.norm(dim=1, keepdim=True), atol=1e-4, rtol=0
    )


def test_codes_that_cannot_begin_so_are_refused_by_key():
    images = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(
        ValueError,
        match=r"^model\.code_init=pca: .*model\.latent_dim=4",
    ):
        initial_codes(images, 8, "pca", 0)
    with pytest.raises(ValueError, match=r"^model\.code_init='random'"):
        initial_codes(images, 2, "random", 0)
    assert initial_codes(images, 3, "pca", 0).isfinite().all()  # black images alone
