# SPDX-License-Identifier: Apache-2.0
"""The node pack against ComfyUI's documented node interface, with the real program on the built-in model."""

import hashlib
import json
import pathlib
import sys
import time

import numpy as np
import pytest
import torch
from comfy_stand_in import PACK, Comfy, InterruptProcessingException, Refused, api_graph, load_pack, run_graph
from PIL import Image
from programs import ROOT
from programs import program as built_program
from safetensors import safe_open

WORKFLOW = PACK / "example_workflows" / "train_flux_lora.json"


@pytest.fixture
def comfy(tmp_path, monkeypatch):
    stand_in = Comfy(tmp_path)
    stand_in.install(monkeypatch)
    return stand_in


@pytest.fixture
def pack(comfy, monkeypatch):
    return load_pack(monkeypatch)


@pytest.fixture
def program(monkeypatch):
    monkeypatch.setenv("FLUXLORA_PROGRAM", str(built_program("fluxlora")))


def script(path, text):
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return str(path)


def graph(steps=6, name="zorb", more=""):
    """Model, Dataset, Settings, Train, Preview, Save."""
    return {
        "1": {"class_type": "FluxloraModel", "inputs": {"path": "tiny", "precision": "auto"}},
        "2": {
            "class_type": "FluxloraDataset",
            "inputs": {"folder": str(ROOT / "assets" / "sample-dataset"), "resolution": 32, "buckets": False},
        },
        "3": {
            "class_type": "FluxloraSettings",
            "inputs": {
                "name": name, "trigger": "zorbot", "steps": steps, "rank": 2, "learning_rate": 1e-3, "batch_size": 1,
                "seed": 5, "sample_every": 3, "prompts": 'a [trigger]\n\na "[trigger]" \\ of é',
                "more": f"model.text_tokens=16\nsample.steps=1\noutput.checkpoint_every=2\n{more}",
            },
        },
        "4": {
            "class_type": "FluxloraTrain",
            "inputs": {"model": ["1", 0], "dataset": ["2", 0], "settings": ["3", 0], "device": "cpu", "free_memory": True},
        },
        "5": {"class_type": "FluxloraPreview", "inputs": {"run": ["4", 0]}},
        "6": {"class_type": "FluxloraSave", "inputs": {"run": ["4", 0]}},
    }  # fmt: skip


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def processes_of(folder):
    """Ids of processes that have the folder's name on their command line."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


def test_whole_process(comfy, pack, program):
    done, ui = run_graph(graph(), pack.NODE_CLASS_MAPPINGS)
    run, samples, curve = done["4"]
    assert samples.shape == (2, 32, 32, 3) and samples.dtype == torch.float32
    newest = comfy.root / "output/fluxlora/zorb/samples/step-000006"
    pictures = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(newest.glob("*.png"))]
    assert np.array_equal(np.rint(samples.numpy() * 255), np.stack(pictures))
    assert curve.shape == (1, 384, 768, 3) and curve.min() < 0.5 < curve.max()
    assert [x["type"] for x in ui["5"]["images"]] == ["temp"] * 3
    assert all((comfy.root / "temp" / x["filename"]).is_file() for x in ui["5"]["images"])
    # What an ordinary loader gets: a name below models/loras.
    name, path = done["6"]
    assert (name, path) == ("zorb.safetensors", str(comfy.root / "models/loras/zorb.safetensors"))
    with safe_open(path, "pt") as file:
        assert any(k.endswith(".lora_B.weight") for k in file.keys())
    # Progress: the step rises to the last one, pictures come along.
    values = [v for v, _, _ in comfy.updates]
    assert values == sorted(values) and values[-1] == 6
    assert all(total == 6 and p[0] == "JPEG" and p[1].mode == "RGB" for _, total, p in comfy.updates)
    assert comfy.unloaded == 0, "a run on the CPU need not empty the GPU"


def test_cancel_saves_and_queueing_again_goes_on(comfy, pack, program):
    def long_run(name):
        return graph(name=name, steps=150, more="sample.every=0\noutput.checkpoint_every=0")

    whole, _ = run_graph(long_run("whole"), pack.NODE_CLASS_MAPPINGS)
    folder = comfy.root / "output/fluxlora/cut"
    metrics = folder / "metrics.jsonl"
    comfy.cancel_when = lambda: metrics.is_file() and metrics.stat().st_size > 0
    with pytest.raises(InterruptProcessingException):
        run_graph(long_run("cut"), pack.NODE_CLASS_MAPPINGS)
    assert processes_of(folder) == []
    assert not (folder / "cut.safetensors").exists(), "it was stopped on the way"
    last = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert (folder / f"checkpoints/step-{last:06}").is_dir(), "the state of the last step is saved"
    comfy.cancel_when = lambda: False
    done, _ = run_graph(long_run("cut"), pack.NODE_CLASS_MAPPINGS)
    with safe_open(whole["6"][1], "pt") as a, safe_open(done["6"][1], "pt") as b:
        assert all(torch.equal(a.get_tensor(k), b.get_tensor(k)) for k in a.keys())


def test_equal_graphs_make_equal_files_and_a_finished_run_stays(comfy, pack, program):
    first, _ = run_graph(graph(), pack.NODE_CLASS_MAPPINGS)
    made = digest(first["6"][1])
    again, _ = run_graph(graph(), pack.NODE_CLASS_MAPPINGS)
    assert digest(again["6"][1]) == made


def test_what_the_program_says_reaches_the_user(comfy, pack, program):
    with pytest.raises(Exception, match=r"status 2\.\nerror: .*.rnak.*\nhint: did you mean"):
        run_graph(graph(more="lora.rnak=3"), pack.NODE_CLASS_MAPPINGS)
    with pytest.raises(Exception, match="cannot be the name of a run"):
        run_graph(graph(name="../up"), pack.NODE_CLASS_MAPPINGS)
    assert not list((comfy.root / "models").rglob("*.safetensors"))


def test_missing_strange_and_old_programs(comfy, pack, monkeypatch, tmp_path):
    cases = {
        str(tmp_path / "none"): "was not found at .*quickstart",
        script(tmp_path / "old", "print('fluxlora 0.0.9')"): "is fluxlora 0.0.9, but these nodes need .*quickstart",
        script(tmp_path / "other", "print('hello')"): "is not fluxlora.*quickstart",
        script(tmp_path / "broken", "import sys; sys.exit(1)"): "is not fluxlora.*quickstart",
    }
    for path, message in cases.items():
        monkeypatch.setenv("FLUXLORA_PROGRAM", path)
        with pytest.raises(Exception, match=message):
            run_graph(graph(), pack.NODE_CLASS_MAPPINGS)


def test_program_that_will_not_stop_is_killed(comfy, pack, monkeypatch, tmp_path):
    program_module = sys.modules["pack_under_test.program"]
    monkeypatch.setattr(program_module, "SECONDS_TO_SAVE", 0.5)
    deaf = "import signal, sys, time, pathlib\n" \
        "if '--version' in sys.argv: print('fluxlora 9.0.0'); sys.exit()\n" \
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n" \
        f"pathlib.Path({str(tmp_path / 'up')!r}).touch()\ntime.sleep(60)"  # fmt: skip
    monkeypatch.setenv("FLUXLORA_PROGRAM", script(tmp_path / "deaf", deaf))
    comfy.cancel_when = lambda: (tmp_path / "up").exists()
    begin = time.monotonic()
    with pytest.raises(InterruptProcessingException):
        run_graph(graph(), pack.NODE_CLASS_MAPPINGS)
    assert time.monotonic() - begin < 30
    assert processes_of(tmp_path / "deaf") == []


def test_graph_is_refused_without_pictures(comfy, pack):
    bad = graph()
    bad["2"]["inputs"]["folder"] = "/nowhere"
    with pytest.raises(Refused, match="There is no folder '/nowhere'"):
        run_graph(bad, pack.NODE_CLASS_MAPPINGS)


def test_pictures_that_change_are_noticed(pack, tmp_path):
    dataset = pack.NODE_CLASS_MAPPINGS["FluxloraDataset"]
    (tmp_path / "a.txt").write_text("one")
    before = dataset.IS_CHANGED(str(tmp_path))
    assert dataset.IS_CHANGED(str(tmp_path)) == before
    (tmp_path / "a.txt").write_text("other")
    assert dataset.IS_CHANGED(str(tmp_path)) != before


def test_save_without_a_finished_run(pack, tmp_path):
    with pytest.raises(Exception, match="the run is not finished"):
        pack.NODE_CLASS_MAPPINGS["FluxloraSave"]().save({"folder": str(tmp_path), "name": "x"})


def test_losses_follow_a_file_that_grows_and_is_cut(pack, tmp_path):
    runs = sys.modules["pack_under_test.runs"]
    file, losses = tmp_path / "metrics.jsonl", runs.Losses(tmp_path)
    assert not losses.update()
    file.write_text('{"step":1,"loss":2.0}\n{"step":2,"lo')
    assert losses.update() and losses.by_step == {1: 2.0}
    file.write_text('{"step":1,"loss":2.0}\n{"step":2,"loss":1.0}\n{"step":2,"val_loss":1.5}\n')
    assert losses.update() and losses.by_step == {1: 2.0, 2: 1.0} and losses.validation == {2: 1.5}
    file.write_text('{"step":1,"loss":3.0}\n')
    assert losses.update() and losses.by_step == {1: 3.0} and losses.validation == {}


def test_example_workflow_is_the_whole_process(comfy, pack):
    workflow = json.loads(WORKFLOW.read_text())
    own = pack.NODE_CLASS_MAPPINGS
    assert {n["type"] for n in workflow["nodes"]} >= set(own)
    nodes = {n["id"]: n for n in workflow["nodes"]}
    for number, start, out, end, into, kind in workflow["links"]:
        assert number in nodes[start]["outputs"][out]["links"]
        assert nodes[end]["inputs"][into]["link"] == number
        assert kind in ("*", nodes[end]["inputs"][into]["type"])
    for node in workflow["nodes"]:
        if node["type"] in own:
            assert [o["type"] for o in node["outputs"]] == list(own[node["type"]].RETURN_TYPES)
    loader = next(n for n in workflow["nodes"] if n["type"] == "LoraLoaderModelOnly")
    name = next(i for i in loader["inputs"] if i["name"] == "lora_name")
    source = next(link for link in workflow["links"] if link[0] == name["link"])
    assert nodes[source[1]]["type"] == "FluxloraSave"
    api = api_graph(workflow, own)
    api[next(k for k, n in api.items() if n["class_type"] == "FluxloraDataset")]["inputs"]["folder"] = str(PACK)
    # All but the run itself: the graph is whole and every value is one that its node takes.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLUXLORA_PROGRAM", "/nowhere/fluxlora")
        with pytest.raises(Exception, match="was not found at /nowhere"):
            run_graph(api, own)
