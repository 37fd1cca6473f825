"""Imports between packages follow the layers of DESIGN.md section 3."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "vilg"

# A package may import from its own layer (without cycles, which Python would refuse) and from the layers below.
LAYERS = [
    ["cli"],
    ["commands"],
    ["bench", "plan", "monitoring", "training", "serving", "export", "generation", "evaluation"],
    ["model", "image", "data", "checkpoint", "distributed"],
    ["attention", "text"],
    ["config"],
    ["arrays", "errors", "files", "metrics_jsonl", "progress", "runtime"],
]
HEIGHT = {package: -layer for layer, packages in enumerate(LAYERS) for package in packages}
# Within the upper layers, the order is fixed too.
ORDER = ["training", "serving", "export", "generation", "evaluation"]


def imports(file: Path):
    """(package of the file, imported package) for each import of vilg in the file."""
    relative = file.relative_to(PACKAGE)
    package = relative.parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vilg":
            parts = node.module.split(".")[1:]
            for target in [parts[0]] if parts else [name.name for name in node.names]:
                if target in HEIGHT and target != package:
                    yield package, target


def test_imports_follow_the_layers():
    edges = {
        edge
        for file in PACKAGE.rglob("*.py")
        if file.name != "__init__.py" or file.parent != PACKAGE
        for edge in imports(file)
    }
    assert len(edges) > 20
    for package, target in sorted(edges):
        assert HEIGHT[package] >= HEIGHT[target], f"{package} imports {target}, which is above it"
        if package in ORDER and target in ORDER:
            assert ORDER.index(package) < ORDER.index(target), f"{package} imports {target}"


def test_every_module_has_a_layer():
    packages = {
        path.name.removesuffix(".py")
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__"}
    assert packages == set(HEIGHT)


def test_modules_stay_small():
    long = {
        str(file): count for file in PACKAGE.rglob("*.py") if (count := len(file.read_text("utf-8").splitlines())) > 400
    }
    assert not long, "past about 400 lines a module is two ideas"


def test_tensors_become_arrays_in_one_place():
    """`Tensor.numpy()` of a bf16 tensor returns its bits."""
    calls = [
        f"{file}:{node.lineno}"
        for file in PACKAGE.rglob("*.py")
        if file.name != "arrays.py"
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("numpy", "from_dlpack")
    ]
    assert not calls, "use vilg.arrays.to_numpy"
