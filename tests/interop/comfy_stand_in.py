# SPDX-License-Identifier: Apache-2.0
"""The part of ComfyUI that custom nodes are documented to meet, for tests without a ComfyUI server.

After https://docs.comfy.org/custom-nodes (backend/server_overview, datatypes, lifecycle; walkthrough): what a node's
class must have, when VALIDATE_INPUTS and IS_CHANGED are called, how outputs reach inputs, and what the modules `comfy`
and `folder_paths` offer.
"""

import importlib.util
import pathlib
import sys
import types

PACK = pathlib.Path(__file__).resolve().parents[2] / "integrations" / "comfyui"


class InterruptProcessingException(Exception):
    """What cancelling a graph throws inside a node."""


class Comfy:
    """The modules, and what they were told: `updates` of progress bars, `cancelled`, `unloaded`."""

    def __init__(self, root):
        self.root, self.updates, self.unloaded = root, [], 0
        self.cancel_when = lambda: False

    def install(self, monkeypatch):
        outer = self

        class ProgressBar:
            def __init__(self, total):
                self.total = total

            def update_absolute(self, value, total=None, preview=None):
                outer.updates.append((value, total, preview))

        def throw_if_interrupted():
            if outer.cancel_when():
                raise InterruptProcessingException

        def unload_all_models():
            outer.unloaded += 1

        comfy = types.ModuleType("comfy")
        comfy.utils = types.SimpleNamespace(ProgressBar=ProgressBar)
        comfy.model_management = types.SimpleNamespace(
            throw_exception_if_processing_interrupted=throw_if_interrupted,
            unload_all_models=unload_all_models, soft_empty_cache=lambda: None)  # fmt: skip
        paths = types.ModuleType("folder_paths")
        paths.get_output_directory = lambda: str(self.root / "output")
        paths.get_temp_directory = lambda: str(self.root / "temp")
        paths.get_folder_paths = lambda kind: [str(self.root / "models" / kind)]
        paths.get_save_image_path = self._save_image_path
        modules = {"comfy": comfy, "comfy.utils": comfy.utils, "comfy.model_management": comfy.model_management,
                   "folder_paths": paths}  # fmt: skip
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def _save_image_path(self, prefix, directory, *_):
        pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
        return directory, prefix, 1, "", prefix


def load_pack(monkeypatch):
    """The pack as ComfyUI imports it: a package of any name from its folder's __init__.py."""
    name = "pack_under_test"
    for module in [m for m in sys.modules if m.startswith(name)]:
        monkeypatch.delitem(sys.modules, module)
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py", submodule_search_locations=[str(PACK)])
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


class Refused(Exception):
    """The graph is refused before anything runs."""


def run_graph(graph, classes):
    """Runs a graph in the API's form {id: {class_type, inputs}} to its output nodes; gives outputs and ui by id."""
    done, ui = {}, {}

    def check(node):
        cls, inputs = classes[node["class_type"]], node["inputs"]
        declared = cls.INPUT_TYPES()
        for name, spec in declared["required"].items():
            if name not in inputs:
                raise Refused(f"{node['class_type']}: {name} is missing")
            _check_value(node["class_type"], name, spec, inputs[name], graph, classes)
        unknown = set(inputs) - set(declared["required"]) - set(declared.get("optional", {}))
        if unknown:
            raise Refused(f"{node['class_type']}: {unknown} are no inputs")
        if hasattr(cls, "VALIDATE_INPUTS"):
            names = cls.VALIDATE_INPUTS.__code__.co_varnames[1 : cls.VALIDATE_INPUTS.__code__.co_argcount]
            said = cls.VALIDATE_INPUTS(**{n: None if isinstance(inputs[n], list) else inputs[n] for n in names})
            if said is not True:
                raise Refused(said)

    def value(given):
        if isinstance(given, list):
            return execute(given[0])[given[1]]
        return given

    def execute(key):
        if key not in done:
            node = graph[key]
            cls = classes[node["class_type"]]
            result = getattr(cls(), cls.FUNCTION)(**{n: value(v) for n, v in node["inputs"].items()})
            if isinstance(result, dict):
                ui[key], result = result.get("ui"), result.get("result", ())
            assert len(result) == len(cls.RETURN_TYPES)
            done[key] = result
        return done[key]

    for node in graph.values():
        check(node)
    for key, node in graph.items():
        if getattr(classes[node["class_type"]], "OUTPUT_NODE", False):
            execute(key)
    return done, ui


def _check_value(owner, name, spec, given, graph, classes):
    kind = spec[0]
    if isinstance(given, list):
        produced = classes[graph[given[0]]["class_type"]].RETURN_TYPES[given[1]]
        if produced != kind:
            raise Refused(f"{owner}: {name} takes {kind}, not {produced}")
    elif isinstance(kind, list) and given not in kind:
        raise Refused(f"{owner}: {name} is none of {kind}")
    elif kind in ("INT", "FLOAT") and not spec[1]["min"] <= given <= spec[1]["max"]:
        raise Refused(f"{owner}: {name} is out of its range")


def api_graph(workflow, classes):
    """A workflow as the editor saves it, in the API's form; nodes of classes that are not given are left out."""
    links = {link[0]: link for link in workflow["links"]}
    known = {n["id"]: n for n in workflow["nodes"] if n["type"] in classes}
    graph = {}
    for key, node in known.items():
        linked = {i["name"]: i["link"] for i in node["inputs"] if i["link"] is not None}
        declared = classes[node["type"]].INPUT_TYPES()
        widgets = [n for group in ("required", "optional") for n, spec in declared.get(group, {}).items() if _is_widget(spec)]
        # After a widget named "seed" the editor keeps what becomes of it from run to run.
        if "seed" in widgets:
            widgets.insert(widgets.index("seed") + 1, None)
        assert len(widgets) == len(node["widgets_values"]), node["type"]
        inputs = {n: v for n, v in zip(widgets, node["widgets_values"]) if n is not None}
        inputs.update({n: [str(links[i][1]), links[i][2]] for n, i in linked.items()})
        graph[str(key)] = {"class_type": node["type"], "inputs": inputs}
    return graph


def _is_widget(spec):
    return isinstance(spec[0], list) or spec[0] in ("INT", "FLOAT", "STRING", "BOOLEAN")
