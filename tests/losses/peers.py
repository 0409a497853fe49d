"""Run by test_against_peers.py in a process of its own: value and gradient of the losses of other libraries.

python peers.py input.npz output.npz: reads `x` (B, 3, D) and `labels` (B,), x taken to float64; writes for each case
whose package is installed `<case>` and `<case>_gradient`, and `<package>_version`.

Views 0 and 1 are views of a sample, or a pair. View 2 is a hard negative, or of the first four samples a class's proxy.
"""

import importlib.metadata
import os
import sys

import numpy as np


def pytorch_metric_learning(torch, x, labels):
    from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, NTXentLoss, SupConLoss

    rows = x[:, :2].reshape(-1, x.shape[-1])
    instances = torch.arange(len(x)).repeat_interleave(2)
    classes = labels.repeat_interleave(2)
    yield "pml_ntxent", NTXentLoss(temperature=0.1)(rows, instances)
    yield "pml_supcon", SupConLoss(temperature=0.1)(rows, classes)
    for case, loss in (("cosface", CosFaceLoss(4, x.shape[-1])), ("arcface", ArcFaceLoss(4, x.shape[-1]))):
        del loss.W  # its own proxies, which have no gradient by x
        loss.W = x[:4, 2].T
        loss.cast_types = lambda dtype, device: None
        yield f"pml_{case}", loss(x[:, 0], labels)


def lightly(torch, x, labels):
    from lightly.loss import DCLLoss, DCLWLoss, NTXentLoss

    yield "lightly_ntxent", NTXentLoss(temperature=0.1)(x[:, 0], x[:, 1])
    yield "lightly_dcl", DCLLoss(temperature=0.1)(x[:, 0], x[:, 1])
    yield "lightly_dclw", DCLWLoss(temperature=0.1, sigma=0.5)(x[:, 0], x[:, 1])


def open_clip(torch, x, labels):
    from open_clip.loss import ClipLoss, SigLipLoss

    a, b = torch.nn.functional.normalize(x[:, :2], dim=-1).unbind(1)
    yield "open_clip_clip", ClipLoss()(a, b, torch.tensor(10.0, dtype=torch.float64))
    yield "open_clip_siglip", SigLipLoss()(a, b, torch.tensor(10.0), torch.tensor(-10.0))


def sentence_transformers(torch, x, labels):
    from sentence_transformers.sentence_transformer import losses

    def value(loss, columns, targets=None):
        return loss.compute_loss_from_embeddings(columns, targets)

    a, b, hard = x.unbind(1)
    ranking = losses.MultipleNegativesRankingLoss
    both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    yield "sentence_transformers_mnrl", value(ranking(None), [a, b, hard])
    yield "sentence_transformers_symmetric", value(ranking(None, **both), [a, b, hard])
    yield "sentence_transformers_cosent", value(losses.CoSENTLoss(None), [a, b], labels)
    yield "sentence_transformers_pairs", value(losses.ContrastiveLoss(None), [a, b], (labels > 1).long())


def keras_rs(torch, x, labels):
    """The retrieval task of its guide: softmax cross-entropy of corrected logits without accidental hits."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    from keras_rs.layers import RemoveAccidentalHits, SamplingProbabilityCorrection
    from keras_rs.src.layers.retrieval import remove_accidental_hits

    # keras-rs 0.4.0 adds 1e-40 to the logits of accidental hits, which changes nothing; TensorFlow Recommenders adds:
    remove_accidental_hits.SMALLEST_FLOAT = np.finfo("float32").min / 100.0

    a, b = torch.nn.functional.normalize(x, dim=-1)[:, :2].unbind(1)
    logits, targets = a @ b.T / 0.1, torch.eye(len(x), dtype=x.dtype)
    logits = SamplingProbabilityCorrection(dtype="float64")(logits, (labels + 1.0) / 10)
    yield (
        "keras_rs_correction",
        keras.ops.mean(keras.losses.categorical_crossentropy(targets, logits, from_logits=True)),
    )
    logits = RemoveAccidentalHits(dtype="float64")(logits, targets, labels)
    yield "keras_rs_both", keras.ops.mean(keras.losses.categorical_crossentropy(targets, logits, from_logits=True))


def main(source, target):
    import torch

    data, results = np.load(source), {}
    labels = torch.tensor(data["labels"])
    for package in (pytorch_metric_learning, lightly, open_clip, sentence_transformers, keras_rs):
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
