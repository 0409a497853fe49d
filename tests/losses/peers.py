"""Run by test_against_peers.py in a process of its own: value and gradient of the losses of other libraries.

python peers.py input.npz output.npz: reads `x` (B, 2, D) and `labels` (B,), both taken to float64; writes for each
case whose package is installed `<case>` and `<case>_gradient`, and `<package>_version`.
"""

import importlib.metadata
import sys

import numpy as np


def pytorch_metric_learning(torch, x, labels):
    from pytorch_metric_learning.losses import NTXentLoss, SupConLoss

    rows = x.reshape(-1, x.shape[-1])
    instances = torch.arange(len(x)).repeat_interleave(2)
    classes = labels.repeat_interleave(2)
    yield "pml_ntxent", NTXentLoss(temperature=0.1)(rows, instances)
    yield "pml_supcon", SupConLoss(temperature=0.1)(rows, classes)


def lightly(torch, x, labels):
    from lightly.loss import DCLLoss, DCLWLoss, NTXentLoss

    yield "lightly_ntxent", NTXentLoss(temperature=0.1)(x[:, 0], x[:, 1])
    yield "lightly_dcl", DCLLoss(temperature=0.1)(x[:, 0], x[:, 1])
    yield "lightly_dclw", DCLWLoss(temperature=0.1, sigma=0.5)(x[:, 0], x[:, 1])


def open_clip(torch, x, labels):
    from open_clip.loss import ClipLoss, SigLipLoss

    a, b = torch.nn.functional.normalize(x, dim=-1).unbind(1)
    yield "open_clip_clip", ClipLoss()(a, b, torch.tensor(10.0, dtype=torch.float64))
    yield "open_clip_siglip", SigLipLoss()(a, b, torch.tensor(10.0), torch.tensor(-10.0))


def declare_vision_operators(torch):
    """Lets a torchvision built for CUDA be imported beside a torch built for CPUs; no loss uses what it lacks."""
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


def main(source, target):
    import torch

    declare_vision_operators(torch)
    data, results = np.load(source), {}
    labels = torch.tensor(data["labels"])
    for package in (pytorch_metric_learning, lightly, open_clip):
        x = torch.tensor(data["x"], dtype=torch.float64, requires_grad=True)
        try:
            for case, value in package(torch, x, labels):
                (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
                results[case], results[f"{case}_gradient"] = value.detach().numpy(), gradient.numpy()
        except ModuleNotFoundError as error:
            print(f"{package.__name__}: {error}", file=sys.stderr)
            continue
        distribution = {"open_clip": "open_clip_torch"}.get(package.__name__, package.__name__.replace("_", "-"))
        results[f"{package.__name__}_version"] = importlib.metadata.version(distribution)
    np.savez(target, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
