"""Networks of the user's own: exact, used by every agent, saved, resumed, refused."""

import functools
import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import simpo
from plain_loop import is_one_line
from simpo import directories, plotting, runs, snapshots
from simpo.agents import AGENTS, Mode, compile_act, compile_updates
from simpo.agents.onpolicy import OnPolicy
from simpo.checkpoint import load, save_policy
from simpo.cli import main
from simpo.config import function_name, to_json
from simpo.custom import CustomCritics, CustomDenoiser, CustomNetwork, Parameters
from simpo.networks import MLP, Critics, Denoiser, Dense, uniform_parts
from simpo.types import SimpoError
from tiny import SPEC, batches, experience, tiny, tiny_run

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(0)


class Joined(eqx.Module):
    """A perceptron of all inputs, one after another; its leaves are not all arrays."""

    mlp: eqx.nn.MLP
    scale: float = 2.0

    def __call__(self, *inputs):
        return self.mlp(
            jnp.concatenate([jnp.atleast_1d(x) for x in inputs]) / self.scale
        )


def perceptron(key, inputs, outputs, width=8):
    """Weights from one draw, which compiles faster than Equinox's own."""
    shapes = eqx.filter_eval_shape(
        lambda: eqx.nn.MLP(inputs, outputs, width, 1, jnp.tanh, key=KEY)
    )
    arrays, rest = eqx.partition(shapes, lambda x: hasattr(x, "shape"))
    leaves, structure = jax.tree.flatten(arrays)
    parts = uniform_parts(key, [leaf.shape for leaf in leaves])
    return Joined(eqx.combine(jax.tree.unflatten(structure, parts), rest))


def denoiser(key, action_dim, obs_dim):
    return perceptron(key, action_dim + 1 + obs_dim, action_dim)


def critic(key, obs_dim, action_dim, outputs):
    return perceptron(key, obs_dim + action_dim, outputs)


def custom(cls, **changes):
    """An agent of any class, with networks of ours for actor and critics."""
    generative = "model" in {field.name for field in fields(cls)}
    networks = {
        "actor_network": denoiser if generative else perceptron,
        "critic_network": perceptron if issubclass(cls, OnPolicy) else critic,
    }
    return tiny(cls, **networks | changes)


def numbers(tree):
    return [np.asarray(snapshots.raw(leaf)) for leaf in jax.tree.leaves(tree)]


def assert_same(one, other):
    for x, y in zip(numbers(one), numbers(other), strict=True):
        np.testing.assert_array_equal(x, y)


def nodes(tree, kind):
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


# --- the same numbers as ours -----------------------------------------------------


class OurDenoiser(eqx.Module):
    net: Denoiser

    def __call__(self, x, t, obs):
        return self.net(x, t, obs)


class OurCritic(eqx.Module):
    net: Critics

    def __call__(self, obs, action):
        return self.net.heads(obs[None], action[None])[0, 0]


class OurMlp(eqx.Module):
    net: MLP

    def __call__(self, obs):
        return self.net(obs)


def our_denoiser(key, action_dim, obs_dim):
    return OurDenoiser(Denoiser.init(key, action_dim, obs_dim, width=8, depth=1))


def our_critic(key, obs_dim, action_dim, outputs):
    sizes = {"critics": 1, "width": 8, "depth": 1, "outputs": outputs}
    return OurCritic(Critics.init(key, obs_dim, action_dim, **sizes))


def alike(state, template):
    """A state with the leaves of another, whose critics are stacked once more."""
    leaves, structure = jax.tree.flatten(template)
    pairs = zip(jax.tree.leaves(state), leaves, strict=True)
    copies = [jnp.copy(x).reshape(y.shape) for x, y in pairs]
    return jax.tree.unflatten(structure, copies)


def test_a_wrapped_network_of_ours_gives_the_same_samples_and_updates():
    ours = tiny(gamma=0.91)
    networks = {"actor_network": our_denoiser, "critic_network": our_critic}
    theirs = tiny(gamma=0.91, **networks)
    template, state = (agent.init(KEY, SPEC) for agent in (ours, theirs))
    same = alike(state, template)
    obs = batches().obs[0]
    actions = [
        compile_act(agent, Mode(best_of=3))(agent.policy(s), obs, KEY, 0)
        for agent, s in ((ours, same), (theirs, state))
    ]
    np.testing.assert_allclose(*actions, atol=1e-6)
    same, expected = compile_updates(ours)(same, batches())
    state, metrics = compile_updates(theirs)(state, batches())
    for x, y in zip(numbers(same), numbers(alike(state, same)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    for name, values in metrics.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-6)


def test_networks_take_any_leading_axes():
    rng = np.random.default_rng(0)
    x, obs = (rng.normal(size=(4, 5, n)).astype(np.float32) for n in (2, 3))
    t = rng.uniform(size=(4, 5)).astype(np.float32)
    net = CustomDenoiser.init(denoiser, "n", KEY, 2, 3)
    plain, value = net.net.module, CustomNetwork.init(perceptron, "n", KEY, 3, 4)
    each = [[plain(x[i, j], t[i, j], obs[i, j]) for j in range(5)] for i in range(4)]
    np.testing.assert_allclose(net(x, t, obs), each, atol=1e-6)
    context = net.condition(obs[:, :1]) + net.embed_time(t)  # one state, many times
    each = [[plain(x[i, j], t[i, j], obs[i, 0]) for j in range(5)] for i in range(4)]
    np.testing.assert_allclose(net.denoise(x, context), each, atol=1e-6)
    each = [[value.net.module(obs[i, j]) for j in range(5)] for i in range(4)]
    np.testing.assert_allclose(value(obs), each, atol=1e-6)


def test_critics_are_independent_and_agree_in_all_their_forms():
    critics = CustomCritics.init(critic, "n", KEY, 3, 2, critics=3, outputs=2)
    obs, action = batches().obs[0], batches().action[0]
    heads = critics.heads(obs, action)
    assert heads.shape == (3, 8, 2)
    for k, key in enumerate(jax.random.split(KEY, 3)):
        plain = critic(key, 3, 2, 2)
        each = [plain(o, a) for o, a in zip(obs, action, strict=True)]
        np.testing.assert_allclose(heads[k], each, atol=1e-6)
    np.testing.assert_array_equal(critics(obs, action), heads[..., 0])
    many = np.stack([action, -action], axis=1)
    np.testing.assert_allclose(
        critics.candidates(obs, many),
        np.stack([critics(obs, action), critics(obs, -action)], axis=-1),
        atol=1e-6,
    )


# --- every agent ------------------------------------------------------------------


@pytest.fixture(scope="module", params=AGENTS, ids=lambda cls: cls.__name__)
def agent(request):
    return custom(request.param)


@pytest.fixture(scope="module")
def trained(agent):
    """A fresh state, and the state after two dispatches of updates.

    Not compiled, states of all agents are made of the same few operations.
    """
    update, data = compile_updates(agent), experience(agent)
    fresh, donated = (agent.init(KEY, SPEC) for _ in range(2))
    state, _ = update(donated, data)
    compiled = update._cache_size()  # also by tests of this process before
    state, metrics = update(state, data)
    assert update._cache_size() == compiled
    assert any(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
    assert all(np.isfinite(values).all() for values in metrics.values())
    return fresh, state


def test_every_agent_trains_the_networks_it_was_given(agent, trained):
    fresh, state = trained
    assert not nodes(state, Dense), "a network of ours is left"
    before, after = agent.policy(fresh), agent.policy(state)
    for old, new in ((before.actor, after.actor), (before.critics, after.critics)):
        old, new = (nodes(tree, Parameters) for tree in (old, new))
        assert len(old) == len(new) == 1 and len(numbers(old)) == 4
        for x, y in zip(numbers(old), numbers(new), strict=True):
            assert (x != y).any()


def test_no_two_leaves_of_a_fresh_state_share_a_buffer(trained):
    leaves = jax.tree.leaves(jax.tree.map(snapshots.raw, trained[0]))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size]
    assert len(set(pointers)) == len(pointers)
    assert not any(leaf.weak_type for leaf in leaves)


def test_checkpoints_and_policies_give_back_what_was_saved(agent, trained, tmp_path):
    fresh, state = trained
    arrays = snapshots.part(snapshots.named("agent", state), "agent")
    assert_same(snapshots.filled(fresh, arrays, tmp_path), state)
    policy, folder = agent.policy(state), tmp_path / "p"
    save_policy(folder, agent, SPEC, policy, env="e", step=0)
    with pytest.raises(SimpoError, match="networks that were passed from Python") as e:
        load(folder)
    assert is_one_line(e)
    saved = load(folder, agent=agent)
    assert_same(saved.policy, policy)
    obs = batches().obs[0]
    action, _ = saved.predict(obs, deterministic=True)
    act = compile_act(agent, Mode(deterministic=True))
    np.testing.assert_array_equal(action, act(policy, obs, KEY, 0))
    assert action.shape == (8, 2) and (np.abs(action) <= 1).all()


# --- saved and loaded -------------------------------------------------------------


def test_settings_without_networks_are_written_as_they_always_were():
    assert not {"actor_network", "critic_network"} & to_json(tiny()).keys()
    data = json.loads(json.dumps(to_json(custom(simpo.SAC))))
    assert data["actor_network"] == "test_custom_networks.perceptron"
    assert data["critic_network"] == "test_custom_networks.critic"


@dataclass(frozen=True)
class Make:
    width: int = 4

    def __call__(self, key, *dimensions):
        return perceptron(key, *dimensions, self.width)


def test_functions_are_written_with_their_arguments():
    here = "test_custom_networks"
    made = functools.partial(perceptron, width=3, activation=jax.nn.relu)
    assert re.fullmatch(
        rf"{here}\.perceptron\(width=3, activation=jax\.[\w.]+\.relu\)",
        function_name(made),
    )
    assert function_name(Make(5)) == f"{here}.Make(width=5)"
    assert function_name(Make) == f"{here}.Make"
    assert function_name(np.arctan) == "numpy.arctan"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The smallest policy with a network of ours, and its agent."""
    agent = tiny(simpo.TD3, actor_network=Make(4))
    policy = agent.policy(agent.init(KEY, SPEC))
    folder = tmp_path_factory.mktemp("saved") / "p"
    return save_policy(folder, agent, SPEC, policy, env="e", step=0), agent


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 0.5}, "was saved with gamma = 0.9, the agent passed has 0.5"),
        ({"actor_network": None}, "with actor_network = Make(width=4), the agent "),
        ({"actor_network": Make(5)}, "passed has Make(width=5)"),
        ({"critic_network": critic}, "with critic_network = None, the agent passed"),
    ],
)
def test_another_agent_is_refused_by_its_first_difference(saved, changes, message):
    folder, agent = saved
    with pytest.raises(SimpoError, match=re.escape(message)) as error:
        load(folder, agent=replace(agent, **changes))
    assert is_one_line(error)


def test_another_class_of_agent_is_refused(saved):
    with pytest.raises(SimpoError, match="type = TD3, the agent passed has SAC"):
        load(saved[0], agent=custom(simpo.SAC))


def test_a_function_may_have_moved_to_another_module(saved, tmp_path):
    folder, agent = saved
    config = json.loads((folder / "config.json").read_text())
    config["agent"]["actor_network"] = "__main__.Make(width=4)"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()
    )
    assert load(tmp_path, agent=agent).agent is agent


def test_a_network_of_another_shape_does_not_fit_the_file(saved, tmp_path):
    folder, agent = saved
    config = json.loads((folder / "config.json").read_text())
    config["agent"]["actor_network"] = "x.Make(width=6)"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()
    )
    with pytest.raises(SimpoError, match=r"does not fit its config\.json: tensor"):
        load(tmp_path, agent=replace(agent, actor_network=Make(6)))


def test_a_function_of_a_weighting_can_be_passed_as_well(tmp_path):
    agent = tiny(weighting=simpo.Custom(np.arctan))
    policy = agent.policy(agent.init(KEY, SPEC))
    folder = save_policy(tmp_path / "p", agent, SPEC, policy, env="e", step=0)
    loaded = load(folder, agent=agent).agent
    assert loaded.weighting.link is np.arctan


# --- runs -------------------------------------------------------------------------


class Halt(simpo.Callback):
    def on_checkpoint(self, trainer, folder):
        trainer.stop.made = True


def test_a_run_is_resumed_exactly_from_python_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plotting, "plot_run", lambda directory: [])
    agent = custom(simpo.SAC)
    run = tiny_run(agent=agent, checkpoint_every=100, eval_every=200)
    whole = runs.start_run(run, tmp_path / "whole")
    with pytest.raises(SimpoError, match="stopped at step 100"):
        runs.start_run(run, tmp_path / "cut", callbacks=[Halt()])
    (status,) = (tmp_path / "cut").glob("*/*/*/status.json")
    directory = status.parent
    for command in ("resume", "eval", "export"):
        assert main([command, str(directory)]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and "passed from Python" in line
        assert "resume(" in line if command == "resume" else "load(" in line
    with pytest.raises(SimpoError, match=r"tau = 0\.1, the agent passed has 0\.2"):
        runs.resume(directory, agent=replace(agent, tau=0.2))
    assert dict(directories.runs_like(run, tmp_path / "cut")) == {directory: "stopped"}
    finished = runs.start_or_resume(run, tmp_path / "cut")
    assert finished.directory == directory
    for name in ("config.json", "model.safetensors"):
        one, other = (folder / name for folder in (whole.policy, finished.policy))
        assert one.read_bytes() == other.read_bytes()
    policy = load(directory, agent=agent)
    action, _ = policy.predict(np.zeros(4), deterministic=True)
    assert action.shape == (1,)


@pytest.mark.parametrize("option", ["--actor-network", "--critic_network=f"])
def test_the_command_line_has_no_option_for_functions(option, capsys):
    assert main(["train", "InvertedPendulum-v5", option, "f"]) == 2
    assert "can only be passed from Python" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    assert "--critic-lr" in shown and "--critic-network" not in shown


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    page = Path(__file__).parents[1] / "docs" / "python.md"
    section = page.read_text().partition("## Your own networks")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    model = "model=simpo.Flow(denoising_steps=2)"
    for part, small in {
        "action_dim, 256, 3,": "action_dim, 8, 1,",
        "steps=100_000": "steps=200, warmup_steps=100, eval_episodes=1",
        "simpo.SiMPO(": f"simpo.SiMPO({model}, best_of=1, candidates=5, batch_size=8, ",
    }.items():
        assert part in code
        code = code.replace(part, small)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plotting, "plot_run", lambda directory: [])
    made = {"__name__": "example"}
    exec(code, made)
    assert nodes(made["policy"].policy.actor, made["Net"])
    assert made["action"].shape == (1,)


# --- mistakes ---------------------------------------------------------------------


class Wrong(eqx.Module):
    """A module of whatever it is given; its weight maps an observation to itself."""

    weight: jax.Array
    other: object = None
    mark: object = eqx.field(static=True, default=None)

    def __call__(self, obs):
        if callable(self.other):
            return self.other(self.weight @ obs)
        return self.weight @ obs


class NoCall(eqx.Module):
    weight: jax.Array


def wrong(key, inputs, outputs, **fields):
    return Wrong(jnp.ones((outputs, inputs)), **fields)


def leaky(key, inputs, outputs):
    scale = jax.random.normal(key, (outputs,))
    return wrong(key, inputs, outputs, other=lambda y: y * scale)


def of(**fields):
    return functools.partial(wrong, **fields)


def fails(key, inputs, outputs):
    raise ValueError("no such\nlayer")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda k, i, o: wrong(k, i, o + 1), "must map obs [3] to float32 [2], not fl"),
        (lambda k, i, o: wrong(k, i + 1, o), "the module at obs [3] raised TypeError:"),
        (lambda k, i, o: jnp.tanh, "must return an Equinox module, not a "),
        (lambda k, i, o: None, "must return an Equinox module, not a NoneType"),
        (lambda k, i, o: eqx.nn.Identity(), "a Identity has no floating array to lea"),
        (
            lambda k, i, o: NoCall(jnp.ones(2)),
            "raised TypeError: 'NoCall' object is no",
        ),
        (lambda k, i: None, "actor_network raised TypeError: "),
        (fails, "actor_network raised ValueError: no such"),
        (leaky, "actor_network: the module reads an array that is no field of"),
        (
            of(other=np.arange(3)),
            "'other' of a Wrong is an array of int64, which canno",
        ),
        (of(other={1}), "'other' of a Wrong cannot be hashed (unhashable type: 'set')"),
        (
            of(mark=np.ones(1)),
            "'mark' of a Wrong cannot be hashed (unhashable type: 'numpy.nd",
        ),
        (of(other=lambda y: (y, y)), "to float32 [2], not tuple"),
        (of(other=lambda y: y.astype(jnp.bfloat16)), "not bfloat16 [2]"),
    ],
)
@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
def test_a_factory_of_no_use_is_told_in_one_line(factory, message):
    agent = tiny(simpo.TD3, actor_network=factory)
    with pytest.raises(SimpoError, match=re.escape(message)) as error:
        agent.init(KEY, SPEC)
    assert is_one_line(error) and "actor_network" in str(error.value)


def test_mistakes_name_the_network_they_are_in():
    agent = tiny(critic_network=perceptron)  # not a critic's arguments
    with pytest.raises(
        SimpoError, match=r"^critic_network: the module at obs \[3\], action"
    ):
        agent.init(KEY, SPEC)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "an Equinox module from a key and dimensions, not a int"),
        (eqx.nn.Identity(), "key and dimensions, not a Identity"),
        (dataclass(type("Loose", (), {"__call__": print})), None),
        (dataclass(type("Loose", (), {"__call__": print}))(), "cannot be hashed"),
    ],
)
def test_what_is_no_factory_is_refused_when_the_agent_is_made(value, message):
    if message is None:  # a class can be hashed
        assert tiny(actor_network=value)
        return
    with pytest.raises(SimpoError, match=message) as error:
        tiny(actor_network=value)
    assert is_one_line(error)


def test_a_static_rest_is_equal_by_its_parts():
    one, other = (Parameters.init(lambda k: denoiser(k, 2, 3), "n", KEY) for _ in "ab")
    assert one.static is not other.static and one.static == other.static
    assert hash(one.static) == hash(other.static)
    relu = Parameters.init(lambda k: replace_activation(denoiser(k, 2, 3)), "n", KEY)
    assert relu.static != one.static and one.static != 5


def replace_activation(net):
    return eqx.tree_at(lambda net: net.mlp.activation, net, jax.nn.relu)
