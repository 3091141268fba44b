"""Letters, files, clusters and splits against plain Python, and the real files."""

import gzip
import lzma
import time
from itertools import combinations
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from simpo.dna.alphabet import canonical, complete, kmers
from simpo.dna.data import (
    Sequences,
    cluster,
    decode,
    encode,
    one_hot,
    read_sequences,
    require_disjoint,
    reverse_complement,
    split,
    write_sequences,
)
from simpo.types import SimpoError

FEW = settings(max_examples=40, deadline=None)
DATA = Path(__file__).parents[2] / "shared" / "data"
MAIN, POOL = (
    DATA / f"{name}_200bp.csv.xz" for name in ("lentimpra_elements", "enhancer_pool")
)


def sets(rows=(1, 6), bases=(1, 12), top=3):
    """Tokens [N, L]."""
    shapes = st.tuples(st.integers(*rows), st.integers(*bases))
    return shapes.flatmap(
        lambda shape: arrays(np.int8, shape, elements=st.integers(0, top))
    )


def written(folder, text, name="set.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path, **options):
    """The one line that a file is refused with."""
    with pytest.raises(SimpoError) as caught:
        read_sequences(path, **options)
    message = str(caught.value)
    assert message.isprintable() and message.count(str(path)) == 1
    return message.replace(str(path), "FILE")


# Letters


@FEW
@given(st.text("ACGTacgt", min_size=1))
def test_letters_make_a_round_trip(text):
    tokens = encode(text)
    assert tokens.dtype == np.int8 and tokens.shape == (len(text),)
    assert decode(tokens) == text.upper()


@FEW
@given(sets(top=4))
def test_the_other_strand(tokens):
    other = reverse_complement(tokens)
    assert other.dtype == tokens.dtype
    np.testing.assert_array_equal(reverse_complement(other), tokens)
    pairs = str.maketrans("ACGT.", "TGCA.")
    for row, back in zip(tokens, other, strict=True):
        assert decode(back) == decode(row)[::-1].translate(pairs)


def test_the_other_strand_in_jax():
    tokens = jnp.arange(5)
    for found in (reverse_complement(tokens), jax.jit(reverse_complement)(tokens)):
        assert found.dtype == tokens.dtype and found.tolist() == [4, 0, 1, 2, 3]


def test_one_hot_is_zero_at_masks():
    found = np.asarray(one_hot(np.array([[0, 3, 4]], np.int8)))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]])


def test_other_letters_are_refused():
    with pytest.raises(SimpoError, match="letter 'N' at base 3 of 'ACNGT'"):
        encode("ACNGT")
    with pytest.raises(SimpoError, match="letter 'é' at base 2"):
        encode("Aé")
    with pytest.raises(SimpoError, match="an empty sequence"):
        encode("")
    for wrong in ([0, 5], [-1], [0.5], [[0, 1]]):
        with pytest.raises(SimpoError, match="one row of tokens 0 to 4"):
            decode(wrong)
    assert decode(np.array([0, 4, 3])) == "A.T"


def test_masked_sequences_are_not_complete():
    with pytest.raises(SimpoError, match="sequence 2 has token 4 at base 3"):
        complete([[0, 1, 2], [0, 1, 4]])
    for wrong in ([0, 1], np.zeros((2, 0)), np.zeros((1, 2, 4))):
        with pytest.raises(SimpoError, match=r"tokens must be \[sequences, bases\]"):
            complete(wrong)


@FEW
@given(sets(), st.data())
def test_words_are_numbers_in_base_four(tokens, data):
    k = data.draw(st.integers(1, tokens.shape[1]))
    found = kmers(tokens, k)
    for row, numbers in zip(tokens, found, strict=True):
        text = "".join(map(str, row))
        expected = [int(text[i : i + k], 4) for i in range(len(text) - k + 1)]
        assert numbers.tolist() == expected


def test_words_have_bounds():
    long = np.zeros((1, 40), np.int8)
    assert kmers(long + 3, 31)[0, 0] == 4**31 - 1
    for k in (0, 32):
        with pytest.raises(SimpoError, match=f"1 to 31 bases .* of 40, not {k}"):
            kmers(long, k)
    with pytest.raises(SimpoError, match="1 to 5 bases"):
        kmers(long[:, :5], 6)


@FEW
@given(sets(bases=(1, 4)))
def test_one_strand_stands_for_both(tokens):
    found = canonical(tokens)
    np.testing.assert_array_equal(canonical(reverse_complement(tokens)), found)
    for row, both in zip(tokens, found, strict=True):
        assert both.tolist() == min(row.tolist(), reverse_complement(row).tolist())


# Sets


def test_rows_are_taken_with_all_they_have():
    tokens = np.arange(12, dtype=np.int8).reshape(3, 4) % 4
    columns = {"part": np.array(["A", "B", "A"])}
    labels = np.array([1, np.nan, 3], np.float32)
    every = Sequences(("x", "y", "z"), tokens, labels, columns)
    for index in ([2, 0], np.array([2, 0])):
        some = every.take(index)
        assert some.names == ("z", "x") and len(some) == 2
        np.testing.assert_array_equal(some.tokens, tokens[[2, 0]])
        assert some.labels.tolist() == [3, 1]
        assert some.columns["part"].tolist() == ["A", "A"]
    assert every.take(columns["part"] == "A").names == ("x", "z")
    assert len(every.take([])) == 0
    assert Sequences(("x",), tokens[:1]).take([0]).labels is None
    with pytest.raises(SimpoError, match="2 names, but fields of 3, 3 rows"):
        Sequences(("x", "y"), tokens, labels)


# Files

CELLS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc",)), max_size=6
) | st.sampled_from(["a,b", 'say "hi"', "two\nlines", "a\rb", "tab\t", " x ", "", "NA"])
WORDS = st.text("abcXYZ019_.:|=>é-", min_size=1, max_size=6)
VALUES = st.floats(-1e6, 1e6, width=32) | st.just(np.nan)


@st.composite
def labelled(draw, cells, keys):
    tokens = draw(sets())
    count = len(tokens)
    rows = st.lists(cells, min_size=count, max_size=count)
    columns = {name: np.array(draw(rows), str) for name in draw(keys)}
    labels = draw(st.none() | arrays(np.float32, count, elements=VALUES))
    return Sequences(tuple(draw(rows)), tokens, labels, columns)


COLUMNS = st.sets(st.text("abc ,\"'é", max_size=3), max_size=2)
KEYS = st.sets(st.text("abcé", min_size=1, max_size=2), max_size=2)


def assert_same(found, expected):
    assert found.names == expected.names
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    assert found.tokens.dtype == np.int8
    if expected.labels is None:
        assert found.labels is None
    else:
        assert found.labels.dtype == np.float32
        np.testing.assert_array_equal(found.labels, expected.labels)
    assert set(found.columns) == set(expected.columns)
    for name, column in expected.columns.items():
        assert found.columns[name].tolist() == column.tolist()


@FEW
@given(labelled(CELLS, COLUMNS), st.sampled_from(["csv", "tsv", "csv.gz", "TSV.xz"]))
def test_tables_make_a_round_trip(tmp_path_factory, sequences, ending):
    path = tmp_path_factory.mktemp("table") / f"set.v2.{ending}"
    write_sequences(path, sequences)
    assert_same(read_sequences(path), sequences)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@FEW
@given(labelled(WORDS, KEYS), st.sampled_from(["fa", "fasta", "fa.gz", "fasta.xz"]))
def test_fasta_makes_a_round_trip(tmp_path_factory, sequences, ending):
    path = tmp_path_factory.mktemp("fasta") / f"set.{ending}"
    write_sequences(path, sequences)
    assert_same(read_sequences(path), sequences)


def test_columns_are_chosen(tmp_path):
    path = written(tmp_path, "id,y,dna,seq\n\na,1.5,acgt,zz\nb, NA ,CCCC,\n")
    found = read_sequences(path, sequence="dna", label="y", name="id")
    assert found.names == ("a", "b")
    np.testing.assert_array_equal(found.tokens, [[0, 1, 2, 3], [1, 1, 1, 1]])
    np.testing.assert_array_equal(found.labels, np.float32([1.5, np.nan]))
    assert {k: v.tolist() for k, v in found.columns.items()} == {"seq": ["zz", ""]}
    plain = read_sequences(path, sequence="dna")
    assert plain.names == ("line 3", "line 4") and plain.labels is None


def test_fasta_as_it_is_found(tmp_path):
    text = "\n>a 1.5 strand=+\nAC\nGT\n\n>b label=-2 an enhancer\r\nacgt\r\n"
    found = read_sequences(written(tmp_path, text + ">c liver 7\nTTTT", "set.fa"))
    assert found.names == ("a", "b", "c")
    assert [decode(row) for row in found.tokens] == ["ACGT", "ACGT", "TTTT"]
    np.testing.assert_array_equal(found.labels, np.float32([1.5, -2, np.nan]))
    assert found.columns["strand"].tolist() == ["+", "", ""]


def test_a_table_from_a_spreadsheet(tmp_path):
    path = tmp_path / "set.csv"
    path.write_bytes(b"\xef\xbb\xbfname,seq\r\nx,ACGT\r\n")
    assert read_sequences(path).names == ("x",)


@pytest.mark.parametrize(("text", "message"), [
    ("name,seq\na,ACGT\n\nb,ACNT\n",
     "FILE, line 4: letter 'N' at base 3: only A, C, G and T are allowed"),
    ("name,seq\na,ACéT\n", "FILE, line 2: letter 'é' at base 3"),
    ("name,seq\n\"two\nlines\",ACGT\nb,AC-T\n", "FILE, line 4: letter '-' at base 3"),
    ("name,seq\na,ACGT\nb,ACG\n", "FILE, line 3: 3 bases, but line 2 has 4"),
    ("name,seq\na,ACGT\nb,\n", "FILE, line 3: no sequence"),
    ("name,seq\na,  \n", "FILE, line 2: no sequence"),
    ("name,seq\na,ACGT,1\n", "FILE, line 2: 3 cells, but the header has 2"),
    ("name,seq\na\n", "FILE, line 2: 1 cells, but the header has 2"),
    ("name,seq\na,\"AC\nGT\n", "FILE, line 2: unexpected end of data"),
    ("name,seq\na,\"AC\"GT\n", "FILE, line 2: ',' expected after '\"'"),
    ("seq,seq\nACGT,ACGT\n", "FILE has two columns 'seq'"),
    ("ACGT,1\nACGA,2\n", "FILE has no column 'seq'; it has 'ACGT', '1'"),
    ("seq,label\nACGT,high\n", "FILE, line 2: label 'high' is not a finite number"),
    ("seq,label\nACGT,1\nACGT,-inf\n", "line 3: label '-inf' is not a finite number"),
    ("seq,label\nACGT,1e39\n", "FILE, line 2: label '1e39' is not a finite number"),
    ("name,seq\n", "FILE holds no sequences"),
    ("", "FILE holds no sequences"),
    ("\n\n", "FILE holds no sequences"),
])  # fmt: skip
def test_bad_tables(tmp_path, text, message):
    assert message in refusal(written(tmp_path, text))


@pytest.mark.parametrize(("text", "message"), [
    (">a\nACGT\n>b\nAC\nNT\n", "FILE, line 3: letter 'N' at base 3"),
    (">a\nACGT\n>b\nACG\n", "FILE, line 3: 3 bases, but line 1 has 4"),
    (">a\n>b\nACGT\n", "FILE, line 1: no sequence"),
    ("ACGT\n>a\nACGT\n", "FILE, line 1: a FASTA file begins with '>' and a name"),
    (">a 1 label=2\nACGT\n", "FILE, line 1: the header has another 'label'"),
    (">a seq=AC\nACGT\n", "FILE, line 1: the header has another 'seq'"),
    (">a label=x\nACGT\n", "FILE, line 1: label 'x' is not a finite number"),
    ("", "FILE holds no sequences"),
])  # fmt: skip
def test_bad_fasta(tmp_path, text, message):
    assert message in refusal(written(tmp_path, text, "set.fasta"))


def test_labels_that_are_needed(tmp_path):
    path = written(tmp_path, "seq,y\nACGT,1\nACGA,\nACGC,nan\n")
    need = "FILE, line 3: no y, which is needed here (2 of 3 rows have none)"
    assert refusal(path, label="y", require_labels=True) == need
    message = refusal(path, require_labels=True)
    assert message == "FILE has no column 'label'; it has 'seq', 'y'"
    assert "no column 'z'" in refusal(path, label="z")
    assert "no column 'id'" in refusal(path, name="id")


def test_files_that_cannot_be_read(tmp_path):
    assert refusal(tmp_path / "none.csv") == "no file FILE"
    (tmp_path / "folder.csv").mkdir()
    assert refusal(tmp_path / "folder.csv") == "cannot read FILE: Is a directory"
    for name in ("set.txt", "set", "set.gz", "set.csv.zip", "set.csv.txt"):
        assert "must end in .csv, .tsv, .fa, .fasta" in refusal(tmp_path / name)
    whole = b"seq\n" + b"ACGTACGT\n" * 999
    for name, packed in (("a.csv.gz", gzip.compress(whole)),
                         ("a.csv.xz", lzma.compress(whole))):  # fmt: skip
        path = tmp_path / name
        path.write_bytes(packed)
        assert len(read_sequences(path)) == 999
        for damaged in (packed[:-9], whole, packed[:20] + b"!!!" + packed[23:]):
            path.write_bytes(damaged)
            assert refusal(path).startswith("cannot read FILE: ")
    path = written(tmp_path, 'name\tseq\n"a"b\tACGT\n', "set.tsv")
    assert refusal(path) == "FILE, line 2: '\\t' expected after '\"'"
    path = tmp_path / "packed.csv"
    path.write_bytes(lzma.compress(whole))
    assert "not text in UTF-8; a compressed file must end in" in refusal(path)


def test_nothing_is_left_half_written(tmp_path):
    path = written(tmp_path, "seq\nACGT\n", "set.fa")
    tokens = np.zeros((2, 3), np.int8)
    for names, columns in (
        (("a", "b c"), {}),
        (("", "b"), {}),
        (("a", "b"), {"k": np.array(["", "x y"])}),
        (("a", "b"), {"k=": np.array(["1", "2"])}),
    ):
        with pytest.raises(SimpoError, match="a FASTA header cannot hold"):
            write_sequences(path, Sequences(names, tokens, columns=columns))
    with pytest.raises(SimpoError, match="two columns 'seq'"):
        write_sequences(
            path, Sequences(("a", "b"), tokens, columns={"seq": np.array(["", ""])})
        )
    assert path.read_text() == "seq\nACGT\n"
    assert [file.name for file in tmp_path.iterdir()] == ["set.fa"]
    with pytest.raises(SimpoError, match=r"cannot write .* surrogates not allowed"):
        write_sequences(tmp_path / "set.csv", Sequences(("a", "\ud800"), tokens))
    assert [file.name for file in tmp_path.iterdir()] == ["set.fa"]
    missing = tmp_path / "no" / "set.csv"
    with pytest.raises(SimpoError, match=f"cannot write {missing}: No such file"):
        write_sequences(missing, Sequences(("a", "b"), tokens))
    with pytest.raises(SimpoError, match="must end in"):
        write_sequences(tmp_path / "set.txt", Sequences(("a", "b"), tokens))


# Clusters


def slow_cluster(tokens, k, shared, common):
    """The definition, pair by pair; parts of a set of row numbers."""
    strands = [{decode(row), decode(reverse_complement(row))} for row in tokens]
    words = [
        {min(decode(w), decode(reverse_complement(w)))
         for i in range(len(row) - k + 1) for w in [row[i : i + k]]}
        for row in tokens
    ]  # fmt: skip
    distinct = {min(s): w for s, w in zip(strands, words, strict=True)}
    rare = {
        word
        for owned in words
        for word in owned
        if sum(word in other for other in distinct.values()) <= common
    }
    part = list(range(len(tokens)))
    for i, j in combinations(range(len(tokens)), 2):
        near = len(words[i] & words[j] & rare) >= shared
        if near or strands[i] == strands[j]:
            part = [part[i] if p == part[j] else p for p in part]
    return part


def partition(labels):
    """Sets of rows, whatever their numbers."""
    return {frozenset(np.flatnonzero(labels == c).tolist()) for c in np.unique(labels)}


SETTINGS = st.fixed_dictionaries(
    {"k": st.integers(2, 4), "shared": st.integers(1, 3), "common": st.integers(2, 4)}
)
RELATED = sets(rows=(1, 9), bases=(7, 9), top=1)


@settings(max_examples=150, deadline=None)
@given(RELATED, SETTINGS)
def test_clusters_are_the_definition(tokens, chosen):
    found = cluster(tokens, **chosen)
    assert partition(found) == partition(np.array(slow_cluster(tokens, **chosen)))
    first = [found.tolist().index(c) for c in range(found.max() + 1)]
    assert first == sorted(first)


@settings(max_examples=80, deadline=None)
@given(RELATED, SETTINGS, st.randoms(use_true_random=False))
def test_clusters_know_no_order_and_no_strand(tokens, chosen, random):
    found = cluster(tokens, **chosen)
    order = np.array(random.sample(range(len(tokens)), len(tokens)))
    turned = np.array([random.random() < 0.5 for _ in order])
    other = np.where(turned[:, None], reverse_complement(tokens), tokens)[order]
    assert partition(cluster(other, **chosen)) == {
        frozenset(np.flatnonzero(np.isin(order, list(part))).tolist())
        for part in partition(found)
    }


def test_relatives_of_real_length():
    """Shifted windows, alleles and strands join; strangers do not."""
    rng = np.random.default_rng(0)
    genome, stranger = rng.integers(0, 4, (2, 400)).astype(np.int8)
    allele = genome[:200].copy()
    allele[100] = (allele[100] + 1) % 4
    tokens = np.stack([
        genome[:200], stranger[:200], genome[150:350], reverse_complement(allele),
        genome[157:357], stranger[43 : 243],
    ])  # fmt: skip
    assert cluster(tokens).tolist() == [0, 1, 0, 0, 0, 1]
    apart = np.stack([genome[:200], genome[158:358]])  # 42 bases, 19 words, in common
    assert cluster(apart).tolist() == [0, 1]
    assert cluster(apart, shared=19).tolist() == [0, 0]


def test_words_of_repeats_do_not_count():
    rng = np.random.default_rng(1)
    repeat = rng.integers(0, 4, 60)
    tokens = np.stack([np.r_[rng.integers(0, 4, 100), repeat] for _ in range(9)])
    assert cluster(tokens[:8]).tolist() == [0] * 8
    assert cluster(tokens).tolist() == list(range(9))
    copies = np.repeat(tokens[:1], 30, axis=0)
    assert cluster(copies).tolist() == [0] * 30
    assert cluster(np.zeros((3, 60), np.int8)).tolist() == [0] * 3


def test_clusters_that_cannot_be():
    tokens = np.zeros((3, 40), np.int8)
    with pytest.raises(SimpoError, match="of 40 bases never share 20 words of 24"):
        cluster(tokens)
    for limits in ({"shared": 0}, {"common": 1}):
        with pytest.raises(SimpoError, match="shared must be at least 1 and common"):
            cluster(tokens, k=8, **limits)
    assert cluster(np.zeros((0, 60), np.int8)).tolist() == []


@FEW
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=200),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(),
)
def test_splits_never_cut_a_cluster(clusters, weights, seed):
    clusters = np.array(clusters)
    shares = [w / sum(weights) for w in weights]
    try:
        parts = split(clusters, shares, seed)
    except SimpoError as error:
        assert "are too few for shares" in str(error)
        return
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), range(len(clusters)))
    owners = [set(clusters[part].tolist()) for part in parts]
    assert all(a.isdisjoint(b) for a, b in combinations(owners, 2))
    more = split(np.r_[clusters, clusters[::-1], 61, 62], shares, seed)
    for part, larger in zip(parts, more, strict=True):
        np.testing.assert_array_equal(larger[larger < len(clusters)], part)


def test_splits_have_their_shares():
    parts = split(np.arange(20_000), (0.8, 0.15, 0.05), seed=3)
    shares = [len(part) / 20_000 for part in parts]
    np.testing.assert_allclose(shares, [0.8, 0.15, 0.05], atol=0.01)
    other = split(np.arange(20_000), (0.8, 0.15, 0.05), seed=4)[1]
    overlap = len(np.intersect1d(parts[1], other)) / len(other)
    assert overlap == pytest.approx(0.15, abs=0.03)  # seeds are independent
    words = split(np.array(["b", "a", "b", "c"]), (0.5, 0.5), seed=1)
    assert sorted(map(len, words)) in ([1, 3], [2, 2])


def test_splits_that_cannot_be():
    for shares in ((0.5, 0.4), (1.2, -0.2), (1.0, 0.0), ()):
        with pytest.raises(SimpoError, match="positive and add up to 1"):
            split([0, 1, 2], shares)
    with pytest.raises(SimpoError, match=r"1 clusters are too few .* part . got none"):
        split([7, 7, 7], (0.5, 0.5))


def test_sets_with_a_sequence_in_common():
    names = ("train.csv", "test.csv")
    a = Sequences(("p", "q"), np.stack([encode("AACC"), encode("ACGA")]))
    b = Sequences(
        ("x", "y", "z"), np.stack(list(map(encode, ["AAAA", "GGTT", "TCGT"])))
    )
    require_disjoint(a, b.take([0]), names)
    require_disjoint(a, b.take([]), names)
    with pytest.raises(SimpoError) as caught:
        require_disjoint(a, b, names)
    assert str(caught.value) == (
        "train.csv row 1 ('p') and test.csv row 2 ('y') are the same sequence, maybe "
        "on the other strand; 2 of 3 rows of test.csv are in train.csv"
    )


# Real data


@pytest.fixture(scope="module")
def main():
    if not MAIN.exists():
        pytest.skip(f"no file {MAIN.name} beside the project")
    start = time.process_time()
    found = read_sequences(MAIN, name="element", label="hepg2")
    assert time.process_time() - start < 5
    return found


def test_the_main_set_is_what_its_page_says(main):
    assert main.tokens.shape == (23_539, 200)
    known = np.isfinite(main.labels)
    assert known.sum() == 14_634
    levels = np.quantile(main.labels[known], [0.01, 0.5, 0.9, 0.99, 0.999, 1])
    np.testing.assert_allclose(levels, [-1.51, -0.4, 0.74, 1.71, 2.74, 4.12], atol=6e-3)
    part, val = main.columns["part"], main.columns["val"]
    for name, rows, held in (("A", 7_483, 812), ("B", 7_151, 702)):
        here = known & (part == name)
        assert (here.sum(), (here & (val == "1")).sum()) == (rows, held)
    a, b = (main.take(part == name) for name in "AB")
    require_disjoint(a, b, ("A", "B"))


def test_the_main_set_has_the_clusters_of_its_page(main):
    """Of a larger set: there, words were in more sequences, and counted less often."""
    start = time.process_time()
    ours = cluster(main.tokens)
    assert time.process_time() - start < 15
    theirs = np.unique(main.columns["cluster"], return_inverse=True)[1]
    assert np.bincount(theirs).max() == np.bincount(ours).max() == 19
    pairs = [
        sum(n * (n - 1) // 2 for n in np.unique(x, return_counts=True)[1].tolist())
        for x in (theirs, ours, theirs * len(ours) + ours)
    ]
    assert pairs == [1_227, 1_269, 1_227]  # none is lost, 42 are new
    assert (theirs.max() + 1, ours.max() + 1) == (22_751, 22_736)
    parts = [main.take(rows) for rows in split(ours)]
    require_disjoint(parts[0], parts[1], ("train", "validation"))


def test_the_pool_is_what_its_page_says():
    if not POOL.exists():
        pytest.skip(f"no file {POOL.name} beside the project")
    pool = read_sequences(POOL)
    assert pool.tokens.shape == (69_130, 200) and pool.labels is None
    sources, counts = np.unique(pool.columns["source"], return_counts=True)
    found = dict(zip(sources.tolist(), counts.tolist(), strict=True))
    assert found["dhs_HepG2"] == 11_967 and found["dhs_K562"] == 11_968
    assert found["siraj_gwas_eqtl"] == 32_895
    coda = read_sequences(POOL, label="k562_log2fc").take(
        np.char.startswith(pool.columns["source"], "coda_")
    )
    assert len(coda) == 7_868 and np.isfinite(coda.labels).all()
