"""Test the training helpers of both frameworks, recipes, and growth during training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from deeptn_jax import train as jax_train
from deeptn_torch import core_groups, shrink, train
from torch import nn

import deeptn as dtn
from deeptn.recipe import Recipe

from ..toy import X, Y, data, forward, model, to_jax


@pytest.mark.parametrize(("total", "warmup"), [(2, 0.3), (10, 0.3), (333, 0.3), (333, 0.1)])
def test_one_cycle_is_pytorchs(total, warmup):
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=total, pct_start=warmup)
    recipe = Recipe(epochs=1, warmup=warmup)
    for step in range(total):
        group = optimizer.param_groups[0]
        assert recipe.at(step, total) == pytest.approx((group["lr"], group["betas"][0]), abs=1e-12)
        optimizer.step()
        if step < total - 1:
            schedule.step()


def test_other_schedules():
    cosine = [Recipe(epochs=1, schedule="cosine", warmup=0.2).at(step, 100)[0] for step in range(100)]
    assert np.argmax(cosine) == 20
    assert max(cosine) == 1.0
    assert cosine[0] < 0.06
    assert cosine[-1] < 0.01
    flat = [Recipe(epochs=1, schedule="constant", warmup=0.1).at(step, 100)[0] for step in range(100)]
    assert flat[9] < flat[10] == flat[-1] == 1.0
    assert Recipe(epochs=1, schedule="constant", warmup=0.0).at(0, 5) == (1.0, 0.9)
    assert Recipe(epochs=1, warmup=0.0).at(0, 1)[0] <= 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch", 1.5),
        ("lr", -1.0),
        ("core_lr", float("nan")),
        ("clip", 0.0),
        ("warmup", 1.5),
        ("distill", -0.1),
        ("decay", float("inf")),
        ("schedule", "linear"),
        ("grow", 3),
        ("grow", ((0, 0),)),
        ("temperature", True),
        ("grow", ((1.9, 4),)),
        ("grow", ((-1, 4),)),
        ("grow", ((1, 4),)),
        ("decay", 1000.0),
    ],
)
def test_bad_recipes(field, value):
    with pytest.raises(dtn.SpecError, match=r"Recipe|size"):
        Recipe(**{"epochs": 1, field: value})


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(epochs=5, lr=0.01, core_lr=0.03, batch=96),
        Recipe(epochs=5, lr=0.01, batch=96, schedule="cosine", clip=0.05, decay=0.5),
        Recipe(epochs=5, lr=0.01, batch=96, schedule="constant", distill=0.6, temperature=2.0),
        Recipe(epochs=4, lr=0.01, batch=96, grow=((2, 3), (3, 4))),
    ],
    ids=["groups", "clip-decay", "distill", "grow"],
)
def test_both_frameworks_make_the_same_steps(recipe):
    net = model()
    start = to_jax(net)
    guide = model(seed=5)
    guide_params = to_jax(guide)
    guide_net, first = guide[0].network, net[0].network
    train(net, data(), recipe, seed=0, teacher=guide)
    with jax.enable_x64():
        start, guide_params = (
            jax.tree.map(lambda a: jnp.asarray(np.asarray(a), "float64"), t) for t in (start, guide_params)
        )
        guide_weights = guide_params | {"first": guide_net.materialize(guide_params["first"])}
        found = jax_train(
            forward, start, {"first": first}, X, Y, recipe, seed=0, teacher=lambda x: forward(guide_weights, x)
        )
        assert found.nets["first"] == net[0].network
        mine = to_jax(net)
        for (path, a), b in zip(jax.tree.leaves_with_path(found.params), jax.tree.leaves(mine), strict=True):
            assert np.allclose(a, b, rtol=1e-5, atol=1e-7), path


@pytest.mark.parametrize(
    "recipe", [Recipe(epochs=4, lr=0.01, batch=40), Recipe(epochs=4, batch=40, grow=((1, 3), (2, 4)))]
)
def test_training_goes_on_from_a_checkpoint(recipe, tmp_path):
    whole = model()
    train(whole, data(), recipe, seed=3)
    file = tmp_path / "half.pt"

    class Stop(Exception):
        pass

    steps = iter(range(100))

    def stop():
        if next(steps) == 7:  # in the third epoch
            raise Stop

    first = model()
    with pytest.raises(Stop):
        train(first, data(), recipe, seed=3, on_step=stop, checkpoint=file)
    second = model()
    train(second, data(), recipe, seed=3, checkpoint=file)
    for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    third = model()
    train(third, data(), recipe, seed=3, checkpoint=file)  # nothing is left to do
    assert torch.equal(third[0].weight, second[0].weight)
    with pytest.raises(dtn.FormatError, match="name another file"):
        train(model(), data(), recipe, seed=4, checkpoint=file)
    for other in (dtn.BrickWall(layers=2, activation="tanh"), dtn.BrickWall(layers=3)):  # the same shapes; a grown wall
        with pytest.raises(dtn.FormatError, match="written with networks ="):
            train(model(other), data(), recipe, seed=3, checkpoint=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(dtn.FormatError, match="not a training checkpoint"):
        train(model(), data(), recipe, seed=3, checkpoint=file)


@pytest.mark.slow
@pytest.mark.parametrize("grow", [(), pytest.param(((1, 3), (2, 4)), marks=pytest.mark.slow)], ids=["fixed", "grow"])
def test_training_in_jax_goes_on_from_a_checkpoint(grow, tmp_path):
    recipe = Recipe(epochs=4, lr=0.01, batch=40, grow=grow)
    net = model(dtype=torch.float32)
    start, nets = to_jax(net), {"first": net[0].network}
    x = X.astype("float32")
    whole = jax_train(forward, start, nets, x, Y, recipe, seed=3)
    file = tmp_path / "half.npz"
    steps = iter(range(100))

    def stop():
        if next(steps) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jax_train(forward, start, nets, x, Y, recipe, seed=3, on_step=stop, checkpoint=file)
    for _ in range(2):  # the second time nothing is left to do
        second = jax_train(forward, start, nets, x, Y, recipe, seed=3, checkpoint=file)
        assert second.nets == whole.nets
        for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(second.params), strict=True):
            assert np.array_equal(a, b)
    with pytest.raises(dtn.FormatError, match="name another file"):
        jax_train(forward, start, nets, x, Y, recipe, seed=4, checkpoint=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(dtn.FormatError, match="not a training checkpoint"):
        jax_train(forward, start, nets, x, Y, recipe, seed=3, checkpoint=file)


@pytest.mark.slow
def test_what_training_needs():
    net = model()
    with pytest.raises(dtn.DeepTNError, match="pass teacher="):
        train(net, data(), Recipe(epochs=1, distill=0.5), seed=0)
    with pytest.raises(dtn.DeepTNError, match="pass teacher="):
        jax_train(forward, to_jax(net), {}, X, Y, Recipe(epochs=1, distill=0.5), seed=0)
    with pytest.raises(dtn.SpecError, match="no cores for 'first' of nets"):
        jax_train(forward, {}, {"first": net[0].network}, X, Y, Recipe(epochs=1), seed=0)
    frozen = model().requires_grad_(False)
    with pytest.raises(dtn.DeepTNError, match="nothing to train"):
        train(frozen, data(), Recipe(epochs=1), seed=0)
    with pytest.raises(dtn.DeepTNError, match="lower the learning rate"):
        jax_train(forward, to_jax(net), {"first": net[0].network}, X * np.nan, Y, Recipe(epochs=1), seed=0)


@pytest.mark.parametrize(
    "family",
    [
        dtn.BrickWall(layers=3),
        dtn.TensorTrain(rank=3),
        dtn.Tree(rank=2),
        dtn.Sum(terms=(dtn.LowRank(), dtn.BrickWall())),
    ],
)
def test_shrink_scales_the_weight(family):
    net = model(family)
    before = net[0].weight.detach()
    shrink(net, 0.25)
    assert torch.allclose(net[0].weight, before / 4)
    net[0].cores.requires_grad_(False)
    shrink(net, 0.25)
    assert torch.allclose(net[0].weight, before / 4)


def test_decay_needs_a_weight_that_can_be_scaled():
    net = model(dtn.MERA(rank=2, shared=True))
    with pytest.raises(dtn.SpecError, match="shares parameters"):
        shrink(net, 0.5)


@pytest.mark.parametrize(
    ("family", "size"), [(dtn.BrickWall(layers=2), 5), (dtn.TensorTrain(rank=2), 4), (dtn.Tree(rank=2), 4)]
)
def test_a_layer_grows_and_keeps_its_weight(family, size):
    net = model(family)
    layer = net[0]
    before, old = layer.weight.detach(), layer.network.num_params
    assert layer.grow(size) < 1e-10
    assert layer.network.num_params > old
    assert torch.allclose(layer.weight, before)
    assert layer.grow(size) == 0.0
    layer.cores.requires_grad_(False)
    layer.grow(size + 1)
    assert not any(core.requires_grad for core in layer.cores.values())


@pytest.mark.parametrize("family", [dtn.LowRank(), dtn.BrickWall(), dtn.Sum(terms=(dtn.LowRank(), dtn.BrickWall()))])
def test_a_scale_of_its_own(family):
    net = dtn.fitting.with_scale(dtn.network(family, (12, 10)))
    params = net.init(dtype="float64")
    weight = net.materialize(params)
    assert np.isclose(np.sqrt((weight**2).mean()), np.sqrt(2 / 10), rtol=1e-3)
    assert np.allclose(net.materialize(params | {"scale": params["scale"] * 3}), 3 * weight)
    with pytest.raises(dtn.SpecError, match="already has a node or parameter 'scale'"):
        dtn.fitting.with_scale(net)


def test_a_plain_loop_is_as_good():
    recipe = Recipe(epochs=3, lr=0.01, core_lr=0.03, batch=40)
    mine, theirs = model(), model()
    train(mine, data(), recipe, seed=1)
    optimizer = torch.optim.Adam(core_groups(theirs, recipe))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [0.03, 0.01], total_steps=9)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for rows in torch.randperm(96, generator=generator).split(40):
            loss = nn.functional.cross_entropy(theirs(data().train_x[rows]), data().train_y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9)


WRONG_LABELS = {
    "negative": (Y - 1, "ranges from -1"),
    "too many": (Y + 1, "to 3; the logits have classes 0 to 2"),
    "short": (Y[:-1], "expected integers of shape"),
    "column": (Y[:, None], "expected integers of shape"),
    "float": (Y.astype(float), "dtype float64"),
}


@pytest.mark.parametrize(("labels", "match"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_wrong_labels(labels, match):
    net = model(dtype=torch.float32)
    with pytest.raises(dtn.SpecError, match=match):
        jax_train(forward, to_jax(net), {"first": net[0].network}, X, labels, Recipe(epochs=1), seed=0)


def test_what_jax_does_not_train():
    net = model(dtn.Tree(rank=2), dtype=torch.float32)
    params, nets = to_jax(net), {"first": net[0].network}
    with pytest.raises(dtn.SpecError, match="isometries cannot grow"):
        jax_train(forward, params, nets, X, Y, Recipe(epochs=2, grow=((1, 4),)), seed=0, isometric=True)
    with pytest.raises(dtn.SpecError, match="no node of any network is marked"):
        jax_train(forward, params, {}, X, Y, Recipe(epochs=1), seed=0, isometric=True)
    with pytest.raises(dtn.SpecError, match="complex entries"):
        jax_train(forward, params | {"bias": params["bias"] + 0j}, nets, X, Y, Recipe(epochs=1), seed=0)
    with pytest.raises(dtn.SpecError, match=r"expected \(rows, classes\)"):
        jax_train(lambda p, x: forward(p, x)[:, 0], params, nets, X, Y, Recipe(epochs=1), seed=0)


@pytest.mark.slow
def test_half_precision_in_jax(tmp_path):
    net = model(dtype=torch.float32)
    params = jax.tree.map(lambda a: a.astype("bfloat16"), to_jax(net))
    recipe, nets, file = Recipe(epochs=20, lr=0.02, batch=32), {"first": net[0].network}, tmp_path / "half.npz"
    found = jax_train(forward, params, nets, X.astype("float32"), Y, recipe, seed=0, checkpoint=file)
    assert found.loss < 0.7
    assert found.params["bias"].dtype == jnp.bfloat16
    again = jax_train(forward, params, nets, X.astype("float32"), Y, recipe, seed=0, checkpoint=file)
    assert again.loss == found.loss
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(found.params)))


def test_what_cannot_be_done_is_found_before_the_first_step():
    def never():
        raise AssertionError

    for family, recipe in (
        (dtn.BrickWall(layers=1), Recipe(epochs=2, grow=((1, 2),))),
        (dtn.Sum(terms=(dtn.LowRank(), dtn.BrickWall(layers=1))), Recipe(epochs=2, grow=((1, 2),))),
        (dtn.MERA(rank=2, shared=True), Recipe(epochs=1, decay=0.1)),
    ):
        with pytest.raises(dtn.SpecError):
            train(model(family), data(), recipe, seed=0, on_step=never)
    constrained = model(dtn.Tree(rank=2))
    constrained[0].constrain()
    with pytest.raises(dtn.SpecError, match="remove the constraint"):
        train(constrained, data(), Recipe(epochs=2, grow=((1, 4),)), seed=0, on_step=never)


def test_frozen_cores_stay_frozen_in_growth():
    net = model(dtn.TensorTrain(rank=2))
    net[0].cores["core0"].requires_grad_(False)
    net[0].grow(4)
    assert {name for name, core in net[0].cores.items() if not core.requires_grad} == {"core0"}
    net[0].cores.requires_grad_(False)
    train(net, data(), Recipe(epochs=2, grow=((1, 8),)), seed=0)
    assert net[0].network.topology.rank == 4


def test_layers_that_share_their_cores():
    a, b = model()[0], model()[0]
    b.cores = a.cores
    both = nn.Sequential(a, b)
    assert [len(group["params"]) for group in core_groups(both, Recipe(epochs=1))] == [len(a.cores), 2]
    before = a.weight.detach().clone()
    shrink(both, 0.5)
    assert torch.allclose(a.weight, before / 2)
    with pytest.raises(dtn.SpecError, match="would untie"):
        train(both, data(), Recipe(epochs=2, grow=((1, 3),)), seed=0)
    c = model()[0]
    c.cores["L1_g0"] = a.cores["L1_g0"]
    with pytest.raises(dtn.SpecError, match="share some of their cores"):
        shrink(nn.Sequential(a, c), 0.5)


def test_stale_gradients_of_frozen_parameters_do_not_count_in_clipping():
    mine, theirs = model(), model()
    for net in (mine, theirs):
        net[2].requires_grad_(False)
    mine[2].weight.grad = torch.full_like(mine[2].weight, 1e3)
    for net in (mine, theirs):
        train(net, data(), Recipe(epochs=1, clip=0.1), seed=0)
    assert torch.equal(mine[0].weight, theirs[0].weight)


@pytest.mark.parametrize("family", [dtn.BrickWall(layers=2), dtn.BrickWall(layers=3, residual=True, normalize=None)])
def test_a_little_noise_changes_little(family):
    net = dtn.network(family, (8, 16))
    assert dtn.fitting.deepen(net, net.init(dtype="float64"), noise=1e-6).error < 1e-4
    linear = dtn.network(dtn.BrickWall(layers=2, activation=None), (8, 16))
    params = linear.init(dtype="float64")
    larger, grown, error = dtn.fitting.grow(linear, params, 4, noise=0.3)
    before, after = linear.materialize(params), larger.materialize(grown)
    assert error == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before))
    both = dtn.network(dtn.Sum(terms=(dtn.LowRank(), dtn.BrickWall())), (8, 16))
    grown = dtn.fitting.grow(both, both.init(dtype="float64"), 4, noise=1e-6)
    assert grown.net.topology == dtn.Sum(terms=(dtn.LowRank(), dtn.BrickWall(layers=4)))
    assert grown.error < 1e-4


def test_a_state_that_no_checkpoint_holds_is_refused_before_the_first_step(tmp_path):
    class Counting(torch.nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            assert state == {"calls": 3}

    def never():
        raise AssertionError

    net = torch.nn.Sequential(model(), Counting(3, 3, dtype=torch.float64))
    with pytest.raises(dtn.DeepTNError, match=r"'1\._extra_state' of the state_dict is not one"):
        train(net, data(), Recipe(epochs=1), seed=0, on_step=never, checkpoint=tmp_path / "c")
    train(net, data(), Recipe(epochs=1), seed=0)


def test_cores_of_another_shape_are_refused():
    layer = model()[0]
    for wrong, match in (
        ({"nope": torch.ones(2, 2)}, "unknown core 'nope'"),
        ({"L1_g0": torch.tensor(3.0)}, r"expected a tensor of shape \(2, 2\)"),
        ({"L1_g0": np.ones((2, 2))}, "got ndarray"),
    ):
        with pytest.raises(dtn.SpecError, match=match):
            layer.load_cores(wrong)
