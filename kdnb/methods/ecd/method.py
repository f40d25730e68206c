"""ECD: a teacher made from the student itself, and joined to it at every convolution.

Source: Li, Wang, Yao, Qian, Zhou and He, Explicit Connection Distillation, OpenReview yOkSW62hqq2. Equations
and defaults are in ``kdnb/methods/README.md``, section ECD.

The paper states, in its abstract and introduction, which is all we have, that the teacher is the student with
every basic convolution made dynamic, that one-way connections lead from each student convolution to the
teacher's, that both are trained together from scratch, so that the teacher's gradient reaches the student
layer by layer, and that teacher and connections are removed afterwards. The rest is ours, because neither
formulas nor code are public: the form of the dynamic convolution (``networks/dynamic.py``), connections that
add, the two cross entropies, all defaults and all options.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from kdnb.errors import InputError, require_choice
from kdnb.functional import kd_loss, label_loss, positive_temperature, require_counts, require_weights
from kdnb.method import Method, evaluating
from kdnb.methods.ecd.links import ConvolutionRecord, last_of_stages, supplied, watched
from kdnb.networks.dynamic import convolutions, dynamic_copy
from kdnb.taps import tap

LINKS = ("all", "last", "none")  # the words; anything else is paths
ANNEALED_FROM = 30.0  # the first temperature of the attention, as in Chen et al., Dynamic Convolution


class LinkGradient(NamedTuple):
    """The gradients that arrive at the output z_s of one student convolution, (B, C, H, W) each.

    Attributes:
        own: The gradient of the teacher's cross entropy, through the link of this convolution only.

        total: The gradient of the teacher's cross entropy, through this link and through deeper layers of the
            student and their links.

        label: The gradient of the student's own cross entropy.
    """

    own: Tensor
    total: Tensor
    label: Tensor


class ECD(Method):
    """A teacher made of the student's own structure learns with it and adds its gradient at every layer.

    Every convolution of the teacher receives what the student's convolution returns:

        z_s = W * h_s                    the student, unchanged
        z_t = V(h_t) * h_t + c z_s       the teacher; V is a dynamic additive convolution

    The loss terms are ``student/label``, ``teacher/label``, and ``student/soft`` if ``soft_weight`` is above
    0. The teacher's first weights are drawn from the ambient random generator and do not depend on the
    student's. During a pass the networks carry hooks, so only one thread at a time may run it.

    Args:
        student: Any network of ``nn.Conv2d`` that maps images (B, 3, H, W) to logits (B, K).

        experts: K, the kernels that a dynamic convolution mixes, beside its static kernel. With 1 the teacher
            is static.

        attention_temperature: Temperature of the softmax over the experts.

        anneal_epochs: Number of epochs in which this temperature falls linearly from 30 to
            ``attention_temperature``. Evaluation always has the final one.

        links: The convolutions that are linked. ``"all"`` is the paper's. ``"last"`` links the last one of
            each stage. ``"none"`` is a control. A tuple of paths, such as ``("stem", "stages.0")``, links the
            convolutions there and below.

        detached_links: If True, features arrive at the teacher and no gradient returns: a control.

        link_scale: c.

        learnable_scale: If True, every convolution has its own learned c, which starts at ``link_scale``.

        label_weight: Weight of the student's cross entropy.

        teacher_weight: Weight of the teacher's cross entropy.

        soft_weight: Weight of a KD term from the teacher's logits, which get no gradient from it.

        temperature: Temperature of that term.

        computation: How the dynamic convolutions are computed, as in ``DynamicAdditiveConv``.

    Raises:
        InputError: If the student has no convolutions or its structure cannot be copied
            (``networks.dynamic.convolutions``), or if an option is out of range. In the first pass, if a
            convolution runs twice or not at all, or if the student returns more than logits.

    Source:
        Li et al., the abstract; the fact sheet, section ECD.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        experts: int = 4,
        attention_temperature: float = 1.0,
        anneal_epochs: int = 0,
        links: Literal["all", "last", "none"] | tuple[str, ...] = "all",
        detached_links: bool = False,
        link_scale: float = 1.0,
        learnable_scale: bool = False,
        label_weight: float = 1.0,
        teacher_weight: float = 1.0,
        soft_weight: float = 0.0,
        temperature: float = 4.0,
        computation: str = "auto",
    ) -> None:
        super().__init__()
        require_weights(
            label_weight=label_weight,
            teacher_weight=teacher_weight,
            soft_weight=soft_weight,
            link_scale=link_scale,
        )
        require_counts(anneal_epochs=anneal_epochs)
        if links == "none" and learnable_scale:
            raise InputError("learnable_scale has nothing to learn with links='none'; leave one of them out.")
        self.student = student
        self.teacher = dynamic_copy(
            student, experts=experts, temperature=attention_temperature, computation=computation
        )
        self.paths = tuple(convolutions(student))
        if len(links) == 1 and not isinstance(links, str):
            links = links[0]
        if isinstance(links, str):
            require_choice("links", links, [*LINKS, *_parents(self.paths)])
            links = links if links in LINKS else (links,)
        else:
            _require_paths(links, self.paths)
        self.links, self.detached_links = links, detached_links
        self.attention_temperature, self.anneal_epochs = attention_temperature, anneal_epochs
        self.label_weight, self.teacher_weight, self.soft_weight = label_weight, teacher_weight, soft_weight
        self.temperature = positive_temperature(temperature)
        self.link_scale: float | nn.Parameter = link_scale
        if learnable_scale:
            self.link_scale = nn.Parameter(
                next(student.parameters()).new_full((len(self.paths),), link_scale)
            )

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        student, teacher, _ = self._merged(images, self.attention_temperature_at(epoch))
        terms = {
            "student/label": self.label_weight * label_loss(student, labels),
            "teacher/label": self.teacher_weight * label_loss(teacher, labels),
        }
        if self.soft_weight:
            terms["student/soft"] = self.soft_weight * kd_loss(student, teacher.detach(), self.temperature)
        return terms

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        student, teacher, _ = self._merged(images, self.attention_temperature)
        return {"student": student, "teacher": teacher}

    def export(self) -> nn.Module:
        return self.student

    def attention_temperature_at(self, epoch: float) -> float:
        """The temperature of the softmax over the experts.

        Args:
            epoch: Fractional epoch of training, counted from 0.

        Returns:
            The temperature.
        """
        progress = min(epoch / self.anneal_epochs, 1.0) if self.anneal_epochs else 1.0
        return ANNEALED_FROM + progress * (self.attention_temperature - ANNEALED_FROM)

    @torch.no_grad()
    def expert_weights(self, images: Tensor) -> dict[str, Tensor]:
        """How much each expert counts for each image, in eval mode.

        Args:
            images: (B, 3, H, W).

        Returns:
            Weights (B, K) by path of the teacher's convolution. Each row sums to 1.
        """
        attentions = {f"{path}.attention": path for path in self.paths}
        with evaluating(self), tap(self.teacher, *attentions) as seen:
            self.outputs(images)
        return {attentions[name]: weights for name, weights in seen.items()}

    @torch.enable_grad()
    def link_gradients(self, images: Tensor, labels: Tensor) -> dict[str, LinkGradient]:
        """The gradients of both unweighted cross entropies at the outputs of the student's convolutions.

        They are computed as in training, with the final attention temperature, on a copy of the method.

        Args:
            images: (B, 3, H, W).

            labels: (B,).

        Returns:
            The gradients by path, in the order in which the convolutions run. Convolutions without a graph
            are left out.
        """
        method = copy.deepcopy(self).train()
        student, teacher, seen = method._merged(images, self.attention_temperature)
        uses = {path: use for path, use in seen.items() if use.origin is not None}
        origins = [use.origin for use in uses.values()]
        places = [use.output for use in uses.values()] + origins
        asked = {"retain_graph": True, "allow_unused": True}
        found = torch.autograd.grad(label_loss(teacher, labels), places, **asked)
        label = torch.autograd.grad(label_loss(student, labels), origins, **asked)
        own, total, gradients = found[: len(uses)], found[len(uses) :], {}
        for (path, use), *row in zip(uses.items(), own, total, label, strict=True):
            gradients[path] = LinkGradient(*(torch.zeros_like(use.output) if g is None else g for g in row))
        return gradients

    @torch.no_grad()
    def logits_before_and_after_removal(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The student's logits with the teacher joined to it, and after export. They are equal bit for bit.

        Args:
            images: (B, 3, H, W).

        Returns:
            Two tensors of logits (B, K), computed in eval mode.
        """
        with evaluating(self):
            return self.outputs(images)["student"], self.export()(images)

    def _merged(
        self, images: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, dict[str, ConvolutionRecord]]:
        """Returns the logits (B, K) of student and teacher, and what the student's convolutions returned."""
        with watched(self.student, self.paths) as seen:
            student = self.student(images)
        if not isinstance(student, Tensor):
            raise InputError(
                f"The student gives a {type(student).__name__}; ECD needs its logits alone, a tensor (B, K). "
                "Wrap it in a module that returns them."
            )
        links = {path: self._link(path, seen[path].output) for path in self._linked(seen)}
        with supplied(self.teacher, self.paths, links, temperature):
            teacher = self.teacher(images)
        return student, teacher, seen

    def _link(self, path: str, output: Tensor) -> Tensor:
        feature = output.detach() if self.detached_links else output
        if isinstance(self.link_scale, nn.Parameter):
            return self.link_scale[self.paths.index(path)] * feature
        return feature if self.link_scale == 1 else self.link_scale * feature

    def _linked(self, seen: dict[str, ConvolutionRecord]) -> list[str]:
        """Returns the paths of the linked convolutions, among those that ran."""
        if self.links == "last":
            return last_of_stages(self.student, seen)
        if self.links in ("all", "none"):
            return list(seen) if self.links == "all" else []
        return [path for path in seen if _parents([path]).keys() & set(self.links)]


def _require_paths(links: Sequence[str], paths: Iterable[str]) -> None:
    if not links:
        raise InputError("links is an empty tuple. Name at least one path, or choose links='none'.")
    for path in links:
        require_choice("links", path, _parents(paths))


def _parents(paths: Iterable[str]) -> dict[str, None]:
    """Returns every path and the modules it lies in, from the outside in: "stem", "stem.0"."""
    parts = [path.split(".") for path in paths]
    return {".".join(part[:end]): None for part in parts for end in range(1, len(part) + 1)}
