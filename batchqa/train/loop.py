"""The loop: batches in, a trained model out. Any kill costs the steps since the last saved state, no more.

What is saved is what the next step depends on: model, optimizer, schedule and random states (accelerate's
`save_state`), and the number of steps done. The batches follow from the seed, so a resumed run sees the
windows that the killed one would have seen, in the same order.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from batchqa.export.extras import load
from batchqa.machine import cpu_flags
from batchqa.records import Float32, Int32, Int64

from .features import Features, batches
from .remembered import RememberedTargets
from .student import accepted_inputs
from .targets import gold_loss, hidden_loss, layer_map, masked, projections, softened, teacher_loss
from .teachers import Teacher
from .train_settings import TrainSettings

STATE = "state-{:08d}"
PROGRESS = "progress.json"
BEST = "best.safetensors"
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """How far a training run is. `loss` is the mean since the last report, `eta_seconds` None at first."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds: float
    eta_seconds: float | None


@dataclass(frozen=True, slots=True, eq=False)
class StepPlan:
    """All steps of a run: which windows each one takes, epoch after epoch."""

    steps: Sequence[Int32]

    @classmethod
    def of(cls, lengths: Int32, settings: TrainSettings) -> StepPlan:
        """`settings.epochs` passes; the last one may be a part of one."""
        steps: list[Int32] = []
        for epoch in range(int(np.ceil(settings.epochs))):
            made = batches(lengths, settings.batch_tokens, settings.seed, epoch)
            steps += made[: max(round(len(made) * min(settings.epochs - epoch, 1.0)), 1)]
        return cls(steps)


class Trainer:
    """A student, its teachers, the optimizer and the schedule, on one device."""

    def __init__(
        self,
        student: Any,
        teachers: Sequence[Teacher],
        features: Features,
        settings: TrainSettings,
        work: Path,
        layers: Sequence[int] | None = None,
    ) -> None:
        """`work` is the folder in which states are kept; `layers` are those that the student began with."""
        torch, accelerate = load("torch"), load("accelerate")
        transformers = load("transformers")
        self.settings, self.features, self.work = settings, features, work
        self.plan = StepPlan.of(features.windows.length, settings)
        cpu = settings.device == "cpu" or not torch.cuda.is_available()
        self.precision = _precision(settings, cpu=cpu)
        self.accelerator = accelerate.Accelerator(
            mixed_precision="bf16" if self.precision == "bf16" else "no", cpu=cpu
        )
        self.device = self.accelerator.device
        if settings.dropout is not None:
            for module in student.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = settings.dropout
        self._layers: list[int] = []
        maps = None
        if settings.hidden:
            master = teachers[0].model
            assert master is not None, "open_teachers refuses a bundle with --hidden"
            self._layers = layer_map(
                student.config.num_hidden_layers, master.config.num_hidden_layers, layers
            )
            maps = projections(student.config.hidden_size, master.config.hidden_size, len(self._layers))
        inputs = accepted_inputs(student)  # before accelerate wraps the model's forward
        optimizer = torch.optim.AdamW(
            _parameter_groups([student, maps], settings.weight_decay), lr=settings.learning_rate, fused=True
        )
        schedule = transformers.get_linear_schedule_with_warmup(
            optimizer, round(len(self.plan.steps) * settings.warmup), len(self.plan.steps)
        )
        self.model = student
        self.student, self.optimizer, self.schedule = self.accelerator.prepare(student, optimizer, schedule)
        self._maps = self.accelerator.prepare(maps) if maps is not None and len(maps) else maps
        self.teachers = teachers
        for teacher in teachers:
            teacher.to(self.device)
        again = bool(teachers) and settings.remembers_teachers
        self._remembered = RememberedTargets(work, features.windows.length) if again else None
        self._inputs = inputs
        self.done = 0
        self.seconds = 0.0
        self.curve: list[dict[str, Any]] = []
        self._losses: list[Any] = []
        torch.manual_seed(settings.seed)

    def resume(self) -> int:
        """Go back to the last whole state, if there is one; returns the number of steps done."""
        for partial in self.work.glob("state-*.tmp"):
            shutil.rmtree(partial, ignore_errors=True)
        states = sorted(self.work.glob("state-*"))
        if states:
            self.accelerator.load_state(str(states[-1]))
            if self._remembered is not None:
                self._remembered.load(states[-1])
            said = orjson.loads((states[-1] / PROGRESS).read_bytes())
            self.done, self.seconds, self.curve = said["step"], said["seconds"], said["curve"]
        return self.done

    def save(self) -> None:
        """Keep what the next step depends on; the state before goes only when this one is whole."""
        final = self.work / STATE.format(self.done)
        if final.exists():
            return
        partial = final.with_suffix(".tmp")
        shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.save_state(str(partial))
        if self._remembered is not None:
            self._remembered.save(partial)
        said = {"step": self.done, "seconds": self.seconds, "curve": self.curve}
        (partial / PROGRESS).write_bytes(orjson.dumps(said))
        partial.rename(final)
        for older in sorted(self.work.glob("state-*")):
            if older != final:
                shutil.rmtree(older, ignore_errors=True)

    def keep_weights(self) -> None:
        """Keep the weights as they are now: the best so far."""
        safetensors = load("safetensors.torch")
        weights = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        partial = self.work / (BEST + ".tmp")
        safetensors.save_file(weights, str(partial))
        partial.rename(self.work / BEST)

    def load_weights(self) -> None:
        """Go back to the weights that were kept last."""
        self.model.load_state_dict(load("safetensors.torch").load_file(str(self.work / BEST)))

    def run(self, report: Callable[[TrainProgress], None]) -> Iterator[int]:
        """Do all steps that are left, yielding the number of steps done after each."""
        began = reported = time.monotonic()
        tokens, first, before = 0, self.done, self.seconds
        self.student.train()
        for index in self.plan.steps[self.done :]:
            tokens += self._step(index)
            self.done += 1
            now = time.monotonic()
            self.seconds = before + now - began
            if now - reported > PROGRESS_SECONDS or self.done == len(self.plan.steps):
                loss = float(sum(float(each) for each in self._losses) / len(self._losses))
                self._losses.clear()
                pace = (now - began) / (self.done - first)
                report(
                    TrainProgress(
                        step=self.done,
                        steps=len(self.plan.steps),
                        loss=loss,
                        tokens_per_second=tokens / (now - began),
                        seconds=now - began,
                        eta_seconds=pace * (len(self.plan.steps) - self.done),
                    )
                )
                reported = now
            yield self.done

    def _step(self, index: Int32) -> int:
        """One step on these windows; returns its tokens."""
        torch = load("torch")
        features = self.features
        batch = features.batch(index)

        def there(array: Any) -> Any:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

        inputs = {
            "input_ids": there(batch.input_ids),
            "attention_mask": there(batch.attention_mask),
            "token_type_ids": there(batch.token_type_ids),
        }
        answerable = there(features.answerable(batch))
        with self.accelerator.autocast():
            output = self.student(**self._accepted(inputs), **self._looked_into)
        start, end = masked(output.start_logits, answerable), masked(output.end_logits, answerable)
        labelled = features.labelled[index]
        gold = gold_loss(
            start,
            end,
            there(features.start[index].astype(np.int64)),
            there(features.end[index].astype(np.int64)),
            there(labelled),
        )
        loss = gold
        if self.teachers:
            known = None if self._remembered is None else self._remembered.of(index)
            taught_by = self._teachers_say(inputs) if known is None else []
            wanted_start, wanted_end = self._wanted(taught_by, answerable) if known is None else there(known)
            if self._remembered is not None and known is None:
                self._remembered.keep(index, torch.stack([wanted_start, wanted_end]).cpu().numpy())
            temperature = self.settings.temperature
            taught = teacher_loss(start, wanted_start, temperature) + teacher_loss(
                end, wanted_end, temperature
            )
            alpha = self.settings.alpha if labelled.any() else 1.0
            loss = alpha * taught / 2 + (1 - alpha) * gold
            if self.settings.hidden:
                attended = inputs["attention_mask"] > 0
                loss = loss + hidden_loss(output, taught_by[0], self._maps, self._layers, attended)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self._losses.append(loss.detach())
        return int(batch.input_ids.size)

    def logits(
        self, input_ids: Int64, attention_mask: Int64, token_type_ids: Int64
    ) -> tuple[Float32, Float32]:
        """The student's start and end logits, float32, (windows, tokens), of int64 inputs of that shape."""
        torch = load("torch")
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        there = {name: torch.from_numpy(array).to(self.device) for name, array in inputs.items()}
        with torch.no_grad(), self.accelerator.autocast():
            output = self.student(**self._accepted(there))
        return output.start_logits.float().cpu().numpy(), output.end_logits.float().cpu().numpy()

    def _accepted(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Those inputs that the student's forward takes: DistilBERT, for one, knows no token types."""
        return {name: inputs[name] for name in self._inputs}

    @property
    def _looked_into(self) -> dict[str, bool]:
        """What a model is asked for besides its logits."""
        return (
            dict.fromkeys(("output_hidden_states", "output_attentions"), True) if self.settings.hidden else {}
        )

    def _teachers_say(self, inputs: dict[str, Any]) -> list[Any]:
        torch = load("torch")
        with torch.no_grad(), self.accelerator.autocast():
            return [teacher(inputs, **self._looked_into) for teacher in self.teachers]

    def _wanted(self, said: Sequence[Any], answerable: Any) -> tuple[Any, Any]:
        """The teachers' softened distributions over starts and ends."""
        temperature = self.settings.temperature
        return (
            softened([masked(output.start_logits, answerable) for output in said], temperature),
            softened([masked(output.end_logits, answerable) for output in said], temperature),
        )


def _precision(settings: TrainSettings, *, cpu: bool) -> str:
    """bf16 where the device computes in it; on a CPU without it it would be slower than float32."""
    if settings.precision != "auto":
        return settings.precision
    torch = load("torch")
    if not cpu:
        return "bf16" if torch.cuda.is_bf16_supported() else "f32"
    return "bf16" if cpu_flags() & {"avx512_bf16", "amx_bf16"} else "f32"


def _parameter_groups(models: Sequence[Any], decay: float) -> list[dict[str, Any]]:
    """Weights with decay; biases and LayerNorm without (Devlin et al. 2019)."""
    decayed: list[Any] = []
    plain: list[Any] = []
    named = [pair for model in models if model is not None for pair in model.named_parameters()]
    for name, parameter in named:
        if parameter.requires_grad:
            (plain if parameter.ndim < 2 or "LayerNorm" in name else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
