"""Uses of modules that few have, and that once failed or gave another result than the dense module."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from deeptn_torch import TNConvTranspose2d, TNEmbedding, TNLinear, compress, compress_, fold_, load_model, save_model
from deeptn_torch import parametrize_ as generate_
from torch import nn
from torch.ao.quantization import quantize_fx
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import always_wrap_policy
from torch.distributed.tensor import Replicate, distribute_module, distribute_tensor
from torch.nn.utils import parametrize, prune

import deeptn as dtn

from ..twins.sides import process_group

WALL = dtn.BrickWall(layers=2)
TRAIN = dtn.TTMatrix(rank=2)


class Own(torch.Tensor):
    """A subclass without rules of its own."""


def lstm() -> Any:
    module = nn.LSTM(8, 6)
    generate_(module, "weight_hh_l0", WALL, fit=None)
    return module


def zeroed(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for param in module.parameters():
            param.zero_()
    return module


def test_copies_of_a_compiled_layer_are_layers_of_their_own(tmp_path):
    layer, x = TNLinear(24, 16, WALL), torch.randn(3, 24)
    layer.compile(backend="eager")
    expected = layer(x)
    for replica in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.allclose(replica(x), expected, atol=1e-6)
        assert not zeroed(replica)(x).any()
    average = torch.optim.swa_utils.AveragedModel(layer)
    assert not zeroed(average)(x).any()
    assert layer(x).any()


def test_the_own_state_of_a_subclass_is_copied():
    class Locked(TNLinear):
        def __init__(self, *args: Any):
            super().__init__(*args)
            self.lock = threading.Lock()

        def __getstate__(self) -> dict[str, Any]:
            return {name: value for name, value in super().__getstate__().items() if name != "lock"}

        def __setstate__(self, state: dict[str, Any]) -> None:
            super().__setstate__(state)
            self.lock = threading.Lock()

    layer: Any = Locked(24, 16, WALL)
    replica = copy.deepcopy(layer)
    assert replica.lock is not layer.lock
    assert torch.equal(replica.weight, layer.weight)
    parametrize.register_parametrization(layer, "bias", nn.Tanh())
    assert torch.equal(copy.deepcopy(layer).weight, layer.weight)


@pytest.mark.parametrize("inside", [False, True])
def test_pruned_cores_are_trained(inside):
    module: Any = lstm() if inside else TNLinear(24, 16, WALL)
    x = torch.randn((5, 2, 8) if inside else (3, 24))
    cores = module.parametrizations["weight_hh_l0"][0].cores if inside else module.cores
    call = (lambda: module(x)[0]) if inside else (lambda: module(x))
    before = call()
    for name in ("L1_g0", "L2_g1"):
        prune.l1_unstructured(cores, name, 0.5)
    pruned = call()
    assert not torch.allclose(pruned, before)
    with torch.no_grad():
        cores.get_parameter("L2_g1_orig").mul_(3)
        assert not torch.allclose(call(), pruned)
    optimizer = torch.optim.SGD(module.parameters(), 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        call().sum().backward()
        optimizer.step()
    zeros = cores["L1_g0"] == 0
    assert zeros.sum() == zeros.numel() // 2
    with torch.no_grad():
        call()  # as the masked weight of a dense module, a masked core with a graph cannot be copied
    other = copy.deepcopy(module)
    zeroed(other).load_state_dict(module.state_dict())
    with torch.no_grad():
        assert torch.equal(other(x)[0] if inside else other(x), call())
        assert torch.equal(module.double()(x.double())[0], other.double()(x.double())[0])
    prune.remove(cores, "L1_g0")
    assert (cores["L1_g0"] == 0).equal(zeros)


def test_pruned_cores_are_drawn_and_loaded():
    layer = TNLinear(24, 16, WALL)
    prune.l1_unstructured(layer.cores, "L1_g0", 0.5)
    layer.load_cores({"L1_g0": torch.ones_like(layer.cores["L1_g0"])})
    assert layer.cores["L1_g0"].sum() == layer.cores["L1_g0"].numel() / 2
    layer.reset_parameters()
    assert (layer.cores["L1_g0"] == 0).sum() == layer.cores["L1_g0"].numel() / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(layer.cores, "L2_g0")
    x, before = torch.ones(2, 24), layer(torch.ones(2, 24))
    with torch.no_grad():
        layer.cores.get_parameter("L2_g0_g").mul_(3)
    assert not torch.allclose(layer(x), before)
    with pytest.raises(dtn.SpecError, match="'L2_g0' has a norm of torch"):
        layer.reset_parameters()


def test_masks_are_not_lost(tmp_path):
    model = nn.Sequential(TNLinear(24, 16, WALL))
    save_model(model, tmp_path / "model.safetensors")
    layer: Any = model[0]
    prune.l1_unstructured(layer.cores, "L1_g0", 0.5)
    with pytest.raises(dtn.SpecError, match="cores are constrained or pruned, but what growth adds is not"):
        layer.grow(4)
    with pytest.raises(dtn.SpecError, match="cores are pruned, and a mask does not keep them isometric"):
        layer.constrain(["L1_g0"])
    with torch.no_grad():
        x = layer(torch.ones(2, 24))
    with pytest.raises(dtn.FormatError, match="is constrained or pruned, of which files store nothing"):
        load_model(model, tmp_path / "model.safetensors")
    layer.freeze()
    with torch.no_grad():
        kept = layer._kept_weight()
        assert kept is not None
        assert torch.equal(kept, layer.weight)
        save_model(model, tmp_path / "pruned.safetensors")
    assert layer._kept_weight() is None  # a gradient may flow
    plain = load_model(nn.Sequential(nn.Linear(24, 16)), tmp_path / "pruned.safetensors")
    assert torch.allclose(plain(torch.ones(2, 24)), x, atol=1e-6)


def test_removing_the_parametrization_leaves_the_weight():
    for leave in (True, False):
        module = lstm()
        order = list(nn.LSTM(8, 6)._parameters)
        x, weight = torch.ones(3, 2, 8), module.weight_hh_l0.detach()
        before = module(x)[0]
        parametrize.remove_parametrizations(module, "weight_hh_l0", leave_parametrized=leave)
        assert torch.equal(dict(module.named_parameters())["weight_hh_l0"], weight)
        assert torch.allclose(module(x)[0], before, atol=1e-6)
        assert list(module._parameters) == order
        assert not vars(module.weight_hh_l0)


def test_nothing_without_memory_is_cached():
    module, bag = lstm(), nn.EmbeddingBag(20, 12)
    generate_(bag, "weight", WALL, fit=None)
    x, index = torch.ones(2, 3, 8), torch.tensor([[1, 2]])
    expected = module(x)[0]
    with parametrize.cached():
        assert torch.equal(module(x)[0], expected)
        bag(index)
        bag.reset_parameters()
        module.reset_parameters()
        made = bag(index)
        assert made.device.type == "cpu"
        assert torch.equal(made, bag(index))
        assert not torch.equal(module(x)[0], expected)
    assert torch.equal(bag(index), made)


def test_parameters_of_other_modules_cannot_be_tied():
    table, head = nn.Embedding(20, 16), TNLinear(16, 20, dtn.LowRank(rank=16), bias=False)
    other = nn.Linear(16, 20)
    generate_(other, "weight", dtn.LowRank(rank=16))
    for module in (head, other):
        with pytest.raises(dtn.SpecError, match="belongs to a module, and a generated weight cannot be tied to it"):
            module.weight = table.weight
        module.weight = nn.Parameter(table.weight.detach().clone())
        assert torch.allclose(module.weight, table.weight, atol=1e-4)


def test_inputs_of_other_classes_keep_their_class():
    x = torch.ones(3, 8).as_subclass(Own)
    bilinear, up = nn.Bilinear(8, 6, 5), TNConvTranspose2d(4, 6, 3, WALL)
    generate_(bilinear, "weight", WALL, fit=None)
    y = bilinear(x, torch.ones(3, 6))
    assert type(y) is Own
    y.sum().backward()
    assert all(param.grad is not None for param in bilinear.parameters())
    assert type(up(torch.ones(2, 4, 5, 5).as_subclass(Own))) is Own
    assert type(lstm()(torch.ones(2, 3, 8).as_subclass(Own))[0]) is type(
        nn.LSTM(8, 6)(torch.ones(2, 3, 8).as_subclass(Own))[0]
    )
    with pytest.raises(dtn.SpecError, match="would change a decoded copy"):
        up.weight.add_(torch.ones(()).as_subclass(Own))


@pytest.mark.parametrize("mode", ["materialize", "apply"])
def test_parameters_of_other_classes(mode):
    layer, x = TNLinear(24, 16, TRAIN if mode == "apply" else WALL, mode=mode), torch.randn(2, 24)
    expected = layer(x)
    for module in layer.modules():
        for name, param in list(module._parameters.items()):
            if param is not None:
                module._parameters[name] = nn.Parameter(param.detach().as_subclass(Own))
    y = layer(x)
    y.sum().backward()
    assert torch.allclose(y.as_subclass(torch.Tensor), expected, atol=1e-6)
    assert all(param.grad is not None for param in layer.parameters())


def test_writes_through_numpy_are_refused():
    layer = TNLinear(24, 16, WALL)
    with torch.no_grad():
        array = layer.weight.numpy()
    assert np.array_equal(array, layer.weight.detach().numpy())
    with pytest.raises(ValueError, match="read-only"):
        array[:] = 0
    with pytest.raises(dtn.SpecError, match="what others write there would be lost; share a copy instead"):
        torch.from_dlpack(layer.weight)
    assert torch.equal(torch.from_dlpack(layer.weight.detach()), layer.weight)


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
@pytest.mark.parametrize("part", ["self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "*"])
@pytest.mark.parametrize("layers", ["1", "*"])
def test_encoders_of_which_a_part_is_generated(part, layers):
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)
    compress_(encoder, {f"layers.{layers}.{part}": WALL}, fit=None)
    x, padding = torch.randn(5, 6, 16), torch.zeros(5, 6, dtype=torch.bool)
    padding[1, 4:] = True
    dense = copy.deepcopy(encoder.eval())
    fold_(dense)
    with torch.no_grad():  # PyTorch's fast path, with nested tensors
        expected = dense(x, src_key_padding_mask=padding)
        found = encoder(x, src_key_padding_mask=padding)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not found[1, 4:].any()


def test_only_pytorch_reads_a_weight_without_protection():
    encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    compress_(encoder, {"*": WALL}, fit=None)
    seen = []

    def write(module: Any, args: Any) -> None:
        with pytest.raises(dtn.SpecError, match="would change a decoded copy of the weight"):
            module.weight.zero_()
        seen.append(module)

    for part in (encoder.linear1, encoder.linear2):
        part.register_forward_pre_hook(write)
    with torch.no_grad():
        encoder.eval()(torch.randn(5, 6, 16))
    assert seen == [encoder.linear1, encoder.linear2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("inside", [False, True])
def test_quantization(inside):
    ao: Any = torch.ao.quantization
    model: Any = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16))
    if inside:
        generate_(model[1], "weight", WALL, fit=None)
    else:
        compress_(model, {"1": WALL}, fit=None)
    model.eval()
    x = torch.randn(5, 16)
    expected = model(x)
    if inside:
        with pytest.raises(dtn.SpecError, match=r"'quantize_dynamic' cannot quantize .*; leave it out"):
            ao.quantize_dynamic(model, {nn.Linear})
    else:
        assert torch.allclose(ao.quantize_dynamic(model, {nn.Linear})(x), expected, atol=0.05)
    prepared = quantize_fx.prepare_fx(copy.deepcopy(model), ao.get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    assert torch.allclose(quantize_fx.convert_fx(prepared)(x), expected, atol=0.1)
    model.qconfig = ao.get_default_qconfig("x86")
    with pytest.raises(dtn.SpecError, match="'prepare' cannot quantize a module whose weight is generated"):
        ao.prepare(model)
    model[1].qconfig = None
    ao.prepare(model)


@pytest.mark.parametrize("inside", [False, True])
def test_a_batch_norm_is_not_fused_into_a_network(inside):
    model: Any = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)).eval()
    if inside:
        generate_(model[0], "weight", WALL, fit=None)
    else:
        compress_(model, {"0": WALL}, fit=None)
    with pytest.raises(dtn.SpecError, match="a batch norm cannot be fused into a weight that is generated; call fold_"):
        nn.utils.fuse_conv_bn_eval(*model)
    x = torch.randn(2, 4, 6, 6)
    expected = model(x)
    fold_(model)
    assert torch.allclose(nn.utils.fuse_conv_bn_eval(*model)(x), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["meta", "inference"])
def test_cores_are_found_in_unusual_contexts(mode):
    model: Any = nn.Sequential(nn.Linear(24, 16), nn.LSTM(16, 6))
    if mode == "inference":
        with torch.inference_mode():
            small, _ = compress(model, {"*": WALL})
            assert type(small[0]) is TNLinear
            small[0](torch.ones(2, 24))
            compress_(model, {"*": WALL}, fit=None)
        with torch.inference_mode():
            made: Any = nn.LSTM(16, 6)
            generate_(made, "weight_hh_l0", WALL)
        return
    compress_(model, {"*": WALL}, fit=None)
    before = model[0].weight.detach()
    with torch.device("meta"):
        model[0].reset_parameters()
        model[1].reset_parameters()
    assert not torch.equal(model[0].weight, before)
    assert model[1].weight_hh_l0.device.type == "cpu"


def test_cores_stay_the_cores_of_their_layer():
    layer: Any = TNLinear(24, 16, WALL)
    with pytest.raises(
        dtn.SpecError, match=r"the cores of a layer cannot become a ParameterDict; write layer.load_cores"
    ):
        layer.cores = nn.ParameterDict({"L1_g0": nn.Parameter(torch.ones(2))})
    assert layer.weight.shape == (16, 24)


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`:UserWarning")
def test_cores_are_not_sharded_without_their_layer():
    process_group()
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    layer = TNLinear(24, 16, WALL)
    with pytest.raises(dtn.SpecError, match=r"FSDP cannot shard the cores of a layer without the layer; write fully"):
        fully_shard(layer.cores, mesh=mesh)
    with pytest.raises(dtn.SpecError, match="an auto_wrap_policy that wraps whole layers"):
        FullyShardedDataParallel(
            nn.Sequential(layer), auto_wrap_policy=always_wrap_policy, device_id=torch.device("cpu")
        )


def test_replicated_layers_take_distributed_inputs():
    process_group()
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    layer, x = TNLinear(24, 16, WALL), torch.randn(2, 24)
    y = distribute_module(copy.deepcopy(layer), mesh)(distribute_tensor(x, mesh, [Replicate()]))
    y.sum().backward()
    assert torch.allclose(y.full_tensor(), layer(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("family", [WALL, dtn.Tree(rank=2), TRAIN], ids=str)
def test_the_old_onnx_exporter(family, tmp_path):
    layer, x = TNLinear(24, 16, family).eval(), torch.randn(3, 24)
    torch.onnx.export(layer, (x,), tmp_path / "layer.onnx", dynamo=False)
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    found: Any = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert np.allclose(found, layer(x).detach(), atol=1e-5)


def test_files_of_layers_that_are_compiled(tmp_path):
    model = nn.Sequential(TNLinear(24, 16, WALL), TNEmbedding(20, 12, WALL))
    model[0].compile(backend="eager")
    x = torch.randn(3, 24)
    model[0](x)
    save_model(model, tmp_path / "model.safetensors")
    expected = model[0](x).detach()
    zeroed(model)
    assert torch.allclose(load_model(model, tmp_path / "model.safetensors")[0](x), expected, atol=1e-6)
