"""The contract that every method keeps, ours or the reader's."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdnb.datasets import Batch
from kdnb.method import Method, ledger


class BrokenContract(AssertionError):
    """A method does not keep one of the promises; the message says which, what was found, and what
    usually causes it."""


def contract(method: Method, images: Tensor, labels: Tensor, *, indices: Tensor | None = None) -> list[str]:
    """Checks everything that training, evaluation, resuming and export rely on.

    The method itself is left untouched. What only a paper can promise, its numbers and its invariants, is
    for the method's own tests. A method that asks for further views gets mirrored images.

    Args:
        method: The method, ours or the reader's.

        images: One batch as in training (B, 3, H, W).

        labels: (B,), int64.

        indices: ``Batch.indices`` (B,). None numbers the images from 0.

    Returns:
        What was checked, in words.

    Raises:
        BrokenContract: At the first promise that is not kept.
    """
    checks: tuple[Callable[[Method, Batch], None], ...] = (
        losses_are_named_finite_scalars,
        outputs_are_logits_and_leave_no_trace,
        passes_leave_no_state,
        every_learning_parameter_has_one_optimizer,
        every_learning_parameter_gets_a_gradient,
        every_term_teaches_someone,
        frozen_networks_stay_as_they_are,
        frozen_networks_matter,
        state_is_complete,
        export_is_a_plain_network,
    )
    indices = torch.arange(len(labels)) if indices is None else indices
    batch = Batch(images, labels, indices.to(labels.device), (images.flip(3),) * method.views)
    for check in checks:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            copied = copy.deepcopy(method).train()
            copied.begin_epoch(0)
            check(copied, batch)
    return [check.__name__.replace("_", " ") for check in checks]


def losses_are_named_finite_scalars(method: Method, batch: Batch) -> None:
    terms = method.train()(batch, 0.0)
    _require(isinstance(terms, dict) and bool(terms), f"losses must be a dict of terms: {terms!r}")
    for name, term in terms.items():
        _require(name.count("/") == 1, f"a term is named 'learner/term', found {name!r}")
        _require(term.shape == (), f"{name!r} has shape {tuple(term.shape)}, expected a scalar")
        _require(bool(torch.isfinite(term)), f"{name!r} is {term.item()}")
        _require(term.requires_grad, f"{name!r} has no gradient: it was detached or under no_grad")


def outputs_are_logits_and_leave_no_trace(method: Method, batch: Batch) -> None:
    images = batch.images
    method.eval()
    before = _snapshot(method)
    with torch.no_grad():
        outputs, again = method.outputs(images), method.outputs(images)
    _require(bool(outputs), "outputs is empty: nothing could be evaluated")
    for name, logits in outputs.items():
        shaped = logits.ndim == 2 and len(logits) == len(images)
        _require(shaped, f"output {name!r} has shape {tuple(logits.shape)}, expected (B, K)")
        _require(torch.equal(logits, again[name]), f"output {name!r} differs when asked again")
    _same(before, method, "evaluation changed")


def passes_leave_no_state(method: Method, batch: Batch) -> None:
    method.train()
    names = {name: set(vars(module)) for name, module in method.named_modules()}
    tensors = {name: _tensors_kept(module) for name, module in method.named_modules()}
    method(batch, 0.0)
    for name, module in method.named_modules():
        added = set(vars(module)) - names[name]
        kept = _tensors_kept(module) != tensors[name]
        _require(not added and not kept, f"a pass left {added or 'a tensor'} on {name or 'the method'}")


def every_learning_parameter_has_one_optimizer(method: Method, batch: Batch) -> None:
    groups = [g for optimizer in method.optimizers(0.1) for g in optimizer.param_groups]
    counts: dict[int, int] = {}
    for group in groups:
        for parameter in group["params"]:
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    for name, parameter in method.named_parameters():
        found, expected = counts.get(id(parameter), 0), int(parameter.requires_grad)
        _require(found == expected, f"{name} is in {found} optimizers, expected {expected}")


def every_learning_parameter_gets_a_gradient(method: Method, batch: Batch) -> None:
    sum(method.train()(batch, 1e3).values()).backward()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            _require(parameter.grad is not None, f"{name} learns but no term reaches it")
            _require(bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite")
            _require(bool(parameter.grad.any()), f"the gradient of {name} is 0 everywhere")


def every_term_teaches_someone(method: Method, batch: Batch) -> None:
    norms = ledger(method, *batch, epoch=1e3, indices=batch.indices, views=batch.views)
    for term, total in norms.sum(axis=1).items():
        _require(total > 0, f"{term!r} has no gradient in any network: it is not active")


def frozen_networks_stay_as_they_are(method: Method, batch: Batch) -> None:
    method.train()
    still = _frozen_parts(method)
    before = {name: _snapshot(part) for name, part in still.items()}
    optimizers = method.optimizers(0.1)
    for _ in range(2):
        sum(method(batch, 0.0).values()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for name, part in still.items():
        _require(not part.training, f"{name} does not learn, but is in train mode: use frozen()")
        _same(before[name], part, f"training changed {name}:")
        touched = [p for p in part.parameters() if p.grad is not None]
        _require(not touched, f"{name} does not learn, but collected gradients")


def frozen_networks_matter(method: Method, batch: Batch) -> None:
    """A frozen network that no term uses is legal only where a weight of 0 left its term out.

    So where another frozen network changes no loss, every attribute ``..._weight`` that is 0 is set to 1:
    then it must change one. A teacher that is ignored by mistake still changes none.

    Args:
        method: What is checked. Its weights may be changed.

        batch: Images with their labels.

    Raises:
        AssertionError: If no weight explains that another frozen network changes nothing.
    """
    still = _frozen_parts(method)
    if not still or _changes_a_loss(still, method, batch):
        return
    numbers = {name: value for name, value in vars(method).items() if isinstance(value, int | float)}
    weights = [name for name, value in numbers.items() if name.endswith("_weight") and value == 0]
    for name in weights:
        setattr(method, name, 1.0)
    found = f"another {', '.join(still)} changes no loss"
    also = f", also with {', '.join(weights)} above 0" if weights else ""
    _require(_changes_a_loss(still, method, batch), found + also)


def state_is_complete(method: Method, batch: Batch) -> None:
    other = copy.deepcopy(method)
    with torch.no_grad():
        for tensor in [*other.parameters(), *other.buffers()]:
            tensor.zero_()
    other.load_state_dict(method.state_dict())
    for name, logits in method.eval().outputs(batch.images).items():
        same = torch.equal(logits, other.eval().outputs(batch.images)[name])
        _require(same, f"output {name!r} differs after saving and loading state_dict")


def export_is_a_plain_network(method: Method, batch: Batch) -> None:
    method.eval()
    net = method.export().eval()
    _require(not isinstance(net, Method), "export returns the method, not a network")
    logits = net(batch.images)
    found = any(torch.equal(logits, output) for output in method.outputs(batch.images).values())
    _require(found, "the exported network gives none of the method's outputs")
    others = {id(p) for part in _frozen_parts(method).values() for p in part.parameters()}
    taken = [name for name, p in net.named_parameters() if id(p) in others]
    _require(not taken, f"the exported network carries scaffolding: {taken[:3]}")


def _require(kept: bool, message: str) -> None:
    if not kept:
        raise BrokenContract(message)


def _frozen_parts(method: Method) -> dict[str, nn.Module]:
    """Direct children with parameters of which none learns."""
    return {
        name: child
        for name, child in method.named_children()
        if any(True for _ in child.parameters())
        and not any(parameter.requires_grad for parameter in child.parameters())
    }


def _changes_a_loss(parts: dict[str, nn.Module], method: Method, batch: Batch) -> bool:
    """Whether other weights of ``parts`` give another value of some term; they keep these weights."""
    terms = {name: term.item() for name, term in method.train()(batch, 0.0).items()}
    with torch.no_grad():
        for parameter in (p for part in parts.values() for p in part.parameters()):
            parameter.add_(torch.randn_like(parameter) * (0.1 + parameter.abs().mean()))
    return terms != {name: term.item() for name, term in method(batch, 0.0).items()}


def _tensors_kept(module: nn.Module) -> dict[str, int]:
    return {name: id(value) for name, value in vars(module).items() if isinstance(value, Tensor)}


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _same(before: dict[str, Tensor], module: nn.Module, message: str) -> None:
    for name, tensor in module.state_dict().items():
        _require(torch.equal(tensor, before[name]), f"{message} {name}")
