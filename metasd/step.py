"""One MetaSD training step: source, temporary student, quiz, mutual (DESIGN of the method below).

Tables are shared: the source scores with E, L; the pruned model with P = mask * (E, L), or with the
quantised values of that. Every loss over all entities gives its gradients in closed form
(`metasd.kernels`); autograd only sees the (B, width) rows of the query encoder.

    0. source step   CE(z_s) + reg_s + w_rel CE_rel_s, one Adagrad step
    1. student       g = gradient of CE(z_p) + reg_p + K(p_s, p_p);  P' = P - inner_lr * mask * g
    2. quiz          v = gradient of CE(z_P') on quiz triples; the source steps along the derivative
                     of that loss through the teacher inside g, with a second Adagrad state
    3. mutual step   both models' CE + reg + w_rel CE_rel + K against the other's fixed softmax
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import torch
from torch import Tensor

from metasd import kernels

from .model import Model
from .sharding import Here, Route

if TYPE_CHECKING:
    from .config import Config


class Batch(NamedTuple):
    """Triples; relations count inverses. Of several processes each reads the rows of some.

    `heads`, `relations` and `tails` lead to the rows of this process's (b,) triples; `targets`
    int64 (B,) are the tails of all triples of its replica, counted from the first entity of its
    block; `share` is what the replica has of the whole batch.
    """

    heads: Route
    relations: Here
    tails: Route
    targets: Tensor
    share: float = 1.0


@dataclass
class Rows:
    """A batch's table rows, leaves of the autograd graph of the query encoder."""

    head: Tensor
    relation: Tensor
    tail: Tensor | None
    """None where only queries are asked for."""


@dataclass
class Gradients:
    """Gradients of both tables, fp32 like the tables."""

    entities: Tensor
    relations: Tensor


@dataclass
class View:
    """The tables that one of the models scores with. Gradients of a masked view are masked."""

    entities: Tensor
    relations: Tensor
    masks: tuple[Tensor, Tensor] | None = None


@dataclass
class Encoded:
    """A batch as a model sees it: its rows and the queries made of them, with their graph.

    `queries` (B, d), without a graph, are those of the other shards, too.
    """

    view: View
    batch: Batch
    rows: Rows
    query: Tensor
    queries: Tensor


class Streaming(TypedDict):
    """How the operations stream scores, and with whom."""

    precision: str
    score_memory: int
    group: str


class Step:
    """The training step of a model, its two optimisers, and the settings it was made for."""

    def __init__(
        self, model: Model, config: "Config", entity_weights: Tensor | None = None
    ) -> None:
        self.model, self.config, self.entity_weights = model, config, entity_weights
        parameters = [model.entities, model.relations]
        self.optimizer = torch.optim.Adagrad(parameters, lr=config.train.lr, fused=_fused(model))
        self.meta_optimizer = torch.optim.Adagrad(
            parameters, lr=config.train.meta_lr, fused=_fused(model)
        )
        self.own_optimizer: torch.optim.Optimizer | None = None
        if model.own:
            self._own_optimizer()

    def part(self) -> None:
        """Gives the pruned model weights of its own: the source's, with its optimiser state."""
        model = self.model
        model.own = (model.entities.clone(), model.relations.clone())
        own = self._own_optimizer()
        for parameter, source in zip(model.own, (model.entities, model.relations), strict=True):
            own.state[parameter]["sum"].copy_(self.optimizer.state[source]["sum"])
        model.changed()

    def _own_optimizer(self) -> torch.optim.Optimizer:
        assert self.model.own
        self.own_optimizer = torch.optim.Adagrad(
            list(self.model.own), lr=self.config.prune.own_lr, fused=_fused(self.model)
        )
        return self.own_optimizer

    def set_rate(self, share: float) -> None:
        """Steps 0 and 3 take this share of their rate from now on."""
        self.optimizer.param_groups[0]["lr"] = self.config.train.lr * share
        if self.own_optimizer:
            self.own_optimizer.param_groups[0]["lr"] = self.config.prune.own_lr * share

    def __call__(self, batch: Batch, quiz: Batch | None) -> dict[str, Tensor]:
        """Trains on a batch; returns losses by name, which nothing has waited for yet.

        Only objective `metasd` needs `quiz`. While there are no masks, the source learns alone; a
        pruned model with weights of its own then learns alone, but for the meta gradient.
        """
        objective = self.config.train.objective if self.model.masks else "dense"
        losses: dict[str, Tensor] = {}
        if objective == "dense" or (self.config.train.source_step and not self.own_optimizer):
            losses["source"] = self.source_step(batch)[0]
        if objective == "metasd":
            assert quiz is not None
            losses["student"], losses["quiz"] = self.meta_step(batch, quiz)[:2]
        if self.own_optimizer and objective != "dense":
            losses["pruned"] = self.own_step(batch)
        elif objective != "dense":
            losses["mutual_source"], losses["mutual_pruned"] = self.mutual_step(batch)[:2]
        shares = [quiz.share if quiz and name == "quiz" else batch.share for name in losses]
        return self.model.shards.total(losses, shares)

    def batch(self, heads: Tensor, relations: Tensor, tails: Tensor) -> Batch:
        """A batch, of which every process is told the whole: three int64 columns (B,)."""
        shards, entities = self.model.shards, self.model.num_entities
        columns = [shards.of_replica(column) for column in (heads, relations, tails)]
        first = shards.block(entities).start
        return Batch(
            shards.route(columns[0], entities),
            Here(shards.mine(columns[1])),
            shards.route(columns[2], entities, self.model.tail_offset),
            columns[2] - first if first else columns[2],
            len(columns[0]) / max(len(heads), 1),
        )

    # Step 0

    def source_step(self, batch: Batch) -> tuple[Tensor, Gradients]:
        source = self._encode(self._source(), batch)
        loss, grad_query, gradients = self._cross_entropy(source)
        loss = loss + self._supervised(source, grad_query, gradients)
        self._apply(self.optimizer, gradients, batch)
        return loss, gradients

    # Steps 1 and 2

    def inner_step(self, batch: Batch) -> tuple[Tensor, Gradients]:
        """Step 1's loss and its gradient g with respect to the pruned tables."""
        source, pruned = self._encode(self._source(), batch), self._encode(self._pruned(), batch)
        return self._learn(source, pruned)

    def meta_step(self, batch: Batch, quiz: Batch) -> tuple[Tensor, Tensor, Gradients]:
        """Returns the student's loss, the quiz loss and the meta gradient of the source."""
        source = self._encode(self._source(), batch, tails=False)
        pruned = self._encode(self._pruned(), batch)
        student_loss, quiz_loss, v = self._learn_and_quiz(source, pruned, quiz)
        along = self._gather(View(v.entities, v.relations), batch, tails=False)
        with torch.no_grad():  # the product rule: the encoder is linear in head and in relation
            tangent = self.model.scoring.query(along.head, pruned.rows.relation)
            tangent += self.model.scoring.query(pruned.rows.head, along.relation)
        grad_query, grad_entities = kernels.meta_gradient(
            source.queries,
            pruned.queries,
            self._shared(tangent, batch),
            self.model.candidates(source.view.entities),
            self.model.candidates(v.entities),
            self._candidate_mask(),
            *self._distillation(),
            inner_lr=self.config.train.inner_lr,
            pruned=self._whole(pruned.view),
            **self._streaming(),
        )
        gradients = self._new_gradients(grad_entities)
        self._backward(source, [(source.query, self._returned(grad_query))], gradients)
        self._apply(self.meta_optimizer, gradients, batch)
        return student_loss, quiz_loss, gradients

    def _learn(self, source: Encoded, pruned: Encoded) -> tuple[Tensor, Gradients]:
        loss, grad_query, gradients = self._distilled(source, pruned)
        penalty, added = self._regularizer(pruned)
        self._backward(pruned, [(pruned.query, grad_query)], gradients, added)
        self._sum(gradients, pruned.batch)
        return loss + penalty, gradients

    def _distilled(self, source: Encoded, pruned: Encoded) -> tuple[Tensor, Tensor, Gradients]:
        """CE(z_p) + K(p_s, p_p), with gradients of the pruned query and of the scored rows."""
        loss, grad_query, grad_entities = kernels.inner_distillation(
            source.queries,
            pruned.queries,
            self.model.candidates(source.view.entities),
            self._candidate_mask(),
            pruned.batch.targets,
            *self._distillation(),
            weight=self.entity_weights,
            pruned=self._whole(pruned.view),
            **self._streaming(),
        )
        loss = loss / self.model.shards.shards
        return loss, self._returned(grad_query), self._new_gradients(grad_entities)

    def _learn_and_quiz(
        self, source: Encoded, pruned: Encoded, quiz: Batch
    ) -> tuple[Tensor, Tensor, Gradients]:
        """The student's loss, the quiz loss at P' = P - inner_lr * mask * g, and its gradient v."""
        student_loss, g = self._learn(source, pruned)
        rate = self.config.train.inner_lr
        stepped = View(  # in the memory of g, which is as large as the tables
            torch.add(pruned.view.entities, g.entities, alpha=-rate, out=g.entities),
            torch.add(pruned.view.relations, g.relations, alpha=-rate, out=g.relations),
            self._masks(),
        )
        student = self._encode(stepped, quiz, tails=False)
        quiz_loss, grad_query, v = self._cross_entropy(student)
        self._backward(student, [(student.query, grad_query)], v)
        self._sum(v, quiz)
        return student_loss, quiz_loss, v

    # Step 3

    def mutual_step(self, batch: Batch) -> tuple[Tensor, Tensor, Gradients]:
        source, pruned = self._encode(self._source(), batch), self._encode(self._pruned(), batch)
        loss_source, loss_pruned, grad_source, grad_pruned, grad_entities = (
            kernels.mutual_distillation(
                source.queries,
                pruned.queries,
                self.model.candidates(source.view.entities),
                self._candidate_mask(),
                batch.targets,
                *self._distillation(),
                weight=self.entity_weights,
                pruned=self._whole(pruned.view),
                **self._streaming(),
            )
        )
        gradients, shards = self._new_gradients(grad_entities), self.model.shards.shards
        grad_source, grad_pruned = self._returned(grad_source), self._returned(grad_pruned)
        loss_source = loss_source / shards + self._supervised(source, grad_source, gradients)
        loss_pruned = loss_pruned / shards + self._supervised(pruned, grad_pruned, gradients)
        self._apply(self.optimizer, gradients, batch)
        return loss_source, loss_pruned, gradients

    # Step 3 of a pruned model with weights of its own

    def own_step(self, batch: Batch) -> Tensor:
        """The student's step 1, kept: its source, where it teaches at all, is not moved by it."""
        assert self.own_optimizer
        pruned = self._encode(self._pruned(), batch)
        if self.config.train.objective == "prune":
            loss, grad_query, gradients = self._cross_entropy(pruned)
        else:
            source = self._encode(self._source(), batch, tails=False)
            loss, grad_query, gradients = self._distilled(source, pruned)
        loss = loss + self._supervised(pruned, grad_query, gradients)
        self._apply(self.own_optimizer, gradients, batch)
        return loss

    # The two views, and what a batch reads and writes of them

    def _source(self) -> View:
        return View(self.model.entities, self.model.relations)

    def _pruned(self) -> View:
        """Masked on the fly, or whole tables of quantised values or weights of its own."""
        if self._masks_suffice():
            return View(self.model.entities, self.model.relations, self._masks())
        return View(*self.model.tables(pruned=True), self._masks())

    def _masks_suffice(self) -> bool:
        return self.model.values == "fp32" and not self.model.own

    def _whole(self, pruned: View) -> Tensor | None:
        """The table that the pruned model scores, where it is more than a mask."""
        return None if self._masks_suffice() else self.model.candidates(pruned.entities)

    def _masks(self) -> tuple[Tensor, Tensor]:
        assert self.model.masks is not None, "the trainer draws the masks before the first batch"
        return self.model.masks

    def _candidate_mask(self) -> Tensor:
        return self.model.candidates(self._masks()[0])

    def _gather(self, view: View, batch: Batch, tails: bool = True) -> Rows:
        entity_mask, relation_mask = view.masks or (None, None)
        rows = Rows(
            batch.heads.gather(view.entities, entity_mask),
            batch.relations.gather(view.relations, relation_mask),
            batch.tails.gather(view.entities, entity_mask) if tails else None,
        )
        for leaf in (rows.head, rows.relation, rows.tail):
            if leaf is not None:
                leaf.requires_grad_()
        return rows

    def _encode(self, view: View, batch: Batch, tails: bool = True) -> Encoded:
        rows = self._gather(view, batch, tails)
        query = self.model.scoring.query(rows.head, rows.relation)
        return Encoded(view, batch, rows, query, self._shared(query.detach(), batch))

    def _cross_entropy(self, model: Encoded) -> tuple[Tensor, Tensor, Gradients]:
        """Cross entropy over entities: (loss, gradient of the queries, gradients of the tables)."""
        loss, grad_query, grad_entities = kernels.entity_cross_entropy_gradients(
            model.queries,
            self.model.candidates(model.view.entities),
            model.batch.targets,
            self.model.candidates(model.view.masks[0]) if model.view.masks else None,
            weight=self.entity_weights,
            **self._streaming(),
        )
        loss = loss / self.model.shards.shards
        return loss, self._returned(grad_query), self._new_gradients(grad_entities)

    def _regularizer(self, model: Encoded) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The penalty, and its gradients with respect to the rows."""
        settings, scoring, rows = self.config.regularizer, self.model.scoring, model.rows
        assert rows.tail is not None
        if settings.name == "none" or settings.weight == 0:
            return rows.head.new_zeros(()), ()
        penalty = scoring.dura if settings.name == "dura" else scoring.n3
        scale = settings.weight / max(len(model.batch.targets), 1)
        with torch.no_grad():
            return penalty(rows.head, rows.relation, rows.tail, scale)

    def _supervised(self, model: Encoded, grad_query: Tensor, gradients: Gradients) -> Tensor:
        """Adds the gradients of a model's query, regulariser and relation prediction."""
        view, batch, rows = model.view, model.batch, model.rows
        loss, added = self._regularizer(model)
        outputs = [(model.query, grad_query)]
        weight = self.config.relation_prediction.weight
        if weight > 0:
            weight *= len(rows.head) / max(len(batch.targets), 1)  # losses are of the whole batch
            assert rows.tail is not None
            relation_query = self.model.scoring.relation_query(rows.head, rows.tail)
            relation_mask = view.masks[1] if view.masks and self._masks_suffice() else None
            relation_loss, grad_relation_query, grad_relations = (
                kernels.entity_cross_entropy_gradients(
                    relation_query.detach(),
                    view.relations,
                    batch.relations.index,
                    relation_mask,
                    precision=self.config.train.precision,
                    score_memory=self.config.train.score_memory,
                )
            )
            if view.masks and relation_mask is None:
                grad_relations = kernels.apply_mask(grad_relations, view.masks[1])
            outputs.append((relation_query, grad_relation_query * weight))
            gradients.relations.add_(grad_relations, alpha=weight)
            loss = loss + weight * relation_loss
        self._backward(model, outputs, gradients, added)
        return loss

    def _backward(
        self,
        model: Encoded,
        outputs: list[tuple[Tensor, Tensor]],
        gradients: Gradients,
        added: tuple[Tensor, ...] = (),
    ) -> None:
        """Carries gradients of the encoder's outputs to the rows and adds those to the tables'.

        `added` are gradients of the rows (head, relation, tail) that are known already.
        """
        view, batch, rows = model.view, model.batch, model.rows
        leaves = [row for row in (rows.head, rows.relation, rows.tail) if row is not None]
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            [output for output, _ in outputs],
            leaves,
            [grad for _, grad in outputs],
            allow_unused=True,
        )
        entity_mask, relation_mask = view.masks or (None, None)
        places = [
            (batch.heads, gradients.entities, entity_mask),
            (batch.relations, gradients.relations, relation_mask),
            (batch.tails, gradients.entities, entity_mask),
        ]
        for i, (route, out, mask) in enumerate(places[: len(leaves)]):
            grad = found[i]
            if added:
                grad = added[i] if grad is None else added[i].add_(grad)
            if grad is not None:
                route.scatter(grad.contiguous(), mask, out)

    def _new_gradients(self, grad_candidates: Tensor) -> Gradients:
        """Starts from the gradient of the scored rows (N, d); with two roles the heads' is zero."""
        if self.model.tail_offset:
            grad_candidates = torch.cat([torch.zeros_like(grad_candidates), grad_candidates])
        return Gradients(grad_candidates, torch.zeros_like(self.model.relations))

    def _shared(self, query: Tensor, batch: Batch) -> Tensor:
        return self.model.shards.shared(query, len(batch.targets))

    def _returned(self, grad_query: Tensor) -> Tensor:
        return self.model.shards.returned(grad_query)

    def _sum(self, gradients: Gradients, batch: Batch) -> None:
        self.model.shards.sum_gradients(gradients.entities, gradients.relations, batch.share)

    def _apply(self, optimizer: torch.optim.Optimizer, gradients: Gradients, batch: Batch) -> None:
        self._sum(gradients, batch)
        tables: list[Tensor] = optimizer.param_groups[0]["params"]
        tables[0].grad, tables[1].grad = gradients.entities, gradients.relations
        optimizer.step()
        tables[0].grad = tables[1].grad = None
        self.model.changed()

    def _distillation(self) -> tuple[float, float, float]:
        settings = self.config.distill
        if self.config.train.objective == "prune":
            return settings.temperature, 0.0, 0.0
        return settings.temperature, settings.forward_weight, settings.backward_weight

    def _streaming(self) -> Streaming:
        settings = self.config.train
        return {
            "precision": settings.precision,
            "score_memory": settings.score_memory,
            "group": self.model.shards.group,
        }


def _fused(model: Model) -> bool:
    """PyTorch's fused Adagrad is for CPUs."""
    return model.entities.dtype == torch.float32 and model.device.type == "cpu"
