"""Settings made to break things: junk, nearly sound ones, and huge sizes."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

KEYS: tuple[str, ...] = (
    *("fc_out", "attention", "model", "data", "tokenizer", "optim", "trainer", "study", "seed", "init_seed"),
    *("data_seed", "outputs", "name", "match", "hydra", "fc_out._target_", "fc_out.rank"),
    *("attention.branch_scale", "model.d_model", "model.n_heads", "model.head_dim", "model.context"),
    *("model.dropout", "model.d_ff", "data.path", "data.split", "data.max_chars", "data.hub", "data.hub.name"),
    *("data.sha256", "tokenizer.kind", "tokenizer.vocab_size", "optim.lr", "optim.beta1", "optim.grad_clip"),
    *("trainer.steps", "trainer.device", "trainer.compile", "study.seeds", "study.margin", "study.arms"),
    *("study.arms.x", "study.baseline", "study.pick", "study.name"),
)
VALUES: tuple[str, ...] = (
    *("null", "true", "0", "1", "-1", "3", "1e400", "nan", "inf", "-inf", "1e-400", "99999999999999999999"),
    *("[]", "{}", "[null]", "{a:b}", "???", "''", '""', "'", '"', "\\", "$", "${", "${}", "${seed}"),
    *("${oc.env:HOME}", "${oc.env:${name}}", "${oc.env:HOME,x}", "\\${oc.env:HOME}"),
    *("${oc.decode:${oc.env:HOME}}", "${oc.create:[1]}", "${hydra:runtime.cwd}", "${.x}", "${..}"),
    *("${outputs}", "os.system", "mha_ablate.model.fc_out.none.None_", "mha_ablate.model.fc_out.base.torch"),
    *("none", "dense", "auto", "cpu", "text", "char", "byte", "bpe", "../x", "/etc", "/dev/zero", "~", "."),
    *("..", "a/b", "<script>", "=cmd()", "$(id)", "`id`", ";id", "|id", "a,b", "1,2", "range(3)"),
    *("choice(1,2)", "glob(*)", "[1,2", "{a:{b:[c]}}", "[fc_out=none]", "[fc_out=${oc.env:HOME}]"),
    *("[outputs=/tmp]", "\x00", "\x1b[31m", "�", "\u202e", "é"),
)

# Values of the right type for each key: first those that are sound, then those that are odd.
NEAR: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model": (("nano", "mini"), ("tiny",)),
    "tokenizer": (("char", "byte"), ("bpe", "word")),
    "optim": (("adamw",), ("sgd",)),
    "model.d_model": (("8", "12", "32", "96"), ("1", "7", "0", "-8", "16.0")),
    "model.n_layers": (("1", "2", "3"), ("0", "-1", "1.5")),
    "model.n_heads": (("1", "2", "4"), ("3", "5", "0", "-2")),
    "model.head_dim": (("4", "6", "null"), ("1", "3", "0")),
    "model.d_ff": (("1", "7", "64", "null"), ("0", "-3")),
    "model.context": (("1", "2", "9", "64"), ("0", "5000", "100000")),
    "model.block": (("pre", "post"), ("both",)),
    "model.norm": (("layernorm", "rmsnorm"), ("none",)),
    "model.positions": (("learned", "rope", "sinusoidal"), ("alibi",)),
    "model.bias": (("true", "false"), ("1", "null")),
    "model.dropout": (("0", "0.1", "0.999999"), ("1", "-0.0", "1e-320")),
    "model.tied_embedding": (("true", "false"), ("yes", "0")),
    "data.split": (("auto", "own", "blocks", "tail"), ("head",)),
    "data.max_chars": (("300", "900", "null"), ("1", "0", "17")),
    "optim.lr": (("1e-3", "5e-324", "1e300"), ("0", "-1e-3", "1e400")),
    "optim.min_lr": (("0", "1e-9", "null"), ("1e3", "-1")),
    "optim.warmup_steps": (("0", "1", "100000"), ("-1", "0.5")),
    "optim.weight_decay": (("0", "1e300"), ("-0.1", "inf")),
    "optim.beta1": (("0", "0.9", "0.99999999"), ("1", "-0.1")),
    "optim.beta2": (("0", "0.99"), ("1", "nan")),
    "optim.grad_clip": (("0", "1e-300", "1e300"), ("-1",)),
    "trainer.steps": (("1", "2", "1000000"), ("0", "-1", "2.5")),
    "trainer.batch_size": (("1", "3", "4096"), ("0", "1e3")),
    "trainer.eval_every": (("1", "7", "1000000"), ("0",)),
    "trainer.log_every": (("1", "7", "1000000"), ("0",)),
    "trainer.device": (("cpu", "auto"), ("cuda", "tpu")),
    "trainer.precision": (("fp32", "bf16"), ("fp8", "auto")),
    "trainer.compile": (("false", "auto"), ("maybe",)),
    "trainer.save_every_s": (("0", "1e-9", "1e300"), ("-1", "inf")),
    "data_seed": (("0", "7", "null"), ("-1", "2147483648")),
    "outputs": (("outputs", "a/b", "./x y"), ("text.txt", "''")),
    "name": (("x", "a-b", "\u00e9"), ("a/b", "..", "x" * 300)),
}  # fmt: skip
OF_A_RUN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # what `compare` leaves to its arms
    "fc_out": (("dense", "none", "per_head"), ("None_", "dense,none")),
    "attention": (("fused", "split"), ("flash",)),
    "attention.branch_scale": (("1", "0.5", "1e-300", "matched"), ("0", "-1", "nan")),
    "seed": (("0", "1", "2147483647"), ("-1", "2147483648")),
    "init_seed": (("0", "5", "null"), ("-1", "1.0")),
    "trainer.threads": (("1", "2", "null"), ("0", "5000")),
}
OF_A_STUDY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "study.seeds": (("1", "3", "[0,2]", "[2147483647]"), ("0", "[0,0]", "[]", "10001")),
    "study.margin": (("0.01", "1e-300", "1e300"), ("0", "-1", "inf")),
    "study.arms": (("[dense,none]", "[dense,none_mlp]", "[dense]"), ("[none]", "[dense,dense]", "[x]")),
    "study.baseline": (("dense",), ("none", "x")),
    "study.arms.x": (("[fc_out=none]", "[fc_out=none,match=params]", "[model.d_ff=3]"), ("[seed=1]", "[x=1]")),
    "study.name": (("x",), ("a/b",)),
}
IN_AN_ARM = ("model.", "optim.", "fc_out", "attention", "match")
FOR_ALL = ("model.d_model", "model.n_layers", "model.n_heads", "model.context", "optim.warmup_steps")  # not an arm's


def junk() -> SearchStrategy[list[str]]:
    """Keys with values of any sort: nearly all of it is refused at parsing."""
    words = st.one_of(st.sampled_from(VALUES), st.text(max_size=12), st.integers().map(str), st.floats().map(str))
    signs = st.sampled_from(["", "", "", "+", "++", "~"])
    override = st.one_of(
        st.builds(lambda sign, key, value: f"{sign}{key}={value}", signs, st.sampled_from(KEYS), words),
        st.text(max_size=20),
        st.builds(lambda key: f"~{key}", st.sampled_from(KEYS)),
    )
    return st.lists(override, min_size=1, max_size=3)


def near(known: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> SearchStrategy[list[str]]:
    """Several keys with sound values; in one of two draws one of them is odd."""
    sound = st.sampled_from(list(known)).flatmap(lambda k: st.sampled_from(known[k][0]).map(lambda v: f"{k}={v}"))
    odd = st.sampled_from(list(known)).flatmap(lambda k: st.sampled_from(known[k][1]).map(lambda v: f"{k}={v}"))
    several = st.lists(sound, min_size=1, max_size=4, unique_by=lambda word: word.partition("=")[0])
    return st.one_of(several, st.tuples(several, odd).map(lambda drawn: [*drawn[0], drawn[1]]))


def of_train() -> SearchStrategy[list[str]]:
    """Settings of `train`: one in three is junk."""
    return st.one_of(junk(), near(NEAR | OF_A_RUN), near(NEAR | OF_A_RUN))


def of_compare() -> SearchStrategy[list[str]]:
    """Settings of `compare`: one in three is junk."""
    return st.one_of(junk(), near(NEAR | OF_A_STUDY), near(NEAR | OF_A_STUDY))


def of_an_arm() -> SearchStrategy[list[str]]:
    """Settings of an arm: one in three is junk."""
    known = {k: v for k, v in (NEAR | OF_A_RUN).items() if k.startswith(IN_AN_ARM) and k not in FOR_ALL}
    known |= {"match": (("params", "null"), ("flops",))}
    return st.one_of(junk(), near(known), near(known))


def sizes(layers: int, width: int) -> SearchStrategy[list[str]]:
    """Sizes up to what a configuration may hold, two or three at once.

    `layers` and `width` keep it harmless: a plan of thousands of layers takes minutes.
    """
    most = {
        "model.d_model": width, "model.d_ff": width, "model.n_heads": 2**10, "model.head_dim": 2**10,
        "model.n_layers": layers, "model.context": 2**20, "trainer.batch_size": 10**12, "trainer.steps": 10**12,
        "trainer.eval_every": 10**12, "optim.warmup_steps": 10**12, "trainer.threads": 4096, "data.max_chars": 10**12,
    }  # fmt: skip
    near_the_most = st.sampled_from(list(most)).flatmap(
        lambda k: st.one_of(st.just(most[k]), st.integers(1, most[k])).map(lambda n: f"{k}={n}")
    )
    bpe = st.integers(256, 2**16).map(lambda n: f"tokenizer.vocab_size={n}")
    words = st.lists(near_the_most, min_size=1, max_size=3, unique_by=lambda word: word.partition("=")[0])
    return st.one_of(words, st.tuples(words, bpe).map(lambda drawn: ["tokenizer=bpe", drawn[1], *drawn[0]]))
