"""Which part of the model an instruction of the compiled step belongs to, and which line made it.

JAX writes the named scopes in which an operation was traced into the program. Flax names a scope
after each module; `training.step` and `data.augment` name the parts of a step outside of the model.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

import jaxtag
from jaxtag.perf.hlo import Instruction, Program
from jaxtag.training.setup import TrainSetup

# The named scopes of a step outside of its modules, the inner ones first.
PARTS = ("augmentation", "loss", "optimizer", "metrics")
_WRAPPED = re.compile(r"(?:jvp|transpose|vmap|checkpoint|remat)\((.*)\)$")
_FIELD = re.compile(r"\['([^']*)'\]")
_HOME = Path(jaxtag.__file__).parent


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where an instruction comes from.

    Attributes:
      module: path of a linen module such as `group1/conv1`, "" for the outermost; None outside of
        the model.
      part: module, or the part of the step in brackets, such as `(optimizer)`; None: nobody knows.
      phase: "forward", "backward", "again" (forward, computed once more in the backward pass), or
        "" outside of the loss.
      line: `file:line` of our code, else of whose code it is; "" where there is none.
    """

    module: str | None
    part: str | None
    phase: str
    line: str


class Modules:
    """The modules that a training step calls, found by tracing its loss; nothing is computed.

    Args:
      batch: shapes of a training batch.
    """

    def __init__(self, experiment: TrainSetup, batch: Any):
        self._children: dict[tuple[str, ...], set[str]] = {}

        def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            path, root = context.module.path, context.module
            while isinstance(root.parent, nn.Module):
                root = root.parent
            place = (type(root).__name__, *path)
            for depth in range(len(place)):
                self._children.setdefault(place[:depth], set()).add(place[depth])
            return call(*args, **kwargs)

        with nn.intercept_methods(note):
            state = experiment.shapes
            jax.eval_shape(experiment.task.loss, state.variables, batch, state.key)

    def find(self, op_name: str) -> tuple[str | None, str | None]:
        """(module, part) of an operation's path of scopes, as in `Origin`."""
        place: tuple[str, ...] = ()
        part = None
        roots = self._children[()]
        words = _words(op_name)
        if op_name.startswith("state."):  # an argument: what it is a parameter of
            return self._of_argument(words)
        for word in words:
            if not place and word in PARTS:
                part = f"({word})" if part is None or word == "augmentation" else part
            elif word in self._children.get(place, ()) or (not place and word in roots):
                place = (*place, word)
        if place:
            module = "/".join(place[1:])
            return module, module or f"({place[0]})"
        return None, part

    def _of_argument(self, words: list[str]) -> tuple[str | None, str | None]:
        best: tuple[str, ...] = ()
        for root in self._children[()]:
            place = (root,)
            for word in words:
                if word in self._children.get(place, ()):
                    place = (*place, word)
            best = max(best, place, key=len)
        return ("/".join(best[1:]),) * 2 if len(best) > 1 else (None, "(state)")


class Origins:
    """Origins of the instructions of a compiled step.

    An instruction that the compiler put in without saying for what (a copy, a bitcast) belongs
    to what it fuses, else to what reads it or what it reads, else to what calls it.
    """

    def __init__(self, program: Program, modules: Modules):
        self._program, self._modules = program, modules
        self._found: dict[str, Origin] = {}
        self._users: dict[str, list[str]] = {}
        self._caller: dict[str, Instruction] = {}  # of a computation
        self._home: dict[str, str] = {}  # the computation of an instruction
        for computation, body in program.computations.items():
            for instruction in body:
                self._home[instruction.name] = computation
                for operand in instruction.operands:
                    self._users.setdefault(operand, []).append(instruction.name)
                for called in instruction.called:
                    self._caller.setdefault(called, instruction)

    def of(self, name: str) -> Origin:
        """The origin of an instruction."""
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> Origin:
        for source in self._sources(name):
            module, part = self._modules.find(source.op_name)
            if part is not None:
                return Origin(module, part, phase(source.op_name), self.line(source))
        return Origin(None, None, "", "")

    def line(self, instruction: Instruction) -> str:
        """`file:line` that made it: the innermost of jaxtag, else the innermost."""
        first = ""
        for file, line, _ in self._program.traceback(instruction):
            path = Path(file)
            if path.is_relative_to(_HOME):
                return f"{path.relative_to(_HOME.parent)}:{line}"
            first = first or f"{path.name}:{line}"
        return first

    def _sources(self, name: str) -> list[Instruction]:
        """Instructions that may say where `name` comes from, the best first."""
        known = self._program.instructions
        own = known[name]
        fused = [item for called in own.called for item in self._program.computations[called]]
        read, users = (self._nearest(name, step) for step in (self._operands, self._readers))
        return [own, *reversed(fused), *users, *read, *self._callers(name)]

    def _callers(self, name: str) -> list[Instruction]:
        found = []
        while caller := self._caller.get(self._home[name]):
            found.append(caller)
            name = caller.name
        return found

    def _operands(self, name: str) -> list[str]:
        return list(self._program.instructions[name].operands)

    def _readers(self, name: str) -> list[str]:
        return self._users.get(name, [])

    def _nearest(self, name: str, step: Any) -> list[Instruction]:
        """What is reached by `step` through instructions that say nothing themselves."""
        known, seen, found, waiting = self._program.instructions, {name}, [], [name]
        while waiting and len(found) < 4:
            for other in step(waiting.pop(0)):
                if other in known and other not in seen:
                    seen.add(other)
                    if known[other].op_name:
                        found.append(known[other])
                    elif known[other].opcode != "tuple":
                        waiting.append(other)
        return found


def phase(op_name: str) -> str:
    """Of the loss's gradient, as in `Origin`."""
    if "rematted_computation" in op_name:
        return "again"
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name else ""


def _words(op_name: str) -> list[str]:
    """The scopes of a path without JAX's transformations and Flax's names of methods."""
    words = []
    for word in _FIELD.sub(r"/\1", op_name).split("/"):
        while found := _WRAPPED.match(word):
            word = found[1]
        words.append(word.partition(".")[0])
    return words
