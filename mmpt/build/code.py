"""The code of a stage: its import closure inside our packages, as digests that ignore comments.

A module's digest is taken of its syntax tree without docstrings, so comments, blank lines and layout do not
count. The module that holds the body counts only as far as the body reaches: its function, the functions and
constants that it uses, and the imports those use; so that one module may hold several bodies. Imports inside functions
count, and so does a string such as "mmpt.launch.worker:run", which is how a table names code. C++ sources count where
mmpt.ops does.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpt.store.errors import UserError
from mmpt.store.scan import Stamp, stamp_of
from mmpt.store.stat_cache import RACY_NS, read_cache, write_cache

NOT_CODE = (
    "mmpt/profile/packaged",
    "mmpt/_shared",
)  # profiles reach a stage through its slice; links to files beside the package
C_COMMENT = re.compile(r'("(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')|//[^\n]*|/\*.*?\*/', re.DOTALL)


@dataclass(frozen=True)
class Facts:
    """What is remembered of one module, or of one body inside it.

    Args:
        digest: of the syntax tree.
        ours: dotted names it may refer to inside our packages (a module, or a name in one).
        others: top-level names of everything else that it imports.
    """

    digest: str
    ours: tuple[str, ...]
    others: tuple[str, ...]


@dataclass
class CodeIndex:
    """The source files of our packages as they are now.

    Args:
        packages: package name -> its folder.
        csrc: folder of C++ and CUDA sources, counted where ``mmpt.ops`` is in a closure.
        plugins: the same of other people's packages, whose data files and compiled modules count everywhere; a
            file where the package is a single module.
        cache_path: file that remembers facts by stat, so that a run parses only what changed.
    """

    packages: dict[str, Path]
    csrc: Path | None = None
    cache_path: Path | None = None
    plugins: dict[str, Path] = field(default_factory=dict)
    _files: dict[str, tuple[Path, Stamp]] = field(default_factory=dict)
    _data: list[tuple[str, Path, Stamp]] = field(default_factory=list)
    _known: dict[str, list] = field(default_factory=dict)
    _dirty: bool = False
    _looked: int = 0  # when the stamps were taken

    def __post_init__(self) -> None:
        self._looked = time.time_ns()
        for name, folder in {**self.plugins, **self.packages}.items():
            if folder.is_dir():
                self._walk(name, folder)
            else:
                self._files[name] = (folder, stamp_of(folder.stat()))
        self._known = read_cache(self.cache_path)

    def _walk(self, package: str, folder: Path) -> None:
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            if entry.is_dir():
                if entry.name != "__pycache__" and not any(entry.path.endswith(path) for path in NOT_CODE):
                    self._walk(f"{package}.{entry.name}", Path(entry.path))
            elif entry.name.endswith(".py"):
                stem = entry.name[:-3]
                self._files[package if stem == "__init__" else f"{package}.{stem}"] = (
                    Path(entry.path),
                    stamp_of(entry.stat()),
                )
            elif self._counts(package, entry.name):
                self._data.append((package, Path(entry.path), stamp_of(entry.stat())))

    def _counts(self, package: str, name: str) -> bool:
        """Whether a file that is not Python can change a result. Our own compiled module is a stage's output."""
        ours = package.partition(".")[0] in self.packages
        return not name.endswith((".pyc", ".md", ".so") if ours else (".pyc", ".md"))

    def closure(self, body: str) -> tuple[dict[str, str], tuple[str, ...]]:
        """Code of a body "module:function": unit -> digest (modules, data files beside them, csrc), and the
        names of the other packages that it imports.

        Raises:
            UserError: no such module among our packages, or a source that is not Python.
        """
        module, _, function = body.partition(":")
        if module not in self._files:
            raise UserError(
                "no such module",
                where=f"stage body {body}",
                expected=f"a module of {', '.join([*self.packages, *self.plugins])}",
            )
        first = self._facts(module, function)
        units, others = {body: first.digest}, set(first.others)
        queue = [*self._modules(first.ours), *self._modules([module.rpartition(".")[0]])]
        while queue:
            name = queue.pop()
            if name in units or name == module:
                continue
            facts = self._facts(name)
            units[name] = facts.digest
            others.update(facts.others)
            queue += self._modules(facts.ours)
        units |= self._beside(units)
        return dict(sorted(units.items())), tuple(sorted(others))

    def _modules(self, names: Iterable[str]) -> Iterator[str]:
        """The modules behind dotted names, with the packages on the way, whose __init__ runs too."""
        for name in names:
            parts = name.split(".")
            yield from (prefix for end in range(1, len(parts) + 1) if (prefix := ".".join(parts[:end])) in self._files)

    def _beside(self, units: dict[str, str]) -> dict[str, str]:
        """Files that are not Python (templates, word lists) in the packages of a closure, and csrc."""
        packages = {".".join(name.partition(":")[0].split(".")[:2]) for name in units}
        found = {}
        for package, path, stamp in self._data:
            whole = package.count(".") or package in self.plugins
            if ".".join(package.split(".")[:2]) in packages and whole:
                found[f"{package}/{path.name}"] = self._file_digest(path, stamp)
        if "mmpt.ops" in units and self.csrc is not None and self.csrc.is_dir():
            for path in sorted(self.csrc.rglob("*")):
                if path.is_file():
                    found[f"csrc/{path.relative_to(self.csrc).as_posix()}"] = self._file_digest(
                        path, stamp_of(path.stat())
                    )
        return found

    def _facts(self, module: str, function: str = "") -> Facts:
        path, stamp = self._files[module]
        key = f"{path}:{function}"
        known = self._known.get(key)
        if known is not None and tuple(known[0]) == stamp:
            return Facts(known[1], tuple(known[2]), tuple(known[3]))
        facts = _facts(path, module, function, (*self.packages, *self.plugins))
        self._remember(key, stamp, facts.digest, list(facts.ours), list(facts.others))
        return facts

    def _file_digest(self, path: Path, stamp: Stamp) -> str:
        known = self._known.get(str(path))
        if known is not None and tuple(known[0]) == stamp:
            return known[1]
        data = path.read_bytes()
        if path.suffix in (".h", ".cpp", ".cu", ".cuh"):
            data = _c_tokens(data.decode()).encode()
        value = hashlib.sha256(data).hexdigest()
        self._remember(str(path), stamp, value)
        return value

    def _remember(self, key: str, stamp: Stamp, *facts: object) -> None:
        self._known[key], self._dirty = [list(stamp), *facts], True

    def save(self) -> None:
        """Write the cache, if it learned something."""
        if self.cache_path is not None and self._dirty:
            settled = {key: known for key, known in self._known.items() if self._looked - known[0][2] >= RACY_NS}
            write_cache(self.cache_path, settled)
            self._dirty = False


def _c_tokens(text: str) -> str:
    """C++ without comments, runs of white space as one space, lines kept: a preprocessor line ends at one."""
    bare = C_COMMENT.sub(lambda match: match.group(1) or " ", text)
    return "\n".join(" ".join(line.split()) for line in bare.splitlines() if line.strip())


def _facts(path: Path, module: str, function: str, packages: tuple[str, ...]) -> Facts:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise UserError("not Python", where=f"{path}:{error.lineno}", found=error.msg) from None
    nodes = _reached(tree.body, function) if function else tree.body
    if function and nodes is None:
        raise UserError("no such function", where=f"{path}", found=function)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    ours, others, digest = set(), set(), hashlib.sha256()
    for node in nodes or ():
        for name in _imported(node, package, packages):
            ours.add(name) if name.split(".")[0] in packages else others.add(name.split(".")[0])
        digest.update(ast.dump(_without_docstrings(node)).encode())
    return Facts(digest.hexdigest(), tuple(sorted(ours)), tuple(sorted(others)))


def _reached(body: list[ast.stmt], function: str) -> list[ast.stmt] | None:
    """The top-level statements that ``function`` can reach: definitions by use, other statements always.

    An import that nothing in the module uses is kept: it is there for its effect.
    """
    defines = [_defined(node) for node in body]
    uses = [{name.id for name in ast.walk(node) if isinstance(name, ast.Name)} for node in body]
    if not any(function in names for names in defines):
        return None
    everything = set().union(*uses)
    kept: set[int] = {
        at
        for at, names in enumerate(defines)
        if not names or (not names & everything and isinstance(body[at], (ast.Import, ast.ImportFrom)))
    }
    wanted = {function}.union(*(uses[at] for at in kept))
    while True:
        more = {at for at, names in enumerate(defines) if names & wanted} - kept
        if not more:
            return [body[at] for at in sorted(kept)]
        kept |= more
        wanted = wanted.union(*(uses[at] for at in more))


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {name.asname or name.name.split(".")[0] for name in node.names}
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return set()


def _imported(node: ast.stmt, package: str, packages: tuple[str, ...]) -> Iterator[str]:
    """Dotted names that a statement imports, or names in a string as "package.module:function"."""
    named = re.compile(rf"(?:{'|'.join(map(re.escape, packages))})(?:\.\w+)+(?::\w+)?")
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            yield from (name.name for name in part.names)
        elif isinstance(part, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - part.level + 1] if part.level else []
            source = ".".join([*above, *([part.module] if part.module else [])])
            yield source
            yield from (f"{source}.{name.name}" for name in part.names)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and named.fullmatch(part.value):
            yield part.value.replace(":", ".")


def _without_docstrings(node: ast.stmt) -> ast.stmt:
    """``node``, changed in place, without strings that stand alone; a body left empty gets a ``pass``."""
    part: Any
    for part in [node, *ast.walk(node)]:
        body = getattr(part, "body", None)
        if isinstance(body, list):
            part.body = [one for one in body if not _lone_string(one)] or [ast.Pass()]
    return ast.Pass() if _lone_string(node) else node


def _lone_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
