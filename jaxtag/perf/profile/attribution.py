"""Attributes instructions of a compiled step to modules of the model and to lines of code.

JAX writes the named scopes in which an operation was traced into the program. Flax names a scope
after each module; `training.train_step` and `augment.pipeline` name the parts of a step outside of
the model.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

import jaxtag
from jaxtag.perf.hlo import Instruction, Program
from jaxtag.training.setup import TrainSetup

# The named scopes of a step outside of its modules, the inner ones first.
PARTS = ("augmentation", "loss", "optimizer", "metrics")
_TRANSFORMED = re.compile(r"(?:jvp|transpose|vmap|checkpoint|remat)\((.*)\)$")
_KEY = re.compile(r"\['([^']*)'\]")
_PACKAGE = Path(jaxtag.__file__).parent
_MAX_NEIGHBORS = 4

ModulePath = tuple[str, ...]  # the class of the outermost module, then names of submodules


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where an instruction comes from.

    Attributes:
        module: Path of a linen module such as `group1/conv1`, "" for the outermost; None outside
            of the model.
        part: The module, or the part of the step in parentheses, such as `(optimizer)`; None where
            it is unknown.
        phase: "forward", "backward", "again" (forward, recomputed in the backward pass), or ""
            outside of the loss.
        line: `file:line` of jaxtag's code, else of any code; "" where there is none.
    """

    module: str | None
    part: str | None
    phase: str
    line: str


class ModuleTree:
    """The modules that a training step calls, from tracing its loss; computes nothing.

    Args:
        setup: The run.
        batch: Shapes of a training batch.
    """

    def __init__(self, setup: TrainSetup, batch: Any):
        self._children: dict[ModulePath, set[str]] = {}

        def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            path, root = context.module.path, context.module
            while isinstance(root.parent, nn.Module):
                root = root.parent
            module = (type(root).__name__, *path)
            for depth in range(len(module)):
                self._children.setdefault(module[:depth], set()).add(module[depth])
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            state = setup.shapes
            jax.eval_shape(setup.task.loss, state.variables, batch, state.key)

    def find(self, op_name: str) -> tuple[str | None, str | None]:
        """(module, part) of an operation's path of scopes, as in `Origin`."""
        module: ModulePath = ()
        part = None
        roots = self._children[()]
        scopes = _scopes(op_name)
        if op_name.startswith("state."):  # an argument of the step
            return self._find_argument(scopes)
        for scope in scopes:
            if not module and scope in PARTS:
                part = f"({scope})" if part is None or scope == "augmentation" else part
            elif scope in self._children.get(module, ()) or (not module and scope in roots):
                module = (*module, scope)
        if module:
            path = "/".join(module[1:])
            return path, path or f"({module[0]})"
        return None, part

    def _find_argument(self, keys: list[str]) -> tuple[str | None, str | None]:
        """(module, part) of an array of the state, by its path in the tree."""
        longest: ModulePath = ()
        for root in self._children[()]:
            module: ModulePath = (root,)
            for key in keys:
                if key in self._children.get(module, ()):
                    module = (*module, key)
            longest = max(longest, module, key=len)
        if len(longest) > 1:
            path = "/".join(longest[1:])
            return path, path
        return None, "(state)"


class Origins:
    """Origins of the instructions of a compiled step.

    An instruction that the compiler added without an origin (a copy, a bitcast) belongs to what it
    fuses, else to what reads it or what it reads, else to what calls it.
    """

    def __init__(self, program: Program, modules: ModuleTree):
        self._program, self._modules = program, modules
        self._cache: dict[str, Origin] = {}
        self._users: dict[str, list[str]] = {}
        self._caller: dict[str, Instruction] = {}  # of a computation
        self._computation: dict[str, str] = {}  # of an instruction
        for computation, body in program.computations.items():
            for instruction in body:
                self._computation[instruction.name] = computation
                for operand in instruction.operands:
                    self._users.setdefault(operand, []).append(instruction.name)
                for called in instruction.called:
                    self._caller.setdefault(called, instruction)

    def of(self, name: str) -> Origin:
        """The origin of an instruction."""
        if name not in self._cache:
            self._cache[name] = self._find(name)
        return self._cache[name]

    def _find(self, name: str) -> Origin:
        for source in self._candidates(name):
            module, part = self._modules.find(source.op_name)
            if part is not None:
                return Origin(module, part, phase(source.op_name), self._line(source))
        return Origin(None, None, "", "")

    def _line(self, instruction: Instruction) -> str:
        """`file:line` that made it: the innermost of jaxtag, else the innermost."""
        innermost = ""
        for file, line, _ in self._program.traceback(instruction):
            path = Path(file)
            if path.is_relative_to(_PACKAGE):
                return f"{path.relative_to(_PACKAGE.parent)}:{line}"
            innermost = innermost or f"{path.name}:{line}"
        return innermost

    def _candidates(self, name: str) -> list[Instruction]:
        """Instructions whose origin may be that of `name`, the best first."""
        own = self._program.instructions[name]
        fused = [item for called in own.called for item in self._program.computations[called]]
        operands, users = (
            self._neighbors(name, step) for step in (self._operand_names, self._user_names)
        )
        return [own, *reversed(fused), *users, *operands, *self._callers(name)]

    def _callers(self, name: str) -> list[Instruction]:
        callers: list[Instruction] = []
        while caller := self._caller.get(self._computation[name]):
            callers.append(caller)
            name = caller.name
        return callers

    def _operand_names(self, name: str) -> list[str]:
        return list(self._program.instructions[name].operands)

    def _user_names(self, name: str) -> list[str]:
        return self._users.get(name, [])

    def _neighbors(self, name: str, step: Callable[[str], list[str]]) -> list[Instruction]:
        """The nearest with an op_name, reached by `step` through instructions without one."""
        instructions = self._program.instructions
        visited, pending = {name}, [name]
        neighbors: list[Instruction] = []
        while pending and len(neighbors) < _MAX_NEIGHBORS:
            for other in step(pending.pop(0)):
                if other in instructions and other not in visited:
                    visited.add(other)
                    if instructions[other].op_name:
                        neighbors.append(instructions[other])
                    elif instructions[other].opcode != "tuple":
                        pending.append(other)
        return neighbors


def phase(op_name: str) -> str:
    """Phase of the loss's gradient, as in `Origin`."""
    if "rematted_computation" in op_name:
        return "again"
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name else ""


def _scopes(op_name: str) -> list[str]:
    """The scopes of a path without JAX's transformations and Flax's names of methods."""
    scopes = []
    for scope in _KEY.sub(r"/\1", op_name).split("/"):
        while match := _TRANSFORMED.match(scope):
            scope = match[1]
        scopes.append(scope.partition(".")[0])
    return scopes
