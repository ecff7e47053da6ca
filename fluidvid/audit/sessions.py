"""The panel's networks as onnxruntime runs them: an audit looks through them and never optimises through them.

The engine's `OnnxModule` is there for gradients and takes about twice the time on a CPU (measured on one core: 66 ms
instead of 31 for one face and five recognisers).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.engine.onnx_module import OnnxModule
from fluidvid.trackers.session import open_session


class SessionModule(OnnxModule):
    """An `OnnxModule` without gradients; of its base it has the interface only.

    Args:
        path: the ONNX file.
        threads: CPU threads of one run; 0: as many as there are cores.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        nn.Module.__init__(self)
        self._session = open_session(path, threads=threads)
        self._input = self._session.get_inputs()[0].name
        self.output_names = tuple(output.name for output in self._session.get_outputs())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Output name -> tensor."""
        outputs = self._session.run(None, {self._input: x.detach().cpu().numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(self.output_names, outputs, strict=True)}


def fast_recogniser(network: Recogniser, threads: int = 0) -> Recogniser:
    """The recogniser, its network run by onnxruntime from now on."""
    network.net = SessionModule(network.spec.path, threads)
    return network


def fast_attributes(
    networks: AttributeNetworks, landmark68: Path, expression: Path, age_gender: Path, threads: int = 0
) -> AttributeNetworks:
    """The attribute networks, run by onnxruntime from now on."""
    networks.landmark68, networks.expression_net = (SessionModule(p, threads) for p in (landmark68, expression))
    networks.age_gender = SessionModule(age_gender, threads)
    return networks
