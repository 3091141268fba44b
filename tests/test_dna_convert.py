"""DRAKES's denoiser: our network with its parameters gives its outputs.

The published file is not here, so the oracle is the network written again in PyTorch
from its description, with random parameters under the published names.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from plain_loop import is_one_line
from simpo.dna.convert import convert_drakes
from simpo.dna.store import load_model
from simpo.types import SimpoError

torch = pytest.importorskip("torch")
nn, H = torch.nn, 16


class Fourier(nn.Module):
    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(30 * torch.randn(H // 2), requires_grad=False)

    def forward(self, t):
        angle = 2 * np.pi * t[:, None] * self.W
        return torch.cat([angle.sin(), angle.cos()], -1)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(H, H)


class Denoiser(nn.Module):
    """The equations of the published network; channels come second."""

    def __init__(self, labels=0):
        super().__init__()
        self.linear = nn.Conv1d(5, H, 9, padding=4)
        self.time_embedder = nn.Sequential(Fourier(), nn.Linear(H, H))
        dilations = [d for d in (1, 1, 4, 16, 64) for _ in range(4)]
        self.convs = nn.ModuleList(
            nn.Conv1d(H, H, 9, dilation=d, padding=4 * d) for d in dilations
        )
        self.time_layers = nn.ModuleList(Linear() for _ in dilations)
        self.norms = nn.ModuleList(nn.LayerNorm(H) for _ in dilations)
        self.final_conv = nn.Sequential(
            nn.Conv1d(H, H, 1), nn.ReLU(), nn.Conv1d(H, 5, 1)
        )
        if labels:
            self.cls_embedder = nn.Embedding(labels + 1, H)
            self.cls_layers = nn.ModuleList(Linear() for _ in dilations)
        for norm in self.norms:
            nn.init.normal_(norm.weight, 1.0, 0.3)
            nn.init.normal_(norm.bias)

    def forward(self, x, label=None):
        t = torch.relu(self.time_embedder(torch.zeros(len(x))))
        h = torch.relu(self.linear(x.permute(0, 2, 1)))
        for i, (conv, layer, norm) in enumerate(
            zip(self.convs, self.time_layers, self.norms, strict=True)
        ):
            inner = h + layer.dense(t)[:, :, None]
            if label is not None:
                inner = (
                    inner
                    + self.cls_layers[i].dense(self.cls_embedder(label))[:, :, None]
                )
            normed = norm(inner.permute(0, 2, 1)).permute(0, 2, 1)
            h = h + torch.relu(conv(normed))
        return self.final_conv(h).permute(0, 2, 1)


def written(path, net, **others):
    state = {f"backbone.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": state, **others}, path)
    return path


@pytest.mark.parametrize("labels", [0, 2])
def test_outputs_are_equal(tmp_path, labels):
    torch.manual_seed(0)
    net = Denoiser(labels)
    model = convert_drakes(written(tmp_path / "a.ckpt", net))
    x = np.random.default_rng(0).dirichlet(np.ones(5), size=(3, 50)).astype(np.float32)
    label = torch.tensor([0, 1, 2]) if labels else None
    with torch.no_grad():
        expected = net(torch.tensor(x), label).numpy()[..., :4]
    given = (
        jnp.zeros((3, 0), int) if label is None else jnp.asarray(label.numpy())[:, None]
    )
    np.testing.assert_allclose(model.net(x, jnp.ones(3), given), expected, atol=2e-5)
    again = load_model(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(
        again.net(x, jnp.ones(3), given), model.net(x, jnp.ones(3), given)
    )
    assert model.diffusion.length == 200 and model.diffusion.denoising_steps == 128


def test_the_running_mean_is_taken(tmp_path):
    torch.manual_seed(1)
    net, mean = Denoiser(), Denoiser()
    shadow = [p.detach() for p in mean.parameters() if p.requires_grad]
    path = written(
        tmp_path / "a.ckpt", net, ema={"decay": 0.9999, "shadow_params": shadow}
    )
    for take, expected in [(True, mean), (False, net)]:
        found = convert_drakes(path, mean=take).net
        weight = expected.convs[7].weight.detach().numpy().transpose(2, 1, 0)
        np.testing.assert_array_equal(found.blocks[7].conv.kernel, weight)
    frequencies = net.time_embedder[0].W.numpy()  # these have no mean
    np.testing.assert_array_equal(
        convert_drakes(path).net.time.frequencies, frequencies
    )
    path = written(tmp_path / "b.ckpt", net, ema={"shadow_params": shadow[1:]})
    with pytest.raises(
        SimpoError, match="running mean is of other parameters"
    ) as error:
        convert_drakes(path)
    assert is_one_line(error)


def test_what_is_no_such_checkpoint_gets_one_line(tmp_path):
    net = Denoiser()
    other = dict(net.state_dict())
    del other["convs.3.weight"]
    more = {**net.state_dict(), "extra": torch.zeros(1)}
    files = {
        "no convs.3.weight": {
            "state_dict": {f"backbone.{k}": v for k, v in other.items()}
        },
        "it also has extra": {
            "state_dict": {f"backbone.{k}": v for k, v in more.items()}
        },
        "no state_dict": {"weights": {}},
    }
    for i, (reason, content) in enumerate(files.items()):
        path = tmp_path / f"{i}.ckpt"
        torch.save(content, path)
        with pytest.raises(SimpoError, match=reason) as error:
            convert_drakes(path)
        assert is_one_line(error)
    (tmp_path / "text").write_text("nothing of the kind")
    for path, reason in [
        (tmp_path / "text", "cannot read"),
        (tmp_path / "none", "no file"),
    ]:
        with pytest.raises(SimpoError, match=reason) as error:
            convert_drakes(path)
        assert is_one_line(error)


class Innocent:
    """An object that is no tensor."""


def test_a_file_with_more_than_tensors_is_read_only_if_trusted(tmp_path):
    path = written(tmp_path / "a.ckpt", Denoiser(), hyper_parameters=Innocent())
    with pytest.raises(SimpoError, match="--trust") as error:
        convert_drakes(path)
    assert is_one_line(error)
    assert convert_drakes(path, trust=True).size.width == H
