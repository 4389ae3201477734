"""What the benchmarks say about their figures, and what taggers learn from; the figures themselves take hours."""

import inspect
import math
import re
import shutil
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import scipy.integrate
import scipy.stats
import torch

from notebooks.exercises import nb08
from tests.benchmarks import detector, ner, ner_ideas, objectives, parts, quality, throughput
from utils.diffusion import GaussianDiffusion, NoiseSchedule
from utils.diffusion.images import ImageSet
from utils.diffusion.training import Settings, draw
from utils.ner import CRFTagger, RegexTagger, Sentence, load_corpus, load_tagger, neural, write_conll
from utils.ner.bilstm_crf import BiLSTMCRFTagger
from utils.ner.chain import TagHead
from utils.ner.combine import CorrectedTagger, VotingTagger
from utils.ner.evaluation import difference
from utils.ner.lookup import DictionaryTagger
from utils.ner.tags import from_tags


def rows(seed, own):
    row = {"steps": 10 + seed, "seconds": 3.0, "broken": 0.0, "frechet": 2.0 + seed, "kernel": 0.1, "floor": 0.3}
    return row | ({"own": 5.0, "own_floor": 0.4} if own and seed == 0 else {})


def measured(module, name, *options):
    row = rows(int(options[options.index("--seed") + 1]), name != "course")
    return row | ({"plain_frechet": 1.0, "plain_kernel": 0.2} if name == "denoising-diffusion-pytorch" else {})


@pytest.fixture(autouse=True)
def no_peak(monkeypatch):
    monkeypatch.setattr(quality, "matmul_peak", lambda precision: 1e9)


def test_the_interval_is_students():
    values = [3.0, 5.0, 10.0]
    low, high = scipy.stats.t.interval(0.95, 2, 6.0, scipy.stats.sem(values))
    mean, half = quality.mean_and_interval(values)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert quality.mean_and_interval([4.0])[0] == 4.0 and math.isnan(quality.mean_and_interval([4.0])[1])


def test_several_seeds_have_an_interval_and_one_has_none():
    one, three = (quality.report(3, 40, seeds, measured) for seeds in (1, 3))
    assert "| course | 10 | 3 | 2.00 | 1.0 | 0.100 | the same |" in one and "±" not in one and "1 seed," in one
    assert "| annotated recipe | 11 | 3 | 3.00 ± 2.48 | 1.0 | 0.100 ± 0.000 | 5.00 |" in three
    assert "| denoising-diffusion-pytorch, without its average | 10 | 3 | 1.00 | 0.5 | 0.200 |  |" in one
    assert one.count("average |") == 1  # of no recipe that has none
    assert "3 seeds," in three and "40 samples of the first seed; as many real images: 0.40" in three


def test_samples_that_are_not_finite_are_counted_of_a_recipes_own_sampler_too(monkeypatch):
    def own(count):
        return torch.cat([torch.full((1, 1, 28, 28), math.nan), torch.zeros(count - 1, 1, 28, 28)])

    class Still(torch.nn.Module):
        def forward(self, x_t, t):
            return 0 * x_t

    trained = quality.Trained(Still(), GaussianDiffusion(NoiseSchedule.cosine(20)), 1, own)
    monkeypatch.setitem(quality.RECIPES, "still", lambda seconds, images, seed: trained)
    assert quality.measure("still", 1, 50, 0, {})["broken"] == 1 / 50
    assert quality.measure("still", 1, 50, 1, {})["broken"] == 0


def test_attention_counts_among_the_operations_of_a_step():
    q, k, v = torch.randn(3, 2, 4, 10, 8)
    products = 2 * (2 * 2 * 4 * 10 * 10 * 8)  # two of them, a multiplication and an addition each
    assert throughput.operations(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)) == products


def test_the_detector_tells_noise_from_blanks_and_not_from_noise(monkeypatch):
    for name, value in {"KNOWN": 200, "ASKED": 100, "EPOCHS": 2}.items():
        monkeypatch.setattr(detector, name, value)
    noise = torch.rand(2, 300, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert detector.held_out_accuracy(noise[0], torch.zeros_like(noise[0]), seed=0) > 0.95
    assert 0.35 < detector.held_out_accuracy(*noise, seed=0) < 0.65


def test_the_detector_refuses_too_few_real_images(monkeypatch, root):
    few = ImageSet(torch.zeros(1000, 1, 28, 28, dtype=torch.uint8), torch.zeros(1000).long(), ("a",), "few")
    monkeypatch.setattr(detector, "load_images", lambda *args: few)
    with pytest.raises(SystemExit, match="1,000 real test images, and 4,000 are needed: COURSE_DATA=FOLDER"):
        detector.measure(root / "data" / "checkpoints" / "unet-fashion-mnist.safetensors", 1)


def test_the_detector_says_how_many_seeds():
    assert "with 75.0% accuracy (one seed)" in detector.report({"accuracy": [0.75]})
    assert "± " in detector.report({"accuracy": [0.7, 0.8]})


@pytest.mark.parametrize("name", parts.VARIANTS)
def test_variants_of_the_network(name):
    model, x_t, t = parts.made(name, 0), torch.randn(2, 1, 8, 8), torch.tensor([0, 900])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    output = model(x_t, t, torch.tensor([1, 2]))
    output.square().sum().backward()
    assert output.shape == x_t.shape and all(p.grad.abs().sum() > 0 for p in model.parameters() if p.numel())
    assert not torch.allclose(model(x_t, t), output, atol=1e-3)  # the embedding gets through


def noise_levels(name):
    return objectives.Weighted(NoiseSchedule.cosine(1000), *objectives.OBJECTIVES[name])


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_densities_of_the_log_snr_add_up_to_one(name):
    density, _ = objectives.OBJECTIVES[name]
    total = scipy.integrate.quad(lambda x: density(torch.tensor(x).double()).item(), -60, 60, limit=200)[0]
    assert total == pytest.approx(1, abs=1e-6)


def test_levels_follow_the_densities():
    """The quartiles of what each clock draws, in closed form, as log-SNR; the schedule ends at a log-SNR of 10."""
    log_snr, normal = NoiseSchedule.cosine(1000).snr.log(), scipy.stats.norm.ppf(0.75)
    expected = {"EDM": (2.4 - 2.4 * normal, 2.4 + 2.4 * normal), "flow, logit-normal": (-2 * normal, 2 * normal)}
    expected |= {"flow, uniform": (-2 * math.log(3), 2 * math.log(3))}
    for name, ends in expected.items():
        levels = log_snr[noise_levels(name).levels]
        assert [levels[749].item(), levels[250].item()] == pytest.approx(ends, abs=0.06), name
    assert (noise_levels("v, cosine").levels - torch.arange(1000)).abs().max() <= 5
    assert (noise_levels("the course's").levels - drawn_by_train()).abs().max() <= 12


def drawn_by_train():
    """A thousand quantiles of the timesteps that `train` draws."""
    t = torch.cat([draw(torch.empty(1000, 0), 1000, Settings(), step, "cpu")[0] for step in range(200)])
    return t.sort().values[100::200]


def test_weights_are_those_of_the_papers():
    """By what each multiplies: the error of x_0 (min-SNR, EDM), of the noise, of v, of the velocity."""
    schedule = NoiseSchedule.cosine(1000)
    snr, t = schedule.snr, torch.tensor([50, 300, 500, 800])
    a, s = schedule.alphas_cumprod.sqrt(), (1 - schedule.alphas_cumprod).sqrt()
    of_x_0 = {"min-SNR-5": snr.clamp(max=5), "EDM": (1 / snr + 0.25) / (0.25 / snr), "noise, cosine": snr}
    of_x_0 |= {"v, cosine": snr + 1, "flow, uniform": (1 + a / s) ** 2}
    for name, weight in of_x_0.items():
        factor = (weight / (snr + 1))[t]  # of v's error
        mine = noise_levels(name).factor[t]
        torch.testing.assert_close(mine / mine[0], factor / factor[0], rtol=1e-6, atol=0)


def test_notebook_08_trains_as_the_benchmark_does(root):
    (notebook,) = root.glob("notebooks/src/08_*.py")
    source = notebook.read_text("utf-8")
    assert inspect.getsource(objectives.Weighted) in source
    found = {"torch": torch, "math": math, "flow_matching": nb08.flow_matching}
    for cell in re.split(r"^# %%.*$", source, flags=re.MULTILINE):
        if re.search(r"^(def bell\(|objectives = )", cell, re.MULTILINE):
            exec(cell, found)
    assert list(found["objectives"]) == list(objectives.OBJECTIVES)
    log_snr = torch.linspace(-12, 12, 49, dtype=torch.float64)
    for name, functions in objectives.OBJECTIVES.items():
        for own, theirs in zip(found["objectives"][name], functions):
            torch.testing.assert_close(own(log_snr), theirs(log_snr))


def test_a_weighted_loss_is_its_factor_times_the_error_at_its_level():
    weighted, x_0 = noise_levels("EDM"), torch.rand(4, 1, 4, 4) * 2 - 1
    noise, t = torch.randn(4, 1, 4, 4), torch.tensor([0, 200, 600, 999])
    levels = weighted.levels[t]
    plain = GaussianDiffusion(weighted.schedule).loss(lambda x, t: x, x_0, levels, noise, reduction="none")
    expected = (weighted.factor[levels] * plain).mean().float()
    torch.testing.assert_close(weighted.loss(lambda x, t: x, x_0, t, noise), expected)
    assert weighted.factor[weighted.levels].mean() == pytest.approx(1)


def test_finished_runs_are_left_out(monkeypatch, tmp_path, capsys):
    def measure(name, seed, *_):
        return {"variant": name, "seed": seed, "steps": 3}

    monkeypatch.setattr(parts, "TABLE", tmp_path / "parts.csv")
    monkeypatch.setattr(parts, "measure", measure)
    monkeypatch.setattr(parts, "load_images", lambda *_: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    counts = []
    for limit in ("-1", "60", "60"):
        monkeypatch.setattr("sys.argv", ["parts", "--limit", limit])
        parts.main()
        counts.append(len(parts.read_rows()))
    assert counts == [0, 18, 18] and capsys.readouterr().out.count("\n") == 18
    assert parts.TABLE.read_text().startswith("# python -m tests.benchmarks.parts; torch ")


# -- taggers ---------------------------------------------------------------------------------------

STARS = {"train": ["Vega", "Rigel"], "dev": ["Deneb", "Vega"], "test": ["Deneb", "Rigel", "Mira", "Vega"]}


@pytest.fixture
def stars(tmp_path):
    """A corpus of one type; one name of the test split is in dev alone."""
    folder = tmp_path / "stars"
    folder.mkdir()
    for split, names in STARS.items():
        sentences = [Sentence.from_words(["Look", "at", name, "now"], [(2, 3, "Star")]) for name in names]
        write_conll(sentences, folder / f"{split}.conll")
    return folder


@pytest.fixture
def bench(stars, tmp_path, capsys):
    """Runs the benchmark; gives what is kept, by block and by model and seed, and what is printed."""

    def run(*arguments):
        folders = ["--out", str(tmp_path / "out"), "--trained", str(tmp_path / "trained")]
        ner.main([*map(str, arguments), "--corpora", str(stars), *folders])
        kept = {block: {} for block in ner.BLOCKS}
        for one in ner.collect(tmp_path / "out"):
            kept[one["block"]][f"{one['model']}--{one['seed']}"] = one
        return kept, capsys.readouterr().out

    return run


def right(result):
    """How many stars of each test sentence were found."""
    return [correct for correct, *_ in result["counts"]["Star"]]


def test_a_dictionary_learns_the_names_of_dev_in_one_block_only(bench, monkeypatch):
    monkeypatch.setattr(ner, "make_tagger", lambda *_: DictionaryTagger())
    kept, text = bench("--models", "dictionary")
    assert right(kept["train"]["dictionary--0"]) == [0, 1, 0, 1]
    assert right(kept["train+dev"]["dictionary--0"]) == [1, 1, 0, 1]
    assert text.index("## Train only") < text.index("## Train + dev") < text.index("## F1 by train + dev less")
    assert "| stars, Star | 66.7 |" in text and "| stars, Star | 85.7 |" in text and "| stars, Star | +19.0 (" in text


def test_train_and_dev_takes_the_epochs_over_and_looks_at_no_score(bench, monkeypatch, tmp_path):
    """The second of four epochs is made the best one on dev."""
    scores, fits, fit = iter([0.1, 0.5, 0.3, 0.5]), [], BiLSTMCRFTagger.fit

    def noted(tagger, train, dev=(), folder=None):
        fit(tagger, train, dev, folder)
        fits.append((len(train), len(dev), tagger.recipe.epochs, [row["score"] for row in tagger.history]))
        return tagger

    def small(model, types, seed):
        return BiLSTMCRFTagger(vectors=None, hidden=4, epochs=4, seed=seed, device="cpu")

    monkeypatch.setattr(BiLSTMCRFTagger, "fit", noted)
    monkeypatch.setattr(neural, "evaluate", lambda *_, **__: SimpleNamespace(f1=next(scores)))
    monkeypatch.setattr(ner, "make_tagger", small)
    bench("--models", "bilstm-crf", "--seeds", 7, "--blocks", "train")
    monkeypatch.setattr("utils.ner.combine.evaluate", None)  # rules are not chosen any more, either
    kept, _ = bench("--models", "bilstm-crf", "--seeds", 7, "--blocks", "train+dev")
    assert [row[:3] for row in fits] == [(2, 2, 4), (4, 0, 2)]
    assert len(fits[1][3]) == 2 and all(map(math.isnan, fits[1][3]))
    assert [kept[block]["bilstm-crf--7"]["chosen"]["epochs"] for block in ner.BLOCKS] == [2, 2]
    saved = load_tagger(tmp_path / "trained" / "train+dev" / "stars--bilstm-crf--7").tagger
    assert (saved.recipe.epochs, saved.recipe.seed) == (2, 7)


def test_train_and_dev_waits_for_its_train_only_run(bench, monkeypatch):
    monkeypatch.setattr(ner, "make_tagger", lambda *_: CRFTagger(iterations=2))
    kept, text = bench("--models", "crf", "--blocks", "train+dev")
    assert not any(kept.values()) and "passed over, it needs its train-only run, whose choices it keeps" in text
    kept, _ = bench("--models", "crf")
    assert kept["train"].keys() == kept["train+dev"].keys() == {"crf--0"}


def test_rules_weights_and_threshold_are_kept(bench, monkeypatch, tmp_path):
    def make(*_):
        """Two members of a vote: the first is right nowhere, the second where dev is."""
        return VotingTagger([CorrectedTagger(RegexTagger({"Star": names})) for names in ("Look", "Vega|Deneb")])

    monkeypatch.setattr(ner, "make_tagger", make)
    kept, _ = bench("--models", "biotagger-gm")
    first, second = (kept[block]["biotagger-gm--0"]["chosen"] for block in ner.BLOCKS)
    assert first == second and first["weights"] != [1.0, 1.0] and first["parts"] == [{"rules": []}] * 2
    saved = load_tagger(tmp_path / "trained" / "train+dev" / "stars--biotagger-gm--0")
    assert (saved.weights, saved.threshold) == (first["weights"], first["threshold"])
    assert [member.steps for member in saved.members] == [[], []]  # a new one has two


def test_a_vote_is_made_of_what_is_there_and_anew_when_there_is_more(bench, monkeypatch):
    names = {"crf": "Look", "biotagger-gm": "Vega|Deneb", "bilstm-crf": "Vega|Deneb|Mira|Rigel"}
    monkeypatch.setattr(ner, "make_tagger", lambda model, *_: RegexTagger({"Star": names[model]}))
    line = ("--seeds", 0, "--models", "crf", "biotagger-gm", "voting")
    kept, _ = bench(*line)
    assert [one["voting--0"]["chosen"]["members"] for one in kept.values()] == [[["crf", 0], ["biotagger-gm", 0]]] * 2
    own = kept["train"]["voting--0"]["train_seconds"]
    assert own > sum(kept["train"][f"{name}--0"]["train_seconds"] for name in ("crf", "biotagger-gm"))
    assert "voting, seed 0, train only: is there" in bench(*line)[1]
    assert "voting, seed 0, train only: is there" not in bench(*line, "bilstm-crf", "--blocks", "train")[1]
    monkeypatch.setattr(VotingTagger, "choose", None)  # only train-only runs choose, and these are there
    bench(*line, "bilstm-crf")
    kept, _ = bench(*line, "bilstm-crf", "--tag-again")
    for results in kept.values():
        assert [name for name, _ in results["voting--0"]["chosen"]["members"]] == [*names]
        assert right(results["voting--0"]) == [1, 0, 0, 1]


def test_a_vote_of_all_seeds_has_each_as_a_member(bench, monkeypatch):
    """Two seeds outvote the one that is wrong everywhere."""
    names = {("crf", 0): "Look", ("bilstm-crf", 0): "Vega|Deneb|Rigel", ("bilstm-crf", 1): "Vega|Deneb|Rigel"}
    monkeypatch.setattr(ner, "make_tagger", lambda model, _, seed: RegexTagger({"Star": names[model, seed]}))
    kept, _ = bench("--seeds", 0, 1, "--models", "crf", "bilstm-crf", "voting-seeds", "--blocks", "train")
    vote = kept["train"]["voting-seeds--0"]
    assert vote["chosen"]["members"] == [list(one) for one in names] and vote["chosen"]["weights"] == [1, 1, 1]
    assert right(vote) == [1, 1, 0, 1]


def test_ideas_stand_beside_what_they_change(bench, stars, monkeypatch, tmp_path, capsys):
    names = {"crf": "Vega", "biotagger-gm": "Vega|Deneb"}
    monkeypatch.setattr(ner, "make_tagger", lambda model, *_: RegexTagger({"Star": names[model]}))
    bench("--models", *names, "voting-seeds", "--blocks", "train")
    idea = ner_ideas.Idea("crf", ("stars",), lambda corpus: RegexTagger({"Star": "Vega|Deneb|Mira|Rigel"}))
    for module, name, value in (
        (ner, "RUNS", tmp_path / "out"),
        (ner, "CORPORA", ("stars",)),
        (ner_ideas, "KEPT", tmp_path / "ideas"),
        (ner_ideas, "IDEAS", {"all": idea}),
        (ner_ideas, "corpus_of", lambda name: load_corpus(stars)),
    ):
        monkeypatch.setattr(module, name, value)
    ner_ideas.main([])
    text = capsys.readouterr().out
    assert "| stars | all | crf | 100.0 (66.7) | 100.0 (40.0) | " in text
    assert text.count("| stars | all | ") == 2  # the second is the vote with it, in which nobody else knows Mira
    assert "| stars | all | 100.0 (100.0) | 66.7 (66.7) | +0.0 to +0.0 |" in text
    monkeypatch.setattr(ner_ideas, "try_out", None)
    ner_ideas.main([])
    assert capsys.readouterr().out.endswith(text.partition("\n| corpus")[2])


def test_results_outlive_their_models(bench, monkeypatch, tmp_path):
    """As in a fresh clone: results are there, models are not."""
    names = {"crf": "Look", "biotagger-gm": "Vega|Deneb"}
    monkeypatch.setattr(ner, "make_tagger", lambda model, *_: RegexTagger({"Star": names[model]}))
    line = ("--blocks", "train", "--seeds", 0, "--models", *names)
    kept, _ = bench(*line)
    shutil.rmtree(tmp_path / "trained")
    assert bench(*line)[1].count("is there") == 2
    bench("--blocks", "train", "--models", "biotagger-gm", "--again")
    shutil.copytree(tmp_path / "trained/train/stars--biotagger-gm--0", tmp_path / "trained/train/stars--crf--0")
    _, text = bench(*line, "--tag-again")
    assert "crf, seed 0, train only: passed over, it needs trained models" in text  # one, but not of this result
    assert "biotagger-gm, seed 0, train only: passed over" not in text
    kept, _ = bench(*line, "voting")  # is counted from what they found
    assert right(kept["train"]["voting--0"]) == [1, 0, 0, 1]


def test_what_is_out_of_date_leaves_the_tables(bench, monkeypatch, tmp_path):
    """An ensemble of other members than those that are measured, which cannot be made anew."""
    monkeypatch.setattr(ner, "make_tagger", lambda *_: RegexTagger({"Star": "Vega"}))
    line, folder = ("--blocks", "train", "--seeds", 0, 1, "--models", "bilstm-crf"), tmp_path / "out" / "train"
    bench(*line)
    for end in (".json", ".json.gz"):
        shutil.copy(folder / f"stars--bilstm-crf--0{end}", folder / f"stars--bilstm-crf-ensemble--0{end}")
    shutil.rmtree(tmp_path / "trained")
    assert "bilstm-crf-ensemble, seed 0, train only: passed over, it needs" in bench(*line, "bilstm-crf-ensemble")[1]
    assert [path.stem for path in sorted(folder.glob("*.json"))] == ["stars--bilstm-crf--0", "stars--bilstm-crf--1"]


def test_only_results_of_public_corpora_are_kept_with_them(stars, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ner, "make_tagger", lambda *_: RegexTagger({"Star": "Vega"}))
    monkeypatch.setattr(ner, "RUNS", tmp_path / "kept")
    line = ["--models", "crf", "--blocks", "train", "--corpora", str(stars), "--trained", str(tmp_path / "trained")]
    for known, folder in (([], "trained/runs"), ([str(stars)], "kept")):
        monkeypatch.setattr(ner, "CORPORA", known)
        ner.main(line)
        assert list(tmp_path.rglob("stars--crf--0.json")) == [tmp_path / folder / "train" / "stars--crf--0.json"]
        shutil.rmtree(tmp_path / folder)
    monkeypatch.setattr(ner, "load_corpus", lambda folder: replace(load_corpus(folder), stands_in=True))
    ner.main(line)
    assert not (tmp_path / "kept").exists() and (tmp_path / "trained" / "runs").exists()
    assert "Not the real corpora" in capsys.readouterr().out


def drawn_network(tags, sentence):
    """A trained one, as far as an ensemble looks at it, with scores drawn at random."""
    head, rows = TagHead(tags, "BIO", crf=True), 2 * torch.randn(len(sentence.tokens), len(tags))
    for weights in head.parameters():
        torch.nn.init.normal_(weights, std=2)

    def emissions(sentences):
        return [rows[: len(one.tokens)] for one in sentences]

    return SimpleNamespace(tags=tags, scheme="BIO", network=SimpleNamespace(head=head), emissions=emissions)


def test_an_ensemble_takes_the_path_that_scores_best_on_average():
    """Against all 3^3 paths, each scored by both networks by itself."""
    tags, sentence, found = ["O", "B-Star", "I-Star"], Sentence("Look at Vega"), set()
    paths = torch.tensor(list(product(range(3), repeat=3)))
    for seed in range(40):
        torch.manual_seed(seed)
        members = [drawn_network(tags, sentence) for _ in range(2)]
        every = torch.ones(27, 3)
        of_each = [
            one.network.head.chain.score(torch.stack(one.emissions([sentence]) * 27), paths, every) for one in members
        ]
        best = paths[sum(of_each).argmax()].tolist()
        expected = from_tags(sentence, [tags[tag] for tag in best], "BIO").entities
        assert ner.Ensemble(members)._tag([Sentence(""), sentence]) == [[], list(expected)]
        found.add(tuple(best))
    assert len(found) > 5


def test_an_ensemble_refuses_networks_with_other_tags():
    members = [drawn_network(["O", f"B-{kind}", f"I-{kind}"], Sentence("Vega")) for kind in ("Star", "Sun")]
    with pytest.raises(ValueError, match=r"the same tags, got \['O', 'B-Star', 'I-Star'\] and \['O', 'B-Sun'"):
        ner.Ensemble(members)


@pytest.fixture
def found(stars, monkeypatch):
    """Gold sentences, their groups, what two taggers find, the second more; and the results that are kept of them."""
    corpus = load_corpus(stars)
    gold = corpus.test * 6
    corpus.read = lambda split: gold
    groups = [number // 2 for number in range(len(gold))]
    monkeypatch.setattr(ner, "_groups", lambda _: groups)
    found = [RegexTagger({"Star": names}).predict(gold) for names in ("Vega|now", "Vega|Rigel|Mira")]
    return gold, groups, found, [{"counts": ner._counts(corpus, one)} for one in found]


def test_a_difference_is_the_second_less_the_first(found):
    gold, groups, (less, more), (worse, better) = found
    expected, interval = difference(gold, more, less, groups=groups)
    here, low, high = ner.change([worse], [better], "Star")
    assert (here, low, high) == pytest.approx((expected, *interval)) and 0 < low < here < high
    assert ner.change([better], [worse], "Star") == pytest.approx((-here, -high, -low))
    assert ner.change([worse, better], [better] * 3, "Star")[0] == pytest.approx(here / 2)  # of means over seeds


def test_neighbours_are_compared_from_left_to_right(found):
    *_, (worse, better) = found
    numbers = dict.fromkeys([*ner.TRAINING, "sentences_per_second", "sentences_per_processor_second", "bytes"], 1)
    scores = {"Star": {"precision": 0, "recall": 0, "f1": 0.5, "intervals": {"f1": [0, 1]}}}
    worse, better = ({**one, **numbers, "scores": scores} for one in (worse, better))
    lines = ner._block("Train only", {("stars", "Star"): {"transformer": [better], "crf": [worse]}})
    place = lines.index("| corpus | transformer - crf |")
    here, low, high = (100 * value for value in ner.change([worse], [better], "Star"))
    assert lines[place + 2] == f"| stars, Star | +{here:.1f} (+{low:.1f} to +{high:.1f}) |"


def test_the_page_of_results_says_what_was_measured(root, monkeypatch):
    """All that is printed but for the differences, whose intervals take long."""
    monkeypatch.setattr(ner, "_change", lambda *_: "")

    def rows(text, title):
        section = text.split(f"## {title}\n")[1].split("\n## ")[0]
        return [line for line in section.splitlines() if re.match(r"\|.*\d \|", line)]

    printed, page = ner.tables(ner.collect(ner.RUNS)), (root / "data" / "ner" / "results.md").read_text("utf-8")
    for title in ner.BLOCKS.values():
        assert rows(page, title) == rows(printed, title) and len(rows(page, title)) > 20


def test_tables_of_public_corpora_go_into_the_page_and_words_stay(stars, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ner, "make_tagger", lambda *_: RegexTagger({"Star": "Vega"}))
    monkeypatch.setattr(ner, "RUNS", tmp_path / "runs")
    page, (begin, end) = tmp_path / "results.md", ner.TABLES
    words = f"# Stars\n\n{begin}old tables\n{end}\nWhy so few.\n"
    page.write_text(words)
    line = ["--models", "crf", "--blocks", "train", "--corpora", str(stars), "--trained", str(tmp_path / "trained")]
    ner.main(line)
    assert page.read_text() == words  # a corpus of one's own
    monkeypatch.setattr(ner, "CORPORA", [str(stars)])
    for _ in range(2):
        ner.main(line)
        tables = (tmp_path / "trained" / "tables.md").read_text()
        assert "| stars, Star |" in tables and page.read_text() == words.replace("old tables\n", tables)
    capsys.readouterr()
    page.write_text(without_end := words.replace(end, ""))
    ner.main(line)
    assert page.read_text() == without_end and "so they were not put there" in capsys.readouterr().out


def test_sentences_get_the_abstracts_they_are_of(stars):
    (stars / "original").mkdir()
    abstracts = "1|t|Look at Deneb now\n1|a|Look at Rigelnow, or so\n\n2|t|Look at Mira now\n2|a|Look at Vega now\n"
    (stars / "original" / "test.pubtator.txt").write_text(abstracts)
    corpus = ner.with_documents(load_corpus(stars))
    assert [sentence.document for sentence in corpus.test] == ["1", "1", "2", "2"] == ner._groups(corpus)
    assert [sentence.document for sentence in corpus.train] == ["", ""]
    three = [Sentence(name) for name in ("Vega", "Mira", "Vega")]
    assert list(ner._documents(three, {"a": "Vega", "b": "MiraVega"})) == ["a", "b", "b"]
