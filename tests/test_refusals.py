import pytest

from simpo.generative import Diffusion, Flow, Noise, StraightPath
from simpo.matching import CappedNegativeMass, ClippedError
from simpo.types import SimpoError


@pytest.mark.parametrize(
    "build",
    [
        lambda: Diffusion(clip=0.0),
        lambda: Flow(clip=-1.0),
        lambda: Flow(denoising_steps=0),
        lambda: Diffusion(t_min=0.5, t_max=0.2),
        lambda: Diffusion(schedule=StraightPath(), prediction=Noise(), t_max=1.0),
        lambda: ClippedError(limit=float("nan")),
        lambda: CappedNegativeMass(limit=-0.1),
    ],
)
def test_impossible_models_are_refused(build):
    with pytest.raises(SimpoError):
        build()
