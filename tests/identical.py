"""Whether two runs came out the same, byte by byte."""

RESULTS = ("progress.csv", "evaluations.csv", "policy/model.safetensors")


def same(one, other):
    """Require the same results in two run directories."""
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
