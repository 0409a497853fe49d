"""What `doctor` finds: packages, wheels that overwrote one another, providers that do not work."""

import json
import sys
from importlib import metadata

import onnx
import onnxruntime

from keras_tfcl.export.runtime.environment import SMALLEST_MODEL, check_environment


def test_smallest_model_is_valid_onnx():
    model = onnx.load_from_string(SMALLEST_MODEL)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(SMALLEST_MODEL, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": onnx.numpy_helper.np.array([2.5], "float32")})[0].tolist() == [2.5]


def test_a_good_environment():
    report = check_environment()
    assert report.versions["onnxruntime"] == onnxruntime.__version__
    assert "CPUExecutionProvider" in report.working
    assert report.problems == ()
    assert "onnxruntime" in report.debug
    assert json.loads(json.dumps(report.to_dict()))["problems"] == []
    for text in (onnxruntime.__version__, "CPUExecutionProvider", "problems\n  none"):
        assert text in str(report)


def pretend_installed(monkeypatch, *names):
    original = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0" if name in names else original(name))


def test_two_wheels(monkeypatch):
    pretend_installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    (problem,) = check_environment().problems
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in problem


def test_two_cudnn_packages_share_their_files(monkeypatch):
    pretend_installed(monkeypatch, "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
    (problem,) = check_environment().problems
    assert "two environments" in problem


def test_cuda_in_the_build_but_not_on_the_machine(monkeypatch):
    """The GPU wheel lists CUDA everywhere; a session tells."""
    original = onnxruntime.InferenceSession
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublasLt"))
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, options, providers: original(model, options, providers=["CPUExecutionProvider"]),
    )
    report = check_environment()
    assert report.built == tuple(listed)
    assert report.working == ("CPUExecutionProvider",)
    assert "runs on the CPU" in report.problems[0]


def test_without_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = check_environment()
    assert (report.built, report.working) == ((), ())
    assert "keras-tfcl[serve]" in report.problems[0]
