"""What every agent promises, checked on each member of the union; then SiMPO's own."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plain_loop import is_one_line
from simpo.agents import (
    AGENTS,
    Agent,
    Mode,
    SiMPO,
    compile_act,
    compile_decide,
    compile_init,
    compile_updates,
)
from simpo.bellman import Aggregate
from simpo.blocks import split_blocks
from simpo.checkpoint import load, save_policy
from simpo.config import from_json, to_json
from simpo.generative import Diffusion, Flow
from simpo.matching import ClippedError, FadingRepulsion, matching_loss
from simpo.temperature import (
    DivergenceTarget,
    DualAscent,
    EntropyTarget,
    Fixed,
    Solved,
)
from simpo.types import SimpoError, Transition
from simpo.weighting import Advantage, Exponential, Linear
from tiny import SPEC, batches, experience, tiny

KEY = jax.random.key(0)


@pytest.fixture(scope="module", params=AGENTS, ids=lambda cls: cls.__name__)
def agent(request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def init(agent):
    """A fresh state from a seed."""
    compiled = compile_init(agent, SPEC)
    return lambda seed=0: compiled(jax.random.key(seed))


@pytest.fixture(scope="module")
def update(agent):
    """Updates: state, batches -> state, metrics; the state is donated."""
    return compile_updates(agent)


@pytest.fixture(scope="module")
def policy(agent, init):
    return agent.policy(init())


def numbers(tree):
    """Leaves as arrays of numbers, random keys included."""

    def number(leaf):
        keys = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if keys else leaf)

    return [number(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(numbers(a), numbers(b), strict=True):
        np.testing.assert_array_equal(x, y)


def differ(a, b):
    pairs = zip(numbers(a), numbers(b), strict=True)
    return any(not np.array_equal(x, y) for x, y in pairs)


# --- the contract ---------------------------------------------------------------


def test_an_agent_is_its_settings(agent):
    again = from_json(json.loads(json.dumps(to_json(agent))), Agent)
    assert again == agent and hash(again) == hash(agent)
    assert replace(agent, batch_size=9) != agent


@pytest.mark.parametrize("compiled", [True, False])
def test_no_two_leaves_of_a_fresh_state_share_a_buffer(agent, init, compiled):
    state = init() if compiled else agent.init(KEY, SPEC)
    leaves = [leaf for leaf in jax.tree.leaves(state) if leaf.size]
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    leaves = [
        jax.random.key_data(leaf) if key else leaf
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves]
    assert len(set(pointers)) == len(pointers)


def test_updates_take_over_the_state_and_can_go_on(agent, init, update):
    first = init()
    second, _ = update(first, experience(agent))
    third, _ = update(second, experience(agent, seed=1))
    for gone in (first, second):
        assert any(leaf.is_deleted() for leaf in jax.tree.leaves(gone))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(third))


def test_an_update_keeps_the_structure_of_the_state(agent, init):
    batch = jax.tree.map(lambda x: x[0], experience(agent))
    before = jax.eval_shape(init)
    after, metrics = jax.eval_shape(agent.update, before, batch)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for old, new in zip(*map(jax.tree.leaves, (before, after)), strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
        assert old.weak_type == new.weak_type
    for metric in metrics.values():
        assert metric.shape == () and metric.dtype == jnp.float32


def test_updates_compile_once(agent, init, update):
    state, _ = update(init(), experience(agent))
    compiled = update._cache_size()
    for seed in range(3):
        state, _ = update(state, experience(agent, seed=seed))
    assert update._cache_size() == compiled


def test_equal_agents_share_what_is_compiled(agent):
    assert compile_updates(replace(agent)) is compile_updates(agent)
    assert compile_act(replace(agent), Mode()) is compile_act(agent, Mode())
    assert compile_init(replace(agent), SPEC) is compile_init(agent, SPEC)


def test_metrics_are_finite(agent, init, update):
    _, metrics = update(init(), experience(agent, seed=2))
    assert any(name.endswith("_loss") for name in metrics)
    for name, values in metrics.items():
        assert values.shape == (4,), name
        assert np.isfinite(values).all(), name


def test_one_seed_gives_one_result(agent, init, update):
    results = [update(init(seed), experience(agent)) for seed in (0, 0, 1)]
    assert_same(results[0], results[1])
    assert differ(results[0], results[2])


def test_several_updates_are_single_updates_in_turn(agent, init, update):
    data = experience(agent)
    together, metrics = update(init(), data)
    state, rows = init(), []
    for g in range(4):
        state, row = update(state, jax.tree.map(lambda x, g=g: x[g : g + 1], data))
        rows.append(row)
    for x, y in zip(numbers(together), numbers(state), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    for name, values in metrics.items():
        single = np.concatenate([row[name] for row in rows])
        np.testing.assert_allclose(values, single, rtol=1e-4, atol=1e-6, err_msg=name)


def test_every_update_has_randomness_of_its_own(agent, init, update):
    """The same update at another step draws otherwise."""
    later = init()
    later = later._replace(step=later.step + 1)
    data = experience(agent, 1)
    states = [update(state, data)[0] for state in (init(), init(), later)]
    actors = [agent.policy(state).actor for state in states]
    assert_same(actors[0], actors[1])
    assert differ(actors[0], actors[2])


@pytest.mark.parametrize(
    "mode", [Mode(), Mode(best_of=3), Mode(noise=2.0), Mode(best_of=2, noise=0.1)]
)
def test_actions_are_in_the_box(agent, policy, mode):
    act = compile_act(agent, mode)
    if agent.rollout_steps and mode.best_of > 1:  # no values of actions to choose by
        with pytest.raises(SimpoError, match="no action values"):
            act(policy, batches().obs[0], KEY, 0)
        return
    obs = 100 * np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    action = np.asarray(act(policy, obs, KEY, 0))
    assert action.shape == (8, 2) and action.dtype == np.float32
    assert (np.abs(action) <= 1).all()
    assert mode.noise < 1 or (np.abs(action) == 1).any()
    np.testing.assert_array_equal(action, act(policy, obs, KEY, 0))


def test_decisions_of_two_steps_differ(agent, policy):
    decide, obs = compile_decide(agent), batches().obs[0]
    first, second = (np.asarray(decide(policy, obs, KEY, step)) for step in (0, 1))
    assert first.shape == second.shape and first.shape[1] >= SPEC.action_dim
    assert not np.array_equal(first[:, -2:], second[:, -2:])


def test_modes_have_names_of_their_own(agent):
    labels = [mode.label for mode in agent.evaluating]
    assert len(set(labels)) == len(labels) > 0
    assert all(mode.noise == 0 for mode in agent.evaluating)


def test_candidates_can_be_explained(agent, init):
    explained = jax.jit(agent.explain)(init(), batches().obs[0], KEY)
    if explained is not None:
        q, weights = explained
        assert q.shape == weights.shape and q.shape[0] == 8
        assert np.isfinite(q).all() and np.isfinite(weights).all()


def test_a_policy_is_a_part_of_the_state_and_can_be_saved(agent, init, tmp_path):
    policy = agent.policy(init(5))
    saved = load(save_policy(tmp_path / "p", agent, SPEC, policy, env="e", step=0))
    assert saved.agent == agent
    assert_same(saved.policy, policy)
    obs = batches().obs[0]
    expected = compile_act(agent, Mode(deterministic=True))(policy, obs, KEY, 0)
    action, _ = saved.predict(obs, deterministic=True)
    np.testing.assert_array_equal(action, expected)


def test_learning_changes_the_policy(agent, init, update):
    before = agent.policy(init())
    after, _ = update(init(), experience(agent))
    assert differ(before.actor, agent.policy(after).actor)
    assert differ(before.critics, agent.policy(after).critics)


@pytest.mark.parametrize(
    ("mode", "label"),
    [
        (Mode(), "single"),
        (Mode(best_of=10), "best-of-10"),
        (Mode(noise=0.1), "single+noise-0.1"),
        (Mode(4, 0.25), "best-of-4+noise-0.25"),
        (Mode(deterministic=True), "deterministic"),
        (Mode(2, deterministic=True), "best-of-2-deterministic"),
    ],
)
def test_labels(mode, label):
    assert mode.label == label


@pytest.mark.parametrize("values", [(0, 0.0), (-1, 0.0), (1, -0.1)])
def test_impossible_modes(values):
    with pytest.raises(SimpoError):
        Mode(*values)


# --- SiMPO ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def simpo_state():
    agent = tiny()
    state = compile_init(agent, SPEC)(KEY)
    state, _ = compile_updates(agent)(state, batches())
    return state


def test_the_behaviour_policy_is_copied_at_its_interval():
    agent = tiny()  # behaviour_interval=2
    update = compile_updates(agent)
    state = compile_init(agent, SPEC)(KEY)
    behaviour = numbers(state.behaviour)
    for k in range(6):
        if k % 2 == 0:
            behaviour = numbers(state.actor)
        one = Transition(*(x[:1] for x in batches(seed=k)))
        state, _ = update(state, one)
        for kept, now in zip(behaviour, numbers(state.behaviour), strict=True):
            np.testing.assert_array_equal(kept, now)
        assert differ(state.behaviour, state.actor)


@partial(jax.jit, static_argnums=0)
def plain_update(agent, state, batch):
    """Algorithm 1 once more, from its equations, with the weights as constants."""
    target_key, sample_key, match_key = jax.random.split(
        jax.random.fold_in(state.key, state.step), 3
    )
    copy = state.step % agent.behaviour_interval == 0
    behaviour = jax.lax.cond(copy, lambda: state.actor, lambda: state.behaviour)

    next_action = agent.model.sample(state.actor, target_key, batch.next_obs, 1)[:, 0]
    next_q = jnp.min(state.target_critics(batch.next_obs, next_action), axis=0)
    y = agent.reward_scale * batch.reward + agent.gamma * batch.discount * next_q

    def critic_error(critics):
        return jnp.mean((critics(batch.obs, batch.action) - y[None]) ** 2)

    adam = optax.adam(agent.critic_lr)
    grads = jax.grad(critic_error)(state.critics)
    change, _ = adam.update(grads, state.critic_opt)
    critics = jax.tree.map(jnp.add, state.critics, change)

    candidates = agent.draw_candidates(behaviour, batch.obs, sample_key)
    b, n, a = candidates.shape
    flat = jnp.repeat(batch.obs, n, axis=0), candidates.reshape(b * n, a)
    q = jnp.mean(critics(*flat), axis=0).reshape(b, n)
    weights = agent.weighting(q, agent.temperature.value).values

    def mismatch(actor):
        (key,), _ = split_blocks(match_key, batch.obs, n)
        return matching_loss(
            agent.model,
            actor,
            key,
            candidates,
            weights,
            batch.obs,
            agent.bound,
            state.step,
        )[0]

    adam = optax.adam(agent.actor_rate)
    change, _ = adam.update(jax.grad(mismatch)(state.actor), state.actor_opt)
    return state._replace(
        actor=jax.tree.map(jnp.add, state.actor, change),
        behaviour=behaviour,
        critics=critics,
        target_critics=jax.tree.map(
            lambda old, new: (1 - agent.tau) * old + agent.tau * new,
            state.target_critics,
            critics,
        ),
    )


@pytest.mark.parametrize("bound", [ClippedError(), FadingRepulsion(6)], ids=str)
def test_an_update_is_the_algorithm(bound):
    """With the weights held constant the step is the same: none flows through them."""
    agent = tiny(bound=bound)
    update = compile_updates(agent)
    state = compile_init(agent, SPEC)(KEY)
    for k in range(4):
        one = batches(1, seed=k)
        expected = plain_update(agent, state, Transition(*(x[0] for x in one)))
        state, metrics = update(state, one)
        assert float(metrics["weight_negative_mass"][0]) > 0.01
        for name in ("actor", "behaviour", "critics", "target_critics"):
            new, old = numbers(getattr(state, name)), numbers(getattr(expected, name))
            for x, y in zip(new, old, strict=True):
                np.testing.assert_allclose(x, y, atol=2e-5, err_msg=name)


def test_candidates_and_their_noise_stay_in_the_box(simpo_state):
    obs = batches().obs[0]
    plain = tiny(candidate_noise=0.0)
    noisy = replace(plain, candidate_noise=3.0)
    drawn = plain.draw_candidates(simpo_state.behaviour, obs, KEY)
    sample_key, _ = jax.random.split(KEY)
    direct = plain.model.sample(simpo_state.behaviour, sample_key, obs, 4)
    np.testing.assert_array_equal(drawn, direct)
    spread = noisy.draw_candidates(simpo_state.behaviour, obs, KEY)
    assert spread.shape == drawn.shape == (8, 4, 2)
    assert (np.abs(spread) <= 1).all() and (np.abs(spread) == 1).mean() > 0.5
    assert not np.array_equal(spread, drawn)


def test_best_of_n_is_the_argmax_of_the_smaller_value(simpo_state):
    agent, obs = tiny(), batches().obs[0]
    sample_key, _ = jax.random.split(KEY)

    @jax.jit
    def choose(state):
        actions = agent.model.sample(state.actor, sample_key, obs, 5)
        values = [state.critics(obs, actions[:, n]) for n in range(5)]
        chosen = agent.best(state.actor, state.critics, obs, sample_key, 5)
        acted = agent.act(agent.policy(state), obs, KEY, Mode(best_of=5))
        return actions, jnp.stack(values, -1), chosen, acted

    actions, values, (action, q), acted = choose(simpo_state)
    best = np.asarray(values).min(axis=0).argmax(axis=-1)
    assert len(set(best.tolist())) > 1
    rows = np.arange(len(obs))
    np.testing.assert_allclose(action, actions[rows, best], atol=1e-6)
    np.testing.assert_allclose(q, values[:, rows, best], atol=1e-6)
    np.testing.assert_allclose(acted, action, atol=1e-6)


def test_how_critics_are_joined_matters(simpo_state):
    obs, batch = batches().obs[0], Transition(*(x[0] for x in batches()))

    @jax.jit
    def use(state):
        agents = [tiny(weight_critic=how, target_critic=how) for how in Aggregate]
        explained = [agent.explain(state, obs, KEY) for agent in agents]
        targets = [
            agent.policy_evaluation(state.actor, state, batch, KEY)[2]["q_target"]
            for agent in agents
        ]
        return explained, targets

    assert list(Aggregate) == [Aggregate.MEAN, Aggregate.MIN]
    ((mean_q, mean_w), (min_q, min_w)), targets = use(simpo_state)
    assert (min_q <= mean_q).all() and (min_q < mean_q).any()
    assert not np.allclose(min_w, mean_w)
    assert float(targets[1]) < float(targets[0])


def test_best_of_n_in_the_target_raises_it(simpo_state):
    batch = Transition(*(x[0] for x in batches()))

    @jax.jit
    def targets(state):
        return [
            tiny(target_samples=n).policy_evaluation(state.actor, state, batch, KEY)[2][
                "q_target"
            ]
            for n in (1, 20)
        ]

    single, best = targets(simpo_state)
    assert float(best) > float(single)


def test_explained_weights_are_those_of_the_weighting(simpo_state):
    agent = tiny(weighting=Exponential(), temperature=Fixed(0.5))
    q, weights = agent.explain(simpo_state, batches().obs[0], KEY)
    expected = 4 * jax.nn.softmax(q / 0.5, axis=-1)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_the_actors_rate_is_annealed_and_then_stays():
    agent = tiny(actor_lr=1e-2, actor_lr_end=1e-3, actor_lr_updates=4)
    expected = [1e-2, 7.75e-3, 5.5e-3, 3.25e-3, 1e-3, 1e-3, 1e-3]
    params, grads = jnp.zeros(3), jnp.ones(3)
    optimiser, moved = agent.actor_optimiser, []
    opt = optimiser.init(params)
    for step, rate in enumerate(expected):
        change, opt = optimiser.update(grads, opt)
        moved.append(-float(change[0]))  # Adam moves by its rate on equal gradients
        assert float(agent.actor_rate(step)) == pytest.approx(rate, rel=1e-5)
    assert moved == pytest.approx(expected, rel=1e-4)
    constant = tiny(actor_lr=1e-2, actor_lr_end=1e-3, actor_lr_updates=0)
    assert [float(constant.actor_rate(k)) for k in (0, 10**6)] == [
        pytest.approx(1e-2),
        pytest.approx(1e-2),
    ]


def test_the_logged_rate_is_the_one_used(simpo_state):
    agent = tiny()
    before = int(simpo_state.step)
    state = jax.tree.map(jnp.copy, simpo_state)
    _, metrics = compile_updates(agent)(state, batches())
    expected = [float(agent.actor_rate(before + g)) for g in range(4)]
    np.testing.assert_allclose(metrics["learning_rate"], expected, rtol=1e-6)


def test_gradients_are_clipped_by_their_global_norm():
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    for limit, scale in ((None, 1.0), (10.0, 1.0), (2.5, 0.5)):
        agent = tiny(max_grad_norm=limit)
        optimiser = agent.critic_optimiser
        _, opt = optimiser.update(grads, optimiser.init(grads))
        adam = optax.tree_utils.tree_get(opt, "mu")
        assert float(adam["a"][0]) == pytest.approx(0.1 * 3 * scale, rel=1e-5)


def test_modes_of_collecting_and_evaluating():
    agent = tiny(acting_samples=3, acting_noise=0.2, best_of=5)
    assert agent.collecting == Mode(3, 0.2)
    assert agent.evaluating == (Mode(), Mode(best_of=5))
    assert tiny(best_of=1).evaluating == (Mode(),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({name: 0}, f"{name} must be at least 1")
            for name in (
                "candidates",
                "batch_size",
                "target_samples",
                "acting_samples",
                "best_of",
                "behaviour_interval",
                "critics",
                "width",
                "depth",
                "critic_width",
                "critic_depth",
            )
        ),
        ({"candidate_noise": -0.1}, "candidate_noise must not be negative"),
        ({"acting_noise": float("nan")}, "acting_noise must not be negative"),
        ({"actor_lr_updates": -1}, "actor_lr_updates must not be negative"),
        ({"actor_lr": 0.0}, "actor_lr must be positive and finite"),
        ({"critic_lr": float("inf")}, "critic_lr must be positive and finite"),
        ({"gamma": 1.1}, "gamma must be between 0 and 1"),
        ({"tau": float("nan")}, "tau must be between 0 and 1"),
        (
            {"temperature": DualAscent(EntropyTarget(1.5)), "candidates": 4},
            "1.5 nats is out of reach of 4 candidates: it must be below ln 4 = 1.39",
        ),
        (
            {"temperature": Solved(EntropyTarget(1.5)), "candidates": 4},
            "out of reach of 4 candidates",
        ),
        (
            {
                "temperature": Solved(DivergenceTarget(50.0)),
                "weighting": Linear(floor=-0.2),
            },
            "out of reach of 4 candidates",
        ),
        (
            {"weighting": Advantage(), "temperature": Solved(EntropyTarget(0.5))},
            "Advantage only scales with temperature",
        ),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(SimpoError) as error:
        tiny(**changes)
    assert message in str(error.value)
    assert is_one_line(error)


@pytest.mark.parametrize(
    "model", [Flow(denoising_steps=2), Diffusion(denoising_steps=2)]
)
def test_every_model_fits(model):
    agent = tiny(SiMPO, model=model)
    state = jax.eval_shape(lambda: agent.init(KEY, SPEC))
    batch = Transition(*(x[0] for x in batches()))
    after, _ = jax.eval_shape(agent.update, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
