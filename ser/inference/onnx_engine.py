"""A model in an ONNX file, ready to answer on onnxruntime: `ser.load("model.onnx")`. Neither torch nor transformers.

The file is one graph from a waveform to probabilities, which any ONNX runtime can run alone. Here it is taken apart at
its frames, so that long recordings and the timeline go the way that they go on torch: encoded in pieces of about 30 s,
classified in pieces and windows, see `ser.inference.recogniser`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.audio.load import Samples
from ser.encoders.chunking import Frames, chunks, normalised
from ser.errors import CheckpointError
from ser.inference.adaptation import Training
from ser.inference.recogniser import Recogniser
from ser.scoring.calibration import Calibration

ONNX_FORMAT = "persian-ser onnx 1"
VOICE_NAMES = ("voice/mean", "voice/deviation", "voice/from_neutral")
DESCRIPTION_KEY = "persian-ser"  # in the file's metadata: all of it as one JSON
REMEDY = "Write it anew with: python -m ser export --out FILE"


class OnnxPredictor(Recogniser):
    """The model of an ONNX file.

    Attributes:
        description: everything that its metadata says: labels, encoder, calibration, scores, licence, ...
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        """Open a file of `ser export`; `threads` 0 takes as many as there are cores.

        Raises:
            CheckpointError: the file is missing, damaged, or of another program.
        """
        model, self.description = _read(Path(path))
        try:
            self.labels = tuple(map(str, self.description["labels"]))
            self.max_frames = int(self.description["max_frames"])
            self.calibration = Calibration(**self.description["calibration"])
            self.trained_on = tuple(self.description["data"].get("speakers", ()))
            self._normalise = bool(self.description["encoder"]["normalise"])
            self._overlap = int(self.description["encoder"]["overlap"])
            self.speech_only = bool(self.description["encoder"].get("speech_only", False))
            self.averaged_frames = int(self.description["classifier"].get("averaged_frames", 1))
            self.training = _training(
                model, f"{self.description['encoder']['fingerprint']} {self.averaged_frames}"
            )
            if len(self.labels) < 2 or self.max_frames < 1 or self._overlap < 0:
                raise ValueError("sizes that make no sense")
            self._encoder = _session(model, ["normalised"], ["frames"], threads)
            self._classifier = _session(model, ["batch", "lengths"], ["rows"], threads)
        except Exception as error:  # protobuf, onnx and onnxruntime raise whatever the damage leads to
            raise CheckpointError(f"{path} is damaged ({str(error).strip()[:200]}). {REMEDY}") from error

    def encoder(self, utterances: Sequence[Samples]) -> list[Frames]:
        """`(samples,)` each to `(frames, dim)` each."""
        encoded = []
        for samples in utterances:
            ready = normalised(samples) if self._normalise else samples
            parts = [
                self._encoder.run(None, {"normalised": piece[None]})[0]
                for piece in chunks(ready, self._overlap)
            ]
            encoded.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
        return encoded

    def _batch_probabilities(self, pieces: Sequence[Frames]) -> NDArray[np.float32]:
        lengths = np.array([len(piece) for piece in pieces], dtype=np.int32)
        batch = np.zeros((lengths.max(), len(pieces), *pieces[0].shape[1:]), dtype=np.float32)
        for column, piece in enumerate(pieces):
            batch[: len(piece), column] = piece
        rows: NDArray[np.float32] = self._classifier.run(None, {"batch": batch, "lengths": lengths})[0]
        return rows


def is_onnx(model: str | Path) -> bool:
    """Whether a model is an ONNX file rather than a checkpoint's folder, by its name."""
    return Path(model).suffix.lower() == ".onnx"


def read_onnx_description(path: str | Path) -> dict[str, Any]:
    """What an exported file says of itself.

    Raises:
        CheckpointError: as for `OnnxPredictor`.
    """
    return _read(Path(path))[1]


def _training(model: Any, fingerprint: str) -> Training | None:
    """What the file keeps of the training speakers: initializers that its graph does not need."""
    from onnx import numpy_helper

    kept = {
        one.name: numpy_helper.to_array(one) for one in model.graph.initializer if one.name in VOICE_NAMES
    }
    return Training(fingerprint, *(kept[name] for name in VOICE_NAMES)) if kept else None


def _read(path: Path) -> tuple[Any, dict[str, Any]]:
    import onnx

    if not path.is_file():
        raise CheckpointError(f"There is no file {path}. Write one with: python -m ser export --out {path}")
    try:
        model = onnx.load(path, load_external_data=False)
        entries = {entry.key: entry.value for entry in model.metadata_props}
        description = json.loads(entries.get(DESCRIPTION_KEY, "null"))
    except Exception as error:  # protobuf's own kinds, without a common base
        raise CheckpointError(f"{path} is no ONNX file ({str(error).strip()[:200]}). {REMEDY}") from error
    if not isinstance(description, dict) or description.get("format") != ONNX_FORMAT:
        raise CheckpointError(
            f"{path} is not of the format {ONNX_FORMAT!r}: another program wrote it. {REMEDY}"
        )
    return model, description


def _session(model: Any, inputs: list[str], outputs: list[str], threads: int) -> Any:
    """A session for what lies between two borders of the graph."""
    import onnxruntime
    from onnx import TensorProto, helper

    wanted, nodes = set(outputs), []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(name for name in node.input if name not in inputs)
    kept = [one for one in model.graph.initializer if one.name in wanted]
    kinds = {"lengths": TensorProto.INT32}
    graph = helper.make_graph(
        nodes[::-1],
        outputs[0],
        [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        kept,
    )
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
