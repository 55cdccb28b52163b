"Configurations: what is refused, what is read, and what comes back from a file."
import os
import sys
import tomllib
from dataclasses import fields

import pytest

from gwm_nb import callbacks, runs, sources
from gwm_nb.configuration import KEYS, Config, make_config, presets
from gwm_nb.paper import paper_network, paper_recipe
from gwm_nb.runs import make_recipe
from inputs import refused


@pytest.mark.parametrize("changes, says", [
    ("lr=1", ["'lr'", "'optim.lr'"]), ("optim.lr", ["'optim.lr'", "KEY=VALUE"]),
    ("data.batch=4.5", ["data.batch", "4.5"]), ("data.batch=true", ["data.batch", "True"]),
    ("optim.name=adam", ["'adam'", "adamw, paper"]), ("data.both=1", ["true or false"]),
    ("data.size=[128]", ["data.size", "[128]"]), ("train.steps=-3", ["train.steps", "1", "-3"]),
    ("optim.lr=nan", ["optim.lr", "nan"]), ("train.ema=2", ["train.ema", "0 and 1", "2"]),
    ("network.features=true data.photometric=0.4", ["set data.photometric=0"]),
    ('network.features=true network.unfreeze={0="*"}', ["leave out network.unfreeze"]),
    ('network.name=paper network.unfreeze={0="*"}', ["leave out network.unfreeze"]),
    ("log.best=J", ["log.labels=true"]), ("train.patience=3 log.measure=0", ["set log.measure"]),
    ('log.trackers=["tensorbord"]', ["'tensorbord'", "tensorboard, wandb"]),
    ('log.trackers=["wandb"]', ["pip install wandb"])])
def test_wrong_options_are_refused_in_one_line(monkeypatch, changes, says):
    monkeypatch.setitem(sys.modules, "wandb", None)
    refused(make_config, changes=changes.split(" "), says=says)


def test_wrong_files_are_refused_by_name(tmp_path):
    (tmp_path / "my.toml").write_text("[optim]\nlrate = 1")
    refused(make_config, file=tmp_path / "my.toml", says=["my.toml", "'optim.lr'"])
    refused(make_config, "davis", file="nowhere.toml", says="nowhere.toml", error=FileNotFoundError)
    refused(make_config, "davsi", says="'davsi'.*'davis'")


def test_a_change_beats_the_file_and_the_file_the_preset(tmp_path):
    (tmp_path / "my.toml").write_text("[optim]\nlr = 1\n[data]\nbatch = 3\nheld_out = ['a']\n"
                                      "[network.unfreeze]\n5 = 'backbone.*'\n[train]\nsteps = 7\n")
    config = make_config("demo", tmp_path / "my.toml", ["data.batch=5", "data.method=raft"])
    assert (config.optim.lr, config.data.batch, config.train.steps) == (1., 5, 7)
    assert config.data.held_out == ["a"] and config.log.labels and type(config.optim.lr) is float
    assert config.network.unfreeze == {"5": "backbone.*"}
    assert make_config(changes=["data.held_out=dog,cows"]).data.held_out == ["dog", "cows"]
    assert make_config(changes=['network.name="paper"']).network.name == "paper"


@pytest.mark.parametrize("preset", ["", *presets()])
def test_presets_and_options_survive_their_files(tmp_path, preset):
    "Also names of files that are not UTF-8."
    changes = ['data.path=a "b" \\ ü\x7f\udce9', "data.held_out=['x']", "loss.weight=inf",
               "network.init_from=runs/a", "optim.lr=1.2345678e-5"]
    config = make_config(preset, changes=changes if preset else [
        *changes, 'network.unfreeze={5="a.*", 9="b"}'])
    (tmp_path / "c.toml").write_bytes(os.fsencode(config.to_toml()))
    assert make_config(file=tmp_path / "c.toml") == config
    if preset:
        text = presets()[preset].read_text()
        assert text.startswith(f"# gwm_train --preset {preset} ")
        assert set(tomllib.loads(text)) <= {f.name for f in fields(Config)}


def test_every_option_is_read_by_something():
    code = "".join(open(room.__file__).read() for room in (runs, sources, callbacks))
    whole = {f"loss.{f.name}" for f in fields(Config().loss)}          # handed over together
    assert [k for k in KEYS if k not in whole and f".{k.partition('.')[2]}" not in code] == []


@pytest.mark.parametrize("preset, source", [("davis", "DAVIS"), ("fbms", "FBMS"), ("stv2", "STv2"),
                                            ("all", "DAVIS+FBMS+STv2")])
def test_the_published_presets_are_the_published_recipe(preset, source):
    config, recipe = make_config(preset), paper_recipe()
    data, network, ours = config.data, config.network, make_recipe(config)
    assert (data.source, network.name, network.masks) == (source, "paper", 4)
    assert all(ours[k] == recipe[k] for k in ("steps", "batch_size", "clip"))
    assert (config.log.best, config.log.measure) == ("validation loss", 250)
    assert (data.size, data.flow_size, data.photometric) == ([128, 224], [480, 854], 0)
    public = lambda loss: {k: v for k, v in vars(loss).items() if not k.startswith("_")}
    assert public(ours["loss"]) == public(recipe["loss"])
    network = paper_network(2, name="vit_tiny_patch16_224", stride=None, blocks=(0,))
    made = [(opt := r["optimiser"](network), r["schedule"](opt, 20_000)) for r in (ours, recipe)]
    for _ in range(3):
        rates = [[(g["lr"], g["weight_decay"]) for g in opt.param_groups] for opt, _ in made]
        assert rates[0] == rates[1]
        for opt, schedule in made:
            opt.step(), schedule.step()
