"""The benchmark that fine-tunes a converted network, on a made-up folder of text."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import transformers

ROOT = Path(__file__).parents[2]
WORDS = ["the", "a", "pendulum", "momentum", "river", "bread", "swings", "keeps"]
WORDS += ["flows", "rises", "slowly", "and"]


@pytest.fixture
def fine_tune():
    file = ROOT / "benchmarks" / "fine_tune.py"
    spec = importlib.util.spec_from_file_location("fine_tune", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_model(folder):
    """A tiny random BERT that knows a few words."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    transformers.BertModel(config).save_pretrained(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate(special + WORDS)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)


def make_text(folder):
    """Files of sentences in which a word of its own comes back."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for n in range(6):
        picks = torch.randint(len(WORDS), (16, 5), generator=generator)
        lines = [" ".join([WORDS[n], *(WORDS[i] for i in row)]) + "." for row in picks]
        (folder / f"{n}.txt").write_text("\n".join(lines))


def test_it_trains_shows_a_table_and_goes_on(fine_tune, tmp_path, capsys):
    make_model(tmp_path / "model")
    make_text(tmp_path / "text")
    out = tmp_path / "results.json"
    arguments = f"--model {tmp_path}/model --data {tmp_path}/text --out {out} --steps 4"
    arguments += " --batch 4 --tokens 8 --lr 1e-2 --arms 0 1 3"
    results = fine_tune.main(arguments.split())
    table = capsys.readouterr().out
    assert [*results] == ["residual", "momentum, γ = 0.1", "momentum, γ = 0.5, ramp"]
    assert all(arm in table for arm in results)
    (residual,), *others = results.values()
    assert all(run["saved"] < residual["saved"] for (run,) in others)
    assert all(run["after"] != run["before"] for (run,) in results.values())
    assert results["momentum, γ = 0.5, ramp"][0]["before"] != residual["before"]
    assert json.loads(out.read_text()) == results
    # What is finished is not done again; another seed is.
    more = fine_tune.main([*arguments.split(), "--seeds", "2"])
    assert [runs[0] for runs in more.values()] == [r[0] for r in results.values()]
    assert [len(runs) for runs in more.values()] == [2, 2, 2]
    assert not [*tmp_path.glob("*.pt")]


def test_a_folder_without_text(fine_tune, tmp_path):
    make_model(tmp_path / "model")
    with pytest.raises(SystemExit, match=r"0 pairs of sentences in 0 \.txt files"):
        fine_tune.main(["--model", f"{tmp_path}/model", "--data", str(tmp_path)])
