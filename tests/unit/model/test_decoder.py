"""The networks and losses of the training."""

import numpy as np
import pytest
import torch

from qshower.model.decoder import SampledDecoder, ShowerView
from qshower.model.decoder_shape import DecoderShape
from qshower.model.encoder import Encoder, EncoderShape, bernoulli_entropy, relaxed_spins, shower_features
from qshower.model.geometry import named_geometry
from qshower.model.grid import Grid
from qshower.model.layers import energy_features
from qshower.model.losses import divergence, squared_error_loss
from qshower.model.rbm import RBM
from qshower.sampler.lattice import compact_lattice


def small_shape(name: str = "1-photons", memory: int = 2) -> DecoderShape:
    grid = Grid.of(named_geometry(name))
    sizes = {"trunk": 24, "layer_code": 8, "layer_hidden": 16, "profile_memory": memory}
    return DecoderShape(12, grid.angular_bins, grid.radial_bins, 1e3, 1e6, **sizes)


def test_activation_density_matches_the_plain_formula() -> None:
    """The gather over struck angular bins against the same sum over every voxel."""
    torch.manual_seed(5)
    shape = small_shape("2")
    decoder = SampledDecoder(shape)
    showers = torch.rand(3, *shape.grid.shape) * (torch.rand(3, *shape.grid.shape) < 0.05)
    view = ShowerView.of(showers, torch.tensor([1e3, 1e4, 1e5]))
    code = torch.randn(3, 45, 16, shape.voxel_channels)
    _, activation = decoder.voxels.log_likelihood(code, view)
    outputs = decoder.voxels.activation(code)[view.hit].double()
    weight = torch.softmax(outputs[:, :3], dim=1)
    scale = torch.exp(-1.5 + 3.5 * torch.tanh((outputs[:, 6:] + 1.5) / 3.5))
    each = torch.distributions.Normal(outputs[:, 3:6], scale).log_prob(view.log_activation.double().unsqueeze(1)).exp()
    expected = torch.zeros(3, dtype=torch.float64).index_add(
        0, view.hit.nonzero()[:, 0], (weight * each).sum(dim=1).log()
    )
    torch.testing.assert_close(activation.double(), expected, rtol=1e-5, atol=1e-3)


def test_reference_losses_have_their_published_weights() -> None:
    u = torch.tensor([[[[0.0, 2.0]]]])
    prediction = torch.tensor([[[[1.0, 1.0]]]])
    logits = torch.zeros_like(u)
    cross_entropy = 2 * np.log(2)
    published = 0.01 * (1 * 1 + 1 * np.exp(1.0)) + cross_entropy
    assert squared_error_loss(u, prediction, logits).item() == pytest.approx(published, rel=1e-6)
    update = 0.01 * (np.exp(-0.7) + np.exp(0.2) + np.exp(0.7) + np.exp(-0.2)) + cross_entropy
    assert squared_error_loss(u, prediction, logits, high=0.7, low=0.2).item() == pytest.approx(update, rel=1e-6)


def test_relaxed_bits_follow_the_posterior_and_pass_gradients() -> None:
    logits = torch.full((40_000, 1), 0.8, requires_grad=True)
    noise = torch.from_numpy(np.random.default_rng(3).logistic(size=(40_000, 1)).astype(np.float32))
    hard = relaxed_spins(logits, noise, 2.0, hard=True)
    assert set(hard.detach().unique().tolist()) == {-1.0, 1.0}
    # Five standard deviations of a mean of 40,000 bits: a false alarm in 1.7 million.
    assert (hard.detach() > 0).float().mean().item() == pytest.approx(1 / (1 + np.exp(-0.8)), abs=5 * 0.5 / 200)
    hard.sum().backward()
    assert logits.grad is not None
    assert bool((logits.grad >= 0).all())
    assert logits.grad.mean() > 0.1
    soft = relaxed_spins(torch.tensor([[0.3]]), torch.tensor([[0.1]]), 5.0, hard=False)
    assert soft.item() == pytest.approx(2 / (1 + np.exp(-2.0)) - 1, rel=1e-5)


def test_entropy_of_independent_bits() -> None:
    p = 1 / (1 + np.exp(-1.3))
    each = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert bernoulli_entropy(torch.full((1, 4), 1.3)).item() == pytest.approx(4 * each, rel=1e-6)


def test_prior_energies_and_gradients_are_those_of_the_machine(rng: np.random.Generator) -> None:
    lattice = compact_lattice("zephyr", 8)
    h, j = rng.normal(size=lattice.node_count), rng.normal(size=len(lattice.edges))
    machine = lattice.with_parameters(h.astype(np.float32), j.astype(np.float32))
    rbm = RBM(machine)
    spins = rng.choice([-1, 1], (20, machine.node_count)).astype(np.int8)
    others = rng.choice([-1, 1], (30, machine.node_count)).astype(np.int8)
    data, model = torch.from_numpy(spins).float(), torch.from_numpy(others).float()
    np.testing.assert_allclose(rbm.energy(data).detach(), machine.energies(spins), rtol=1e-4, atol=1e-4)
    loss = divergence(torch.zeros(20, 1), rbm.energy(data), rbm.energy(model))
    loss.backward()
    biases, couplings = rbm.contrast(data, model)
    free = torch.from_numpy(machine.partitions != 0)
    assert not biases[~free].any()
    assert rbm.h.grad is not None
    torch.testing.assert_close(rbm.h.grad[free], biases[free], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rbm.j.grad, couplings, rtol=1e-4, atol=1e-5)


def test_encoder_levels_see_the_levels_before() -> None:
    torch.manual_seed(0)
    shape = small_shape("2")
    encoder = Encoder(EncoderShape((4, 4, 4), 16, 16), shape)
    showers = torch.rand(2, *shape.grid.shape) * (torch.rand(2, *shape.grid.shape) < 0.1)
    energies = torch.tensor([2e3, 3e5])
    features = shower_features(showers, ShowerView.of(showers, energies))
    energy = energy_features(shape, energies)
    noise = torch.zeros(2, 12)
    _, plain = encoder(features, energy, noise, 1.0, hard=True)
    noise[:, 0] = 50.0 * -torch.sign(plain[:, 0])
    _, flipped = encoder(features, energy, noise, 1.0, hard=True)
    torch.testing.assert_close(flipped[:, :4], plain[:, :4])
    assert (flipped[:, 4:8] != plain[:, 4:8]).any()
    assert (flipped[:, 8:] != plain[:, 8:]).any()
