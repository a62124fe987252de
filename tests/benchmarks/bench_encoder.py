"""Speed of an encoder of DistilHuBERT's size, beside eager transformers and plain ONNX Runtime.

In: random weights and 4 s of noise. Out: medians and ratios on standard output. The three are timed in turns, so that
whatever else the machine does slows all of them.

    python tests/benchmarks/bench_encoder.py [--seconds 4] [--rounds 20] [--threads N]
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from ser.runtime import import_torchaudio, let_threads_sleep

let_threads_sleep()
import_torchaudio()

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from transformers import HubertConfig, HubertModel  # noqa: E402

from ser.encoders.encoder import Encoder  # noqa: E402

# https://huggingface.co/ntu-spml/distilhubert/blob/main/config.json: two layers of HuBERT base.
DISTILHUBERT = HubertConfig(num_hidden_layers=2, feat_extract_norm="group", conv_bias=False)
PAUSE_S = 0.05  # threads of the one before still spin for a while
TOLERANCE = 1e-4  # of the largest value


def competitors(folder: Path, waveform: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """By name, what computes the last layer's frames `(frames, 768)` of `waveform (samples,)`."""
    torch.manual_seed(40)
    HubertModel(DISTILHUBERT).save_pretrained(folder)
    eager, ours = HubertModel.from_pretrained(folder).eval(), Encoder.load(folder, device="cpu")
    batch, content = waveform[None], io.BytesIO()
    torch.onnx.export(
        ours.frames, (torch.from_numpy(batch),), content, dynamo=False, input_names=["waveforms"],
        dynamic_axes={"waveforms": {1: "samples"}},
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    plain = onnxruntime.InferenceSession(content.getvalue(), options, providers=["CPUExecutionProvider"])
    return {
        "eager transformers": lambda: eager(torch.from_numpy(batch)).last_hidden_state[0].numpy(),
        "plain ONNX Runtime": lambda: plain.run(None, {"waveforms": batch})[0][0],
        f"ours ({ours.engine})": lambda: ours([waveform])[0],
    }


def main() -> None:
    warnings.simplefilter("ignore")  # of the exporter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the sound")
    parser.add_argument("--rounds", type=int, default=20, help="timings of each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = np.random.default_rng(40)
    waveform = (0.1 * generator.standard_normal(round(16_000 * options.seconds))).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        runs = competitors(Path(folder), waveform)
        frames = {name: run() for name, run in runs.items()}  # also the warm-up
        times_s: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                time.sleep(PAUSE_S)
                begun = time.perf_counter()
                run()
                times_s[name].append(time.perf_counter() - begun)
    expected, *others = frames.values()
    furthest = max(float(np.abs(one - expected).max() / np.abs(expected).max()) for one in others)
    medians_s = {name: float(np.median(times)) for name, times in times_s.items()}
    print(f"{options.seconds:g} s of sound, {options.threads} threads, medians of {options.rounds} rounds in turns")
    eager_s = next(iter(medians_s.values()))
    for name, median_s in medians_s.items():
        least_ms = 1000 * min(times_s[name])
        print(f"{name:28s} {1000 * median_s:7.1f} ms (least {least_ms:.1f})  {eager_s / median_s:.2f} times eager")
    print(f"furthest from eager: {furthest:.1e} of the largest value")
    if furthest > TOLERANCE:
        raise SystemExit("The frames differ by more than rounding.")


if __name__ == "__main__":
    main()
