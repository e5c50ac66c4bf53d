"""The LocUNet-like rival: its centroid, its symmetries, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_world import default_atlas, draw_reports, made_up_city

from ueloc_core.errors import ModelError
from ueloc_core.localization.locunet import LocUNet, distance_loss, train_locunet
from ueloc_core.localization.training import Samples
from ueloc_core.localization.windows import SYMMETRIES, WindowReader, turn_raster
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.radio.link import timing_advance_step_m

CITY = made_up_city(training={"epochs": 2, "batch_size": 4, "reports_per_epoch": 16})


@pytest.fixture(scope="module")
def reader():
    return WindowReader(
        default_atlas(), MeasurementModel(CITY.measurements, CITY.radio, MapError(core_db=1.0))
    )


@pytest.fixture(scope="module")
def samples(reader):
    reports, x_m, y_m = draw_reports(default_atlas(), 12, seed=17)
    return Samples(reports, reader.frame_positions(reports.sector[:, 0].numpy(), x_m, y_m))


@pytest.fixture(scope="module")
def batch(reader, samples):
    return reader.read(samples.reports, samples.truth_m)


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return LocUNet(CITY.grid.cell_m).eval()


def test_it_is_small(network):
    assert sum(p.numel() for p in network.parameters()) < 300_000


def test_heatmaps_sum_to_one_and_their_mean_is_the_estimate(network, batch):
    heat = network.heatmap(batch)
    assert heat.shape == (len(batch), batch.cells // 2, batch.cells // 2)
    torch.testing.assert_close(heat.sum(dim=(1, 2)), torch.ones(len(batch)))
    n = heat.shape[-1]
    axis = (torch.arange(n) + 0.5 - n / 2) * 8.0
    expected = torch.stack([(heat * axis).sum((1, 2)), (heat * axis[:, None]).sum((1, 2))], 1)
    torch.testing.assert_close(network.locate(batch), expected, atol=1e-3, rtol=1e-4)


def test_all_heat_in_a_cell_is_its_centre(network):
    heat = torch.full((1, 32, 32), -torch.inf)
    heat[0, 30, 3] = 0.0
    expected = torch.tensor([[(3.5 - 16) * 8.0, (30.5 - 16) * 8.0]])
    torch.testing.assert_close(network.centroid(heat), expected)


def test_the_order_of_neighbours_does_not_count(reader, samples, network, batch):
    order = torch.tensor([0, 3, 1, 2, *range(4, batch.tokens.shape[1])])
    per_slot = ("sector", "rsrp", "rsrq", "sinr")
    changed = {name: getattr(samples.reports, name)[:, order] for name in per_slot}
    other = reader.read(replace(samples.reports, **changed), samples.truth_m)
    assert not torch.equal(other.reports.rsrp, batch.reports.rsrp)
    torch.testing.assert_close(network.locate(other), network.locate(batch), atol=0.01, rtol=1e-4)


def test_the_serving_level_counts(reader, samples, network, batch):
    louder = samples.reports.rsrp.clone()
    louder[:, 0] += 20
    other = reader.read(replace(samples.reports, rsrp=louder), samples.truth_m)
    assert not torch.allclose(network.locate(other), network.locate(batch), atol=1e-3)


def test_an_empty_slot_holds_nothing(reader, samples, network):
    """What stands in it does not count."""
    sector = samples.reports.sector.clone()
    sector[:, -1] = -1
    levels = [samples.reports.rsrp.clone() for _ in range(2)]
    levels[1][:, -1] = 90
    one, two = (
        network.locate(reader.read(replace(samples.reports, sector=sector, rsrp=level)))
        for level in levels
    )
    torch.testing.assert_close(one, two)


def from_all_sides(network):
    """Make its kernels look alike from all sides."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                every = [turn_raster(module.weight, s) for s in range(SYMMETRIES)]
                module.weight.copy_(torch.stack(every).mean(dim=0))
    return network


@pytest.mark.parametrize("symmetry", [1, 4, 6])
def test_its_heatmap_lies_in_the_true_frame(reader, samples, network, batch, symmetry):
    """Kernels that look alike from all sides give the same one in every symmetry."""
    turned = reader.read(samples.reports, samples.truth_m, np.full(len(samples), symmetry))
    alike = LocUNet(CITY.grid.cell_m).eval()
    alike.load_state_dict(network.state_dict())
    from_all_sides(alike)
    torch.testing.assert_close(alike.heatmap(turned), alike.heatmap(batch), atol=1e-6, rtol=1e-3)
    assert not torch.allclose(network.heatmap(turned), network.heatmap(batch), atol=1e-6, rtol=1e-3)


def test_windows_need_not_be_multiples_of_eight(network, batch):
    """Half-resolution windows of 28 pixels: padded, and cut again."""
    heat = network.heatmap(replace(batch, blocks=14))
    assert heat.shape == (len(batch), 28, 28)
    torch.testing.assert_close(heat.sum(dim=(1, 2)), torch.ones(len(batch)))


def test_timing_reaches_it(reader, samples, network):
    """The plane holds the reported length, zero and a flag where none is reported."""
    code = torch.full((len(samples),), 3)
    batches = [
        reader.read(replace(samples.reports, ta=ta), samples.truth_m)
        for ta in (torch.full_like(code, -1), code)
    ]
    planes = [network._planes(b)[:, -2:, 0, 0] for b in batches]
    assert (planes[0] == 0).all()
    scale_m = reader.cells * reader.cell_m / 8
    expected = (3 * timing_advance_step_m(CITY.radio.numerology) - scale_m) / scale_m
    torch.testing.assert_close(planes[1], torch.tensor([[expected, 1.0]]).expand(12, 2))


def test_distance_to_the_site_is_measured_from_the_site(network, batch):
    """The plane's least value is in the cell of the serving sector."""
    plane = network._planes(batch)[:, -3]
    n = plane.shape[-1]
    site = ((batch.tokens[:, 0, 9:11] + 1) * n / 2).floor().long()
    inside = ((site >= 0) & (site < n)).all(dim=1)
    assert inside.any()
    least = plane.flatten(1).argmin(dim=1)
    expected = site[:, 1] * n + site[:, 0]
    assert torch.equal(least[inside], expected[inside])


@pytest.mark.slow
def test_it_learns_a_handful_of_reports_by_heart(batch):
    torch.manual_seed(0)
    network = LocUNet(CITY.grid.cell_m)
    few = batch[:4]
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    before = float(distance_loss(network, few).detach())
    for _ in range(150):
        optimiser.zero_grad()
        loss = distance_loss(network, few)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.15 * before


@pytest.mark.slow
def test_training_repeats_itself_and_keeps_the_best_epoch(reader, samples, tmp_path):
    runs = [train_locunet(CITY, reader, samples, samples) for _ in range(2)]
    (network, history), (again, repeated) = runs
    np.testing.assert_allclose(history.distance_m, repeated.distance_m, rtol=1e-4)
    assert not network.training
    batch = reader.read(samples.reports, samples.truth_m)
    least = history[history.split == "validation"].distance_m.min()
    assert float(distance_loss(network, batch).detach()) == pytest.approx(least, rel=1e-4)
    network.save(tmp_path / "locunet.pt")
    loaded = LocUNet.load(tmp_path / "locunet.pt")
    torch.testing.assert_close(loaded.locate(batch), network.locate(batch))
    torch.testing.assert_close(again.locate(batch), network.locate(batch), atol=0.1, rtol=1e-3)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    path = tmp_path / "locunet.pt"
    with pytest.raises(ModelError, match=r"locunet\.pt"):
        LocUNet.load(path)
    torch.save({"weights": {}, "cell_m": 4.0}, path)
    with pytest.raises(ModelError, match=r"locunet\.pt"):
        LocUNet.load(path)


def test_a_report_without_a_position_stops_training(reader, samples):
    lost = Samples(samples.reports, np.full_like(samples.truth_m, np.nan))
    with pytest.raises(ModelError, match="the loss is nan"):
        train_locunet(CITY, reader, lost, samples)


@pytest.mark.parametrize(("budget", "read"), [(8, 8), (None, 24)])
def test_its_budget_is_kept(reader, samples, monkeypatch, budget, read):
    """As many reports as its file names, or as the network is trained on."""
    evaluation = CITY.evaluation.model_copy(update={"locunet_reports": budget})
    original, trained_on = reader.read, []

    def counted(reports, truth_m=None, symmetry=None):
        trained_on.extend([] if symmetry is None else symmetry)
        return original(reports, truth_m, symmetry)

    monkeypatch.setattr(reader, "read", counted)
    train_locunet(CITY.model_copy(update={"evaluation": evaluation}), reader, samples, samples)
    assert len(trained_on) == read
