"""Malformed files load or are refused in one line; nothing is executed or written.

Thousands of policy folders, checkpoints and option texts, mutated by structure and by
byte. While each is read, an audit hook records whatever could do harm.
"""

import contextlib
import functools
import json
import os
import shutil
import struct
import sys
import time
import tracemalloc

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from simpo import checkpoint, snapshots
from simpo.agents import AGENTS, Agent
from simpo.checkpoint import load, make_template, save_policy
from simpo.config import UNIONS, from_json, parse, to_json
from simpo.types import SimpoError
from tiny import SPEC, tiny

EXAMPLES = {
    "config": 500,
    "config bytes": 350,
    "header": 400,
    "model bytes": 350,
    "manifest": 250,
    "numbers": 150,
    "text": 500,
}
"""Malformed inputs, by what is mutated."""


def fuzzed(kind):
    """Settings of a test; the examples are the same at every run."""
    return settings(
        max_examples=EXAMPLES[kind],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def test_these_are_thousands():
    assert sum(EXAMPLES.values()) >= 2_000


# What must not happen

WATCHED = {
    *("exec", "import", "pickle.find_class", "marshal.loads", "ctypes.dlopen"),
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"),
    *("os.link", "os.symlink", "socket.connect", "socket.bind", "urllib.Request"),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
harm, watching = [], []


def note(event, arguments):
    """Record what could do harm, while a file is read."""
    if watching and (
        event in WATCHED or (event == "open" and (arguments[2] or 0) & WRITING)
    ):
        harm.append((event, arguments))


sys.addaudithook(note)  # for good: it cannot be taken away


@contextlib.contextmanager
def harmless():
    """Nothing is executed, imported, written or connected to."""
    harm.clear()
    watching.append(True)
    try:
        yield
    finally:
        watching.clear()
    assert not harm, harm


def reads_or_refuses(read):
    """Whether it is read; otherwise the refusal is one line of bounded length."""
    try:
        with harmless():
            read()
    except SimpoError as error:
        assert str(error).isprintable() and len(str(error)) < 1_000
        return False
    return True


@pytest.mark.parametrize("code", ["import this", "import os; os.system('true')"])
def test_the_watch_sees_what_would_happen(code):
    with pytest.raises(AssertionError), harmless(), contextlib.redirect_stdout(None):
        sys.modules.pop("this", None)
        exec(compile(code, "x", "exec"), {})


def test_the_watch_sees_writing(tmp_path):
    with pytest.raises(AssertionError), harmless():
        (tmp_path / "x").write_text("")
    with harmless():
        (tmp_path / "x").read_text()


# What is mutated


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A valid policy folder, loaded once: what is imported late is there."""
    agent = tiny()
    policy = agent.policy(
        jax.jit(agent.init, static_argnums=1)(jax.random.key(0), SPEC)
    )
    path = tmp_path_factory.mktemp("valid") / "policy"
    load(save_policy(path, agent, SPEC, policy, env="Hopper-v5", step=1))
    with contextlib.suppress(SimpoError):
        parse("a(", Agent)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    """A policy folder that a test may damage."""
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def same_networks(monkeypatch):
    """The template of networks is traced once per agent, since it is not mutated."""
    cached = functools.cache(make_template)
    monkeypatch.setattr(checkpoint, "make_template", cached)


CODE = "__import__('os').system('touch executed')"
WORDS = [
    "SiMPO",
    "SAC",
    "Linear",
    "Custom",
    "DualAscent",
    "Diffusion",
    "Flow",
    "object",
]
TEXTS = (
    st.sampled_from(["__class__", "__init__", "__reduce__", "type", CODE, "\n\r\x00"])
    | st.sampled_from(["os.system", "é" * 40, "\u202e\u2028", "\ud800", "a" * 5_000])
    | st.sampled_from(WORDS)
    | st.text(max_size=8)
)
NUMBERS = (
    st.integers(-3, 40)
    | st.sampled_from([2**31, 2**63, 10**9, 10**30, 10**400, -(10**30)])
    | st.floats()
)


def nested(depth):
    """A list in a list in a list ..."""
    return functools.reduce(lambda inner, _: [inner], range(depth), [])


VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from([nested(90)]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "target", "floor", "model", "size"]) | TEXTS,
            inner,
            max_size=3,
        )
    ),
    max_leaves=4,
)


def places(data, path=()):
    """Every path into JSON data, the whole of it first."""
    yield path
    items = data.items() if isinstance(data, dict) else ()
    items = enumerate(data) if isinstance(data, list) else items
    for key, value in items:
        yield from places(value, (*path, key))


def put(data, path, value):
    """JSON data with a value in one place, or without what was there."""
    if not path:
        return {} if value is ... else value
    if not isinstance(data, (dict, list)) or (
        path[0] not in data if isinstance(data, dict) else path[0] >= len(data)
    ):
        return data  # an earlier change has taken the place away
    data = data.copy()
    data[path[0]] = put(data[path[0]], path[1:], value)
    if len(path) == 1 and value is ...:
        del data[path[0]]
    return data


@st.composite
def changed(draw, valid):
    """Valid JSON data with up to three things changed, added or taken away."""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(valid))))
        value = draw(VALUES | st.just(...))
        here = functools.reduce(lambda data, key: data[key], path, valid)
        if isinstance(here, dict) and draw(st.booleans()):
            value = here | {draw(TEXTS): draw(VALUES)}
        valid = put(valid, path, value)
    return valid


@st.composite
def damaged(draw, valid):
    """Bytes that are cut, flipped, doubled or replaced."""
    data, size = bytearray(valid), len(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, size - 1))
        match draw(st.sampled_from(["flip", "cut", "insert", "random"])):
            case "flip":
                data[at : at + 1] = bytes(
                    b ^ draw(st.integers(1, 255)) for b in data[at : at + 1]
                )
            case "cut":
                del data[at : at + draw(st.integers(1, size))]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=16))
            case "random":
                junk = draw(st.binary(min_size=1, max_size=64))
                data[at : at + len(junk)] = junk
    return bytes(data)


def dump(data):
    """JSON bytes; lone surrogates as escapes, NaN and infinities as JSON lacks them."""
    return json.dumps(data).encode()


# Policies


@fuzzed("config")
@given(data=st.data())
def test_any_config_loads_or_is_refused(folder, copy, data):
    valid = json.loads((folder / "config.json").read_bytes())
    (copy / "config.json").write_bytes(dump(data.draw(changed(valid))))
    reads_or_refuses(lambda: load(copy))


@fuzzed("config bytes")
@given(data=st.data())
def test_any_bytes_of_a_config_load_or_are_refused(folder, copy, data):
    valid = (folder / "config.json").read_bytes()
    (copy / "config.json").write_bytes(data.draw(damaged(valid)))
    reads_or_refuses(lambda: load(copy))


def pack(header, tensors, length=None):
    """A safetensors file of a header, as JSON data or bytes, and its numbers."""
    raw = header if isinstance(header, bytes) else dump(header)
    return struct.pack("<Q", len(raw) if length is None else length) + raw + tensors


def unpack(path):
    """Header and numbers of a safetensors file."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F64", "F16", "BF16", "I64", "BOOL", "C64"])
        | st.sampled_from(["F4", "F8_E4M3", "X"]),
        "shape": st.lists(st.integers(-1, 9) | NUMBERS, max_size=5),
        "data_offsets": st.lists(st.integers(-1, 8_000) | NUMBERS, max_size=3),
    },
)


@fuzzed("header")
@given(data=st.data())
def test_any_header_of_a_model_loads_or_is_refused(folder, copy, same_networks, data):
    header, tensors = unpack(folder / "model.safetensors")
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(header)) | TEXTS)
        header |= {name: header.get(name, {}) | data.draw(ENTRIES)}
    else:
        header = data.draw(changed(header))
    raw = dump(header)
    if data.draw(st.booleans()):
        raw = raw.replace(b"F32", data.draw(st.binary(max_size=4)), 1)
    length = data.draw(st.just(len(raw)) | st.integers(0, 2**64 - 1))
    kept = data.draw(st.just(len(tensors)) | st.integers(0, len(tensors)))
    model = pack(raw, tensors[:kept], length)
    (copy / "model.safetensors").write_bytes(model)
    reads_or_refuses(lambda: load(copy))


@fuzzed("model bytes")
@given(data=st.data())
def test_any_bytes_of_a_model_load_or_are_refused(folder, copy, same_networks, data):
    valid = (folder / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data.draw(damaged(valid)))
    reads_or_refuses(lambda: load(copy))


@pytest.mark.parametrize("cls", AGENTS, ids=lambda cls: cls.__name__)
def test_huge_numbers_in_a_config_cost_neither_memory_nor_time(cls, tmp_path):
    """Every whole number of every agent, 10^9; nothing of that size is allocated."""
    valid, path = to_json(tiny(cls)), tmp_path / "config.json"
    make_template(from_json(valid, Agent), SPEC, path)
    whole = [
        place
        for place in places(valid)
        if type(functools.reduce(lambda data, key: data[key], place, valid)) is int
    ]
    assert len(whole) > 4
    for place in whole:
        tracemalloc.start()
        started = time.process_time()
        with contextlib.suppress(SimpoError):
            agent = from_json(put(valid, place, 10**9), Agent)
            checkpoint.require_layers(agent, 30, path)
            make_template(agent, SPEC, path)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 50e6, place
        assert time.process_time() - started < 5, place


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted otherwise")
def peak_memory():
    """Kilobytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.fixture(scope="module", autouse=True)
def memory_before():
    return peak_memory()


def test_all_the_files_so_far_cost_no_memory(memory_before):
    """10^9 numbers would be 4 GB."""
    assert peak_memory() - memory_before < 2e6


def test_a_policy_folder_has_no_pickle_that_anything_reads(copy):
    (copy / "environments.pickle").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    (copy / "model.pkl").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    assert reads_or_refuses(lambda: load(copy))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_endless_file_is_not_read(copy, name):
    (copy / name).unlink()
    (copy / name).symlink_to("/dev/zero")
    assert not reads_or_refuses(lambda: load(copy))


def test_an_enormous_config_is_not_read(copy):
    with (copy / "config.json").open("wb") as file:
        file.truncate(2**40)  # a hole, not blocks
    assert not reads_or_refuses(lambda: load(copy))


# Checkpoints


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run directory with one checkpoint."""
    path = tmp_path_factory.mktemp("run")
    numbers = {"step": 5, "rng": {"state": {"inc": 2**120}}, "episodes": [[0, 1.5]]}
    numbers["logs"] = {"progress.csv": [["step"], 3], "timing.csv": [[], 0]}
    arrays = {"agent.weight": np.ones((2, 3), np.float32)}
    blocks = {0: np.ones((4, 2))}
    snapshot = snapshots.Snapshot(5, numbers, arrays, b"simulators", blocks, 1)
    snapshots.write(path, snapshot, None)
    return path


@pytest.fixture
def foreign(run, tmp_path):
    """A copy of it, in which a test may change a file."""
    return shutil.copytree(run, tmp_path / "run")


def read_newest(directory):
    """What resuming reads of a run that it was told to trust; not the pickle."""
    found = snapshots.newest(directory, trust=True)
    return found and snapshots.read(found)


ESCAPES = ["../../config.json", "/etc/passwd", "replay/../../x", "..", "", "a\x00b"]
ESCAPES += ["\n", "x" * 300, "C:\\x", "\ud800"]


@fuzzed("manifest")
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::simpo.types.SimpoWarning")
def test_any_manifest_agrees_or_is_refused(run, foreign, data):
    (path,) = foreign.rglob("manifest.json")
    (valid,) = (p.read_bytes() for p in run.rglob("manifest.json"))
    manifest = json.loads(valid)
    match data.draw(st.sampled_from(["names", "structure", "bytes"])):
        case "names":
            files = manifest["files"]
            entry = data.draw(st.sampled_from(list(files.values())) | VALUES)
            name = data.draw(st.sampled_from(ESCAPES) | TEXTS)
            path.write_bytes(dump(manifest | {"files": files | {name: entry}}))
        case "structure":
            path.write_bytes(dump(data.draw(changed(manifest))))
        case "bytes":
            path.write_bytes(data.draw(damaged(valid)))
    reads_or_refuses(lambda: snapshots.verify(path.parent))
    found = []
    reads_or_refuses(lambda: found.append(snapshots.newest(foreign)))
    if any(found):  # without having been told to trust it
        assert json.loads(path.read_bytes()).items() >= manifest.items()


def sign_off(path):
    """Make a manifest agree with a file that was changed; the mark stays as it was."""
    manifest = json.loads((path.parent / "manifest.json").read_bytes())
    manifest["files"][path.name] = snapshots.describe(path)
    (path.parent / "manifest.json").write_bytes(dump(manifest))


@fuzzed("numbers")
@given(data=st.data())
def test_any_numbers_are_read_or_refused(run, foreign, data):
    """Where someone has made the manifest agree, and the user has said to trust it."""
    (path,) = foreign.rglob("numbers.json")
    (valid,) = (p.read_bytes() for p in run.rglob("numbers.json"))
    if data.draw(st.booleans()):
        path.write_bytes(dump(data.draw(changed(json.loads(valid)))))
    else:
        path.write_bytes(data.draw(damaged(valid)))
    sign_off(path)
    if reads_or_refuses(lambda: read_newest(foreign)):
        logs = read_newest(foreign).numbers.get("logs", {})
        assert all(name.endswith(".csv") and "/" not in name for name in logs)


@pytest.mark.parametrize("name", ["numbers.json", "environments.pickle", "replay"])
def test_links_out_of_a_checkpoint_are_refused(foreign, tmp_path, name):
    """Even where what they lead to agrees with the manifest."""
    (path,) = foreign.rglob(name)
    elsewhere = path.rename(tmp_path / "elsewhere")
    path.symlink_to(elsewhere)
    with pytest.raises(SimpoError, match=f"{name} is a link"):
        snapshots.verify(path.parent)


def test_a_replay_block_with_objects_is_refused(foreign):
    """NumPy keeps arrays of objects as pickles."""
    (path,) = foreign.rglob("000000.npy")
    np.save(path, np.array([{}], object), allow_pickle=True)
    manifest = path.parent.parent / "manifest.json"
    data = json.loads(manifest.read_bytes())
    data["files"]["replay/000000.npy"] = snapshots.describe(path)
    manifest.write_bytes(dump(data))
    assert not reads_or_refuses(lambda: read_newest(foreign))


# Options

PIECES = st.sampled_from(
    """Linear Square Custom DualAscent Flow Diffusion DDIM floor target solver ( ) = ,
    [ ] { } ' " : . * ** + - ~ lambda not in if else for await yield f'' b'' _ __
    __import__ os system -0.2 1e999 10**9 999999999999 0x 1_0 nan None True ... \\ # ;
    := é \u202e \x00 @ ! % & | < > / // \ufeff""".split()  # noqa: SIM905
)


@fuzzed("text")
@given(data=st.data())
def test_any_option_is_parsed_or_refused(folder, data):
    union = data.draw(st.sampled_from(sorted(UNIONS, key=str)))
    pieces = data.draw(st.lists(PIECES | TEXTS, max_size=8))
    name = data.draw(st.sampled_from(UNIONS[union])).__name__
    field = data.draw(st.sampled_from(["floor", "denoising_steps", "model", "value"]))
    shape = data.draw(st.sampled_from(["{}", "{0}({1}={2})", "{0}({2})", "{2}"]))
    inner = data.draw(st.sampled_from(["", " ", "\n"])).join(pieces)
    text = shape.format(name, field, inner) if shape != "{}" else inner
    reads_or_refuses(lambda: parse(text, union))


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        f"Linear(floor={CODE})",
        "Linear(floor=(lambda: 1)())",
        "Linear(**{'floor': 1})",
        "Linear.__class__(floor=1)",
        "Linear(floor=9**9**9)",
        "Linear(floor=" + "(" * 500 + "1" + ")" * 500 + ")",
        "Linear(floor=" + "-" * 100_000 + "1)",
        "Linear(floor=" + "9" * 10_000 + ")",
        "Linear(" * 3_000,
        "x" * 100_000,
        "Linear(floor=f'{1}')",
    ],
    ids=range(12),
)
def test_code_in_an_option_is_refused(folder, text):
    union = next(u for u in UNIONS if u.__name__ == "Weighting")
    assert not reads_or_refuses(lambda: parse(text, union))
