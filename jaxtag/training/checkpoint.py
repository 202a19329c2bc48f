"""Checkpoints: everything a run needs to go on exactly as if it had never stopped.

    directory/
      1200/                      one folder a step, in Orbax's layout
        state/                   parameters, optimizer, EMA, random key, … (sharded arrays)
        iterator/                where the data iterator stands, one file a process
        config/                  the resolved configuration, JSON
        jaxtag_manifest.json     sizes and checksums of all of it, the metrics, the arrays' shapes
      1000.damaged               set aside: unreadable when a run went on from an older one

Writing happens in the background: `save` returns when the arrays are out of reach of the next
step. Orbax writes into a temporary folder; when the last process has written its part, process 0
adds the manifest there and renames the folder, so that a step folder appears at once, whole and
with its manifest. Only then are older steps removed. Whatever is killed in between leaves a
temporary folder, which no reader looks at and which the next run that saves sweeps away.

An object store renames no folder. Orbax writes into the step's own folder there, and a step counts
once its manifest and Orbax's mark of the commit are there; it is removed by removing the manifest
first.

A buffer that the next step takes over (donation) stays whole until it is written: accelerators
copy it to the host before `save` returns; on CPU Orbax holds a view of the buffer, and the runtime
gives a donated step another buffer while a view is held (JAX 0.10; a test holds it to that).

Several processes must call `save` and `restore` alike. One run at a time may write to a folder;
any number may read.
"""

import contextlib
import dataclasses
import json
import math
import os
import re
import threading
from collections.abc import Mapping
from typing import Any, Literal

import grain
import grain.checkpoint
import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from jaxtag.distributed import coordination
from jaxtag.errors import UserError, storage_error_kind
from jaxtag.storage import store_errors
from jaxtag.storage.paths import absolute, make_path
from jaxtag.training import (
    checkpoint_folder,
    checkpoint_manifest,
    checkpoint_structure,
    orbax_noise,
    summed_handler,
)

_OS_ERROR_CODE = re.compile(r"os_error_code='(\d+)'")


@dataclasses.dataclass(frozen=True)
class Restored:
    """A restored checkpoint: its step, state (in the requested form) and configuration."""

    step: int
    state: Any
    config: dict[str, Any]
    notes: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run, in `directory`.

    Nothing in `directory` is made, moved or removed before the first `save`, so evaluation may
    open the folder of a run that is still training.

    Args:
        directory: a local path or a URL that `etils.epath` can write.
        keep_last: how many of the newest steps stay, at least 1.
        keep_best: how many of the best stay besides, whatever their age.
        best_metric: the key of `metrics` that says what is best; steps saved without it, or with
            NaN, are never best. Required by `keep_best`.
        best_mode: whether a high or a low metric is best.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        keep_last: int,
        keep_best: int = 0,
        best_metric: str | None = None,
        best_mode: Literal["max", "min"] = "max",
    ):
        if keep_last < 1 or keep_best < 0:
            raise ValueError(f"keep_last={keep_last} must be 1 or more, keep_best={keep_best} 0")
        if keep_best and best_metric is None:
            raise ValueError(f"keep_best={keep_best} needs best_metric")
        if best_mode not in ("max", "min"):
            raise ValueError(f"best_mode={best_mode!r} must be 'max' or 'min'")
        checkpoint_folder.check_scheme(make_path(directory))
        self.directory = epath.Path(absolute(make_path(directory)))
        self._keep_last, self._keep_best = keep_last, keep_best
        self._best_metric, self._sign = best_metric, 1 if best_mode == "max" else -1
        self._writer: ocp.AsyncCheckpointer | None = None
        self._saving: tuple[epath.Path, dict[str, Any]] | None = None  # folder, notes
        self._background: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._current: int | None = None  # the step last saved or restored here
        self._damaged: dict[int, str] = {}  # step -> reason, as found here
        self._verified: set[int] = set()

    # --- writing

    def save(
        self,
        step: int,
        state: Any,
        iterator: grain.DatasetIterator | None = None,
        config: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> bool:
        """Starts a save; waits for the previous one if that is still being written.

        Args:
            step: steps made so far; larger than every step saved before.
            state: pytree of `jax.Array`s of any sharding, typed random keys among them. The caller
                may donate them to the next step at once.
            iterator: the data iterator; its position now is what is saved.
            config: whatever JSON can hold; copied now.
            metrics: named numbers, among them `best_metric`.
            notes: what else its manifest holds, as JSON: the labels, what the data are.

        Returns:
            False when this very step was saved or restored last and there is nothing to do.

        Raises:
            UserError: an earlier save failed, or the folder holds newer steps than this one.
        """
        self.wait()
        if step == self._current:
            return False
        config = json.loads(json.dumps(dict(config or {})))
        metrics = {name: float(value) for name, value in (metrics or {}).items()}
        writer = self._open_for_writing()
        newest = max(self.steps(), default=-1)
        if newest >= step:
            raise UserError(
                f"{self.directory} already holds step {newest}, so step {step} cannot be saved: "
                f"go on from step {newest}, or move the newer steps elsewhere"
            )
        items = {
            "state": ocp.args.StandardSave(state),
            "config": ocp.args.JsonSave(config),
        }
        if iterator is not None:
            items["iterator"] = grain.checkpoint.CheckpointSave(iterator)
        path = self.directory / str(step)
        self._saving = (
            path,
            {
                **(notes or {}),
                "metrics": metrics,
                "arrays": checkpoint_structure.array_shapes(state),
            },
        )
        try:
            writer.save(path, args=summed_handler.SummedArgs(**items))
        except Exception as error:
            if isinstance(error, OSError) or store_errors.as_user_error(error, path) is not None:
                raise _failed_save(path, error) from error
            raise
        self._current = step
        self._background = threading.Thread(target=self._finish, name="checkpoint", args=(writer,))
        self._background.start()
        return True

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds metrics to a step that was saved before it was evaluated, in the background.

        Waits for its save. Steps that are no longer among the best are removed then.
        """
        self.wait()
        values = {name: float(value) for name, value in metrics.items()}
        self._saving = (self.directory / str(step), {})  # what `check` names
        self._background = threading.Thread(
            target=self._join_metrics, name="checkpoint", args=(step, values)
        )
        self._background.start()

    def check(self) -> None:
        """Raises `UserError` if a background save failed; costs nothing, call it every step."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            self._current = None
            assert self._saving is not None
            raise _failed_save(self._saving[0], failure) from failure

    def wait(self) -> None:
        """Waits until nothing is being written; raises as `check` does.

        Old steps are removed by process 0: the others may still see them.
        """
        if self._background is not None:
            self._background.join()
            self._background = None
        self.check()

    def close(self) -> None:
        """Waits and frees the writer's threads; raises as `check` does."""
        try:
            self.wait()
        except BaseException:
            with contextlib.suppress(OSError):  # it is of the same storage
                self._close_writer()
            raise
        try:
            self._close_writer()
        except OSError as error:
            path = self.directory if self._saving is None else self._saving[0]
            raise _failed_save(path, error) from error

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _open_for_writing(self) -> ocp.AsyncCheckpointer:
        """Makes the folder, removes what killed runs left, sets damaged steps aside."""
        if self._writer is None:
            coordination.run_on_process_zero(self._prepare_directory)
            orbax_noise.suppress()
            summed_handler.keep_small_arrays_whole()
            # Folders at once: where a thread of Orbax cannot make one, others wait 20 minutes.
            options = ocp.options.AsyncOptions(
                create_directories_asynchronously=False,
                post_finalization_callback=self._add_manifest,
            )
            handler = summed_handler.SummedHandler(
                composite_options=ocp.CompositeOptions(async_options=options)
            )
            self._writer = ocp.AsyncCheckpointer(handler, async_options=options)
        return self._writer

    def _prepare_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._tidy()
        except Exception as error:
            line = store_errors.as_user_error(error, self.directory, verb="written")
            if not isinstance(error, OSError) and line is None:
                raise
            raise _failed_save(self.directory, error) from error

    def _tidy(self) -> None:
        checkpoint_folder.remove_unfinished(self.directory)
        for step in self.steps():
            path = self.directory / str(step)
            try:
                if step not in self._damaged:
                    checkpoint_manifest.check_sizes(path)
                    continue
            except checkpoint_manifest.DamagedCheckpointError as damage:
                logging.warning("%s is damaged: %s", path, damage)
            checkpoint_folder.set_aside(path)
            self._damaged.pop(step, None)

    def _add_manifest(self) -> None:
        """Called by Orbax on process 0, when all is written and before the folder is renamed."""
        assert self._saving is not None
        path, notes = self._saving
        temporary = path.parent / (path.name + checkpoint_folder.TEMPORARY)
        # Where folders cannot be renamed (object stores) Orbax writes into the final one.
        checkpoint_manifest.write(temporary if temporary.exists() else path, notes)

    def _finish(self, writer: ocp.AsyncCheckpointer) -> None:
        """Runs in a thread: waits for Orbax, then removes the steps that need not be kept."""
        try:
            writer.wait_until_finished()
            if jax.process_index() == 0:
                self._remove_old()
        except BaseException as error:  # handed to the main thread by check()
            self._failure = error

    def _join_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Runs in a thread: adds to the manifest, then removes the steps that need not be kept."""
        try:
            if jax.process_index() == 0:
                checkpoint_manifest.add_metrics(self.directory / str(step), metrics)
                self._remove_old()
        except BaseException as error:  # handed to the main thread by check()
            self._failure = error

    def _remove_old(self) -> None:
        steps = self.steps()
        keep = {*steps[-self._keep_last :], *self._by_score(steps)[: self._keep_best]}
        for step in steps:
            if step not in keep:
                checkpoint_folder.remove_step(self.directory / str(step))

    def _by_score(self, steps: list[int]) -> list[int]:
        """Those of `steps` that have the best metric, the best first; of equals the newer."""
        scores = {}
        for step in steps:
            try:
                notes = checkpoint_manifest.read(self.directory / str(step)).notes
            except checkpoint_manifest.DamagedCheckpointError:
                continue
            score = notes["metrics"].get(self._best_metric, math.nan)
            if not math.isnan(score):
                scores[step] = (self._sign * score, step)
        return sorted(scores, key=scores.__getitem__, reverse=True)

    # --- reading

    def steps(self) -> list[int]:
        """The finished steps in the folder, ascending; their contents are not looked at."""
        return checkpoint_folder.steps(self.directory)

    def best_step(self) -> int | None:
        """The step with the best `best_metric`, or None where no step has one."""
        self.wait()
        return next(iter(self._by_score(self.steps())), None)

    def restore(
        self,
        abstract_state: Any,
        step: int | None = None,
        iterator: grain.DatasetIterator | None = None,
        partial: bool = False,
        renamed: Mapping[str, str] | None = None,
    ) -> Restored:
        """Restores the newest step that is whole, or `step`.

        Args:
            abstract_state: pytree of `jax.ShapeDtypeStruct` in the shape of the saved state. The
                sharding of each says where it goes, whatever it was when saved; without one it goes
                to this process's first device.
            iterator: set to the saved position, in place. Where another number of processes saved
                it, it is one whose state is the same on any of them.
            partial: `abstract_state` may lack parts of the saved state, which are then not read.
            renamed: older names of fields of the state -> their names now.

        Raises:
            UserError: there is no such checkpoint, it is damaged, or it does not fit
                `abstract_state` or the number of processes.
        """
        self.wait()
        step = self._choose(step)
        path = self.directory / str(step)
        whole_state, old_names = abstract_state, checkpoint_structure.old_names(path, renamed or {})
        if old_names:
            abstract_state = checkpoint_structure.with_old_names(abstract_state, old_names)
        checkpoint_structure.check_fit(path, abstract_state, partial)
        abstract_state = jax.tree.map(_with_sharding, abstract_state)
        items = {
            "state": ocp.args.PyTreeRestore(
                abstract_state,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract_state),
                partial_restore=partial,
            ),
            "config": ocp.args.JsonRestore(),
        }
        reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        try:
            restored = reader.restore(path, args=ocp.args.Composite(**items))
        finally:
            reader.close()
        if iterator is not None:
            iterator.set_state(_iterator_state(path))
        self._current = step
        state = restored["state"]
        if old_names:
            state = dataclasses.replace(
                whole_state,
                **{
                    f.name: state[old_names.get(f.name, f.name)]
                    for f in dataclasses.fields(whole_state)
                },
            )
        notes = checkpoint_manifest.read(path).notes
        return Restored(step, state, restored["config"], notes)

    def holds_weights_alone(self) -> bool:
        """Whether the newest checkpoint is of imported weights, which no training has reached."""
        self.wait()
        path = self.directory / str(self._choose(None))
        return checkpoint_structure.fields(path) <= {"params", "collections"}

    def restore_config(self, step: int | None = None) -> dict[str, Any]:
        """The configuration saved with the newest step that is whole, or with `step`."""
        self.wait()
        path = self.directory / str(self._choose(step))
        return json.loads((path / "config" / "metadata").read_text())

    def _choose(self, step: int | None) -> int:
        """The step to read, the same on all processes, verified by all of them."""
        steps: list[int] = coordination.run_on_process_zero(self.steps)
        if step is None:
            return self._newest_whole(steps)
        if step not in steps:
            raise UserError(f"{self.directory} has no step {step}; it has {steps or 'none'}")
        if (damage := self._damage(step)) is not None:
            raise UserError(f"{self.directory / str(step)}: {damage}")
        return step

    def _newest_whole(self, steps: list[int]) -> int:
        if not steps:
            raise UserError(
                f"no checkpoint in {self.directory}: train first, or name another --workdir"
            )
        for step in reversed(steps):
            if self._damage(step) is None:
                return step
        raise UserError(
            f"none of the {len(steps)} checkpoints in {self.directory} can be read (the newest: "
            f"{self._damaged[steps[-1]]}). Restore the folder from a backup, or train into a new "
            "--workdir"
        )

    def _damage(self, step: int) -> str | None:
        """Why `step` cannot be read, or None; verified and logged once, then remembered.

        Process 0 sees that all files are there; then each process reads its share of them.
        """
        if step not in self._verified and step not in self._damaged:
            path = self.directory / str(step)
            damage = coordination.run_on_process_zero(lambda: _missing_or_cut(path))
            if damage is None:
                damages = coordination.gather(_changed(path))
                damage = next(filter(None, damages), None)
            if damage is None:
                self._verified.add(step)
            else:
                self._damaged[step] = damage
                logging.warning("%s is damaged: %s", path, damage)
        return self._damaged.get(step)


def _missing_or_cut(path: epath.Path) -> str | None:
    """What is missing of a checkpoint, or has another size, or None."""
    try:
        checkpoint_manifest.check_sizes(path)
    except checkpoint_manifest.DamagedCheckpointError as damage:
        return str(damage)
    return None


def _changed(path: epath.Path) -> str | None:
    """What in this process's share of a checkpoint is not as it was written, or None."""
    try:
        manifest = checkpoint_manifest.read(path)
        checkpoint_manifest.verify_share(path, manifest, jax.process_index(), jax.process_count())
    except checkpoint_manifest.DamagedCheckpointError as damage:
        return str(damage)
    return None


def _with_sharding(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    if leaf.sharding is not None:
        return leaf
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)


def _iterator_state(path: epath.Path) -> Any:
    """This process's, or the one state of all where another number of processes saved it."""
    folder = path / "iterator"
    own = folder / f"process_{jax.process_index()}-of-{jax.process_count()}.json"
    if own.exists():
        return json.loads(own.read_text())
    states = [json.loads(file.read_text()) for file in folder.glob("process_*-of-*.json")]
    if not states or any(state != states[0] for state in states):
        raise UserError(
            f"{path} has no data iterator for process {jax.process_index()} of "
            f"{jax.process_count()}: go on with the number of processes that saved it"
        )
    return states[0]


def _failed_save(path: epath.Path, error: BaseException) -> UserError:
    number, kind = _error_number(error), None
    if (line := store_errors.as_user_error(error, path)) is not None:
        kind, reason = type(line), store_errors.first_line(error)
    elif number is not None:
        reason = os.strerror(number)
    else:
        reason = store_errors.first_line(error)
    kind = kind or storage_error_kind(number)
    return kind(
        f"checkpoint {path} could not be saved: {reason}. See that the folder is writable and "
        "the disk has room, then run the same command again: it goes on from the last checkpoint"
    )


def _error_number(error: BaseException | None) -> int | None:
    """The number of the system's error behind an error; TensorStore has it in its text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if match := _OS_ERROR_CODE.search(str(error)):
            return int(match[1])
        error = error.__cause__ or error.__context__
    return None
