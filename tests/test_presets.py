import json

import pytest

from plain_loop import is_one_line
from simpo.config import from_json, to_json
from simpo.envs import ENVIRONMENTS
from simpo.generative import DDPM, Cosine, Diffusion, Noise
from simpo.presets import DEFAULT_ENV, DEFAULT_PRESET, PRESETS, agent_names, find
from simpo.run import Run
from simpo.temperature import DualAscent, EntropyTarget
from simpo.types import SimpoError

by_name = pytest.mark.parametrize("name", PRESETS)


def updates(run):
    return (run.steps - run.warmup_steps) * run.updates_per_step


rows = pytest.mark.parametrize(
    ("name", "agent"),
    [(name, agent) for name in PRESETS for agent in agent_names(name)],
)


@rows
def test_a_preset_can_run_and_be_written_down(name, agent):
    preset = PRESETS[name]
    row = preset.rows[agent]
    families = preset.families or ("Hopper",)
    for family in families:
        run = find(name, f"{family}-v5", agent)
        run.check()
        assert run.label == agent
        assert from_json(json.loads(json.dumps(to_json(run))), Run) == run
    assert row.source and preset.source and "\n" not in row.source + preset.source


@by_name
def test_another_task_changes_the_task_alone_unless_it_is_listed(name):
    preset = PRESETS[name]
    assert find(name) == preset.run
    assert preset.run.env in ENVIRONMENTS
    protocol = preset.others.get("Walker2d", preset).run
    walker = find(name, "Walker2d-v5")
    assert walker.env == "Walker2d-v5"
    assert to_json(walker) | {"env": 0} == to_json(protocol) | {"env": 0}
    for label, row in preset.rows.items():
        for family, agent in row.tasks.items():
            assert find(name, f"{family}-v5", label).agent == agent != row.agent


@rows
@pytest.mark.parametrize("env", [None, "Hopper-v5"])
def test_agents_share_the_protocol(name, agent, env):
    """Steps and environments are those of the preset; agents on policy need no more."""
    ours, run = find(name, env), find(name, env, agent)
    assert run.num_envs == ours.num_envs and run.eval_episodes == ours.eval_episodes
    if run.agent.rollout_steps:
        assert run.steps == ours.steps - (name == "paper") * ours.warmup_steps
    else:
        assert updates(run) == updates(ours) and run.steps == ours.steps


@rows
def test_rates_are_annealed_over_the_updates_of_the_run(name, agent):
    preset = PRESETS[name]
    for env in {preset.run.env, *(f"{family}-v5" for family in preset.others)}:
        run = find(name, env, agent)
        over = getattr(run.agent, "actor_lr_updates", 0)
        assert name == "smoke" or over in (0, updates(run))


def test_locomotion_has_a_protocol_of_its_own_on_a_laptop():
    pendulum, walker = find("laptop"), find("laptop", "simpo/WalkerRun-exp-v0")
    assert updates(walker) > updates(pendulum)
    assert walker.agent.candidate_noise < pendulum.agent.candidate_noise
    assert find("laptop", "Ant-v4").agent == find("laptop", "Ant-v5").agent
    with pytest.raises(SimpoError, match="did you mean 'SAC'"):
        find("laptop", "Ant-v4", "SAK")


def test_agents_are_found_whatever_their_case():
    assert find("laptop", agent="sac") == find("laptop", agent="SAC")


def test_the_default_is_there():
    assert find(DEFAULT_PRESET).env == DEFAULT_ENV


def test_the_paper_preset_is_its_table():
    run = find("paper", "Ant-v4")
    agent = run.agent
    assert (run.env, run.num_envs, updates(run)) == ("Ant-v4", 5, 200_000)
    assert run.updates_per_step * run.num_envs == 1
    assert agent.candidates == 32
    assert agent.temperature == DualAscent(EntropyTarget(1.5))
    assert agent.model == Diffusion(
        schedule=Cosine(), prediction=Noise(), sampler=DDPM(), denoising_steps=20
    )
    assert (agent.width, agent.depth, agent.activation) == (256, 3, "mish")
    rates = [float(agent.actor_rate(k)) for k in (0, 200_000)]
    assert rates == pytest.approx([3e-4, 3e-5])
    assert (agent.batch_size, agent.gamma, agent.tau) == (256, 0.99, 0.005)


def test_the_port_updates_once_per_step():
    run = find("port", "Hopper-v5")
    assert (run.num_envs, run.updates_per_step, run.agent.candidates) == (1, 1.0, 64)
    assert run.agent.temperature.target.nats == 2.5
    assert find("port", "Ant-v5").agent.temperature.target.nats == 1.5
    assert find("port").agent.temperature.target.nats == 2.0


def test_the_laptop_preset_is_small():
    agent, paper = find("laptop").agent, find("paper").agent
    assert agent.width * agent.depth < paper.width * paper.depth
    assert agent.model.denoising_steps < paper.model.denoising_steps
    assert agent.weighting.floor < 0
    assert updates(find("laptop")) < 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("papr",), "unknown preset 'papr'; did you mean 'paper'?"),
        (("x",), "unknown preset 'x'; choose laptop, paper, port"),
        (("",), "unknown preset ''; choose"),
        (("laptop", None, "sacc"), "'sacc'; did you mean 'SAC'?"),
        (("port", None, "PPO"), "unknown agent of preset port 'PPO'; choose SiMPO"),
        (("paper", "Reacher-v5"), "the preset paper has no values for Reacher-v5"),
    ],
)
def test_what_is_not_there(arguments, message):
    with pytest.raises(SimpoError) as error:
        find(*arguments)
    assert message in str(error.value)
    assert is_one_line(error)
