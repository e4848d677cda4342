"""One training step: the source, the temporary compact model, the quiz, and both models together.

The source scores with E, L; the compact model with P = mask * (E, L), or with the rounded values of
that, or of weights of its own. Every loss over all entities gives its gradients in closed form
(`metasd.kernels`); autograd sees only the (B, width) rows of the query encoder.

    0. source step   CE(z_s) + reg_s + w_rel CE_rel_s, one Adagrad step
    1. inner step    g = gradient of CE(z_p) + reg_p + K(p_s, p_p);  P' = P - inner_lr * mask * g
                     is the temporary compact model
    2. quiz          v = gradient of CE(z_P') on quiz triples; the source steps along the derivative
                     of that loss through the teacher inside g, with a second Adagrad state
    3. mutual step   both models' CE + reg + w_rel CE_rel + K against the other's fixed softmax

Steps 1 and 2 are the meta step. With separate weights the compact step takes the place of 3.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from metasd import kernels
from metasd.distributed import LocalRows
from metasd.models.model import Model, Tables
from metasd.models.regularizers import PENALTIES

from . import sampling
from .parts import Batch, Encoded, Gradients, Loss, Rows, ScoredTables, Streaming
from .schedule import Phase

if TYPE_CHECKING:
    from metasd.config import Config


class Step:
    """The training step of a model, its optimisers, and the settings that it was made for.

    `teachers` are tables of other sources, which teach separate weights beside the model's own.
    """

    def __init__(
        self, model: Model, config: "Config", entity_weights: Tensor | None = None
    ) -> None:
        self.model, self.config, self.entity_weights = model, config, entity_weights
        self.teachers: list[Tables] = []
        tables = (model.entities, model.relations)
        self.multiplicity: Tensor | None = None  # of the scored rows, where they are a sample
        self.first_entity = model.processes.block(model.num_entities).start  # of those rows
        scored = config, model.num_entities, model.device
        self.triples_per_query = sampling.triples_per_query(*scored)
        self.threshold = sampling.threshold(*scored)
        self.optimizer = self._adagrad(tables, config.train.lr)
        self.meta_optimizer: torch.optim.Optimizer | None = None
        if config.train.objective == "metasd":
            self.meta_optimizer = self._adagrad(tables, config.distill.meta_lr)
        self.compact_optimizer: torch.optim.Optimizer | None = None
        if model.separate:
            self.compact_optimizer = self._adagrad(model.separate, config.compact.lr)

    def untie_weights(self) -> None:
        """Gives the compact model weights of its own: the source's, perhaps with its state."""
        model = self.model
        model.separate = (model.entities.clone(), model.relations.clone())
        self.compact_optimizer = self._adagrad(model.separate, self.config.compact.lr)
        if self.config.compact.optimizer_state == "source":
            sources = (model.entities, model.relations)
            for parameter, source in zip(model.separate, sources, strict=True):
                state = self.compact_optimizer.state[parameter]
                state["sum"].copy_(self.optimizer.state[source]["sum"])
        model.changed()

    def _adagrad(self, tables: tuple[Tensor, Tensor], lr: float) -> torch.optim.Optimizer:
        fused = tables[0].dtype == torch.float32 and tables[0].device.type == "cpu"
        return torch.optim.Adagrad(list(tables), lr=lr, fused=fused)  # fused is for CPUs

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The states of all optimisers by name, for a checkpoint; writable in place."""
        optimizers = {"adagrad": self.optimizer}
        if self.meta_optimizer:
            optimizers["meta_adagrad"] = self.meta_optimizer
        if self.compact_optimizer:
            optimizers["compact_adagrad"] = self.compact_optimizer
        return {
            f"{name}.{table}.{key}": optimizer.state[parameter][key]
            for name, optimizer in optimizers.items()
            for table, parameter in zip(
                ("entities", "relations"), optimizer.param_groups[0]["params"], strict=True
            )
            for key in ("sum", "step")
        }

    def set_lr_factor(self, factor: float) -> None:
        """Scales the rates of steps 0 and 3, and of separate weights, from now on."""
        self.optimizer.param_groups[0]["lr"] = self.config.train.lr * factor
        if self.compact_optimizer:
            self.compact_optimizer.param_groups[0]["lr"] = self.config.compact.lr * factor

    def __call__(self, phase: Phase, batch: Batch, quiz: Batch | None) -> dict[str, Tensor]:
        """Trains on a batch; returns losses by name, without waiting for a GPU.

        Args:
            phase: what the epoch's steps do (`schedule.phase`).
            quiz: needed by objective `metasd`, but for `Phase.SOURCE`.
        """
        losses: dict[str, Tensor] = {}
        if phase is Phase.SOURCE or (phase is Phase.SHARED and self.config.train.source_step):
            losses["source"] = self.source_step(batch)[0]
        if phase is not Phase.SOURCE and self.config.train.objective == "metasd":
            assert quiz is not None
            losses["inner"], losses["quiz"] = self.meta_step(batch, quiz)[:2]
        if phase is Phase.SHARED:
            losses["mutual_source"], losses["mutual_compact"] = self.mutual_step(batch)[:2]
        elif phase is Phase.SEPARATE:
            losses["compact"] = self.compact_step(batch)
        shares = [quiz.share if quiz and name == "quiz" else batch.share for name in losses]
        return self.model.processes.sum_losses(losses, shares)

    def batch(
        self,
        heads: Tensor,
        relations: Tensor,
        tails: Tensor,
        key: int = 0,
        *,
        exact: bool = False,
    ) -> Batch:
        """A batch of which every process is given all: three int64 columns (B,).

        exact: no gradient of it is sampled, and no query of it is shared.
        """
        processes, entities = self.model.processes, self.model.num_entities
        columns = [processes.replica_slice(column) for column in (heads, relations, tails)]
        first = processes.block(entities).start
        query_of = first_of = None
        if self.triples_per_query > 1 and not exact:
            queries = columns[0] * len(self.model.relations) + columns[1]
            _, firsts, places = np.unique(queries.numpy(), return_index=True, return_inverse=True)
            query_of, first_of = torch.from_numpy(places), torch.from_numpy(firsts)
        return Batch(
            processes.row_index(columns[0], entities),
            LocalRows(processes.shard_slice(columns[1])),
            processes.row_index(columns[2], entities, self.model.tail_offset),
            columns[2] - first if first else columns[2],
            len(columns[0]) / max(len(heads), 1),
            processes.replica_start(len(heads)),
            key,
            (heads, tails),
            query_of,
            first_of,
            0.0 if exact else self.threshold,
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
        """Step 1's loss and its gradient g with respect to the compact tables."""
        source, compact = self._encode(self._source(), batch), self._encode(self._compact(), batch)
        return self._inner_gradient(source, compact)

    def meta_step(self, batch: Batch, quiz: Batch) -> tuple[Tensor, Tensor, Gradients]:
        """Returns the losses of steps 1 and 2, and the meta gradient of the source."""
        source = self._encode(self._source(), batch, tails=False)
        compact = self._encode(self._compact(), batch)
        inner_loss, quiz_loss, v = self._inner_and_quiz(source, compact, quiz)
        along = self._gather(ScoredTables(v.entities, v.relations), batch, tails=False)
        with torch.no_grad():  # the product rule: the encoder is linear in head and in relation
            tangent = self.model.scoring.query(along.head, compact.rows.relation)
            tangent += self.model.scoring.query(compact.rows.head, along.relation)
        grad_query, grad_entities = kernels.meta_gradient(
            source.queries,
            compact.queries,
            self._shared(tangent, batch),
            self.model.candidates(source.tables.entities),
            self.model.candidates(v.entities),
            self._candidate_mask(),
            *self._distillation(),
            inner_lr=self.config.distill.inner_lr,
            pruned=self._whole_candidates(compact.tables),
            **self._streaming(batch, Loss.META),
        )
        gradients = self._new_gradients(grad_entities)
        self._backward(source, [(source.query, self._returned(grad_query, batch))], gradients)
        assert self.meta_optimizer is not None
        self._apply(self.meta_optimizer, gradients, batch)
        return inner_loss, quiz_loss, gradients

    def _inner_gradient(self, source: Encoded, compact: Encoded) -> tuple[Tensor, Gradients]:
        loss, grad_query, gradients = self._distilled(source, compact)
        penalty, added = self._regularizer(compact)
        self._backward(compact, [(compact.query, grad_query)], gradients, added)
        self._sum(gradients, compact.batch)
        return loss + penalty, gradients

    def _distilled(self, source: Encoded, compact: Encoded) -> tuple[Tensor, Tensor, Gradients]:
        """CE(z_p) + K(p_s, p_p), with gradients of the compact query and of the scored rows."""
        loss, grad_query, grad_entities = kernels.inner_distillation(
            source.queries,
            compact.queries,
            self.model.candidates(source.tables.entities),
            self._candidate_mask(),
            compact.batch.targets,
            *self._distillation(),
            weight=self.entity_weights,
            pruned=self._whole_candidates(compact.tables),
            query_of=compact.batch.query_of,
            **self._streaming(compact.batch, Loss.INNER),
        )
        loss = loss / self.model.processes.shards
        return (
            loss,
            self._returned(grad_query, compact.batch),
            self._new_gradients(grad_entities),
        )

    def _inner_and_quiz(
        self, source: Encoded, compact: Encoded, quiz: Batch
    ) -> tuple[Tensor, Tensor, Gradients]:
        """Losses of steps 1 and 2, and the gradient v at P' = P - inner_lr * mask * g."""
        inner_loss, g = self._inner_gradient(source, compact)
        rate = self.config.distill.inner_lr
        stepped = ScoredTables(  # in the memory of g, which is as large as the tables
            torch.add(compact.tables.entities, g.entities, alpha=-rate, out=g.entities),
            torch.add(compact.tables.relations, g.relations, alpha=-rate, out=g.relations),
            self.model.masks,
        )
        temporary = self._encode(stepped, quiz, tails=False)
        quiz_loss, grad_query, v = self._cross_entropy(temporary, Loss.QUIZ)
        self._backward(temporary, [(temporary.query, grad_query)], v)
        self._sum(v, quiz)
        return inner_loss, quiz_loss, v

    # Step 3

    def mutual_step(self, batch: Batch) -> tuple[Tensor, Tensor, Gradients]:
        source, compact = self._encode(self._source(), batch), self._encode(self._compact(), batch)
        loss_source, loss_compact, grad_source, grad_compact, grad_entities = (
            kernels.mutual_distillation(
                source.queries,
                compact.queries,
                self.model.candidates(source.tables.entities),
                self._candidate_mask(),
                batch.targets,
                *self._distillation(),
                weight=self.entity_weights,
                pruned=self._whole_candidates(compact.tables),
                query_of=batch.query_of,
                **self._streaming(batch, Loss.MUTUAL),
            )
        )
        gradients, shards = self._new_gradients(grad_entities), self.model.processes.shards
        grad_source = self._returned(grad_source, batch)
        grad_compact = self._returned(grad_compact, batch)
        loss_source = loss_source / shards + self._supervised(source, grad_source, gradients)
        loss_compact = loss_compact / shards + self._supervised(compact, grad_compact, gradients)
        self._apply(self.optimizer, gradients, batch)
        return loss_source, loss_compact, gradients

    # In place of step 3: separate weights

    def compact_step(self, batch: Batch) -> Tensor:
        """Step 1, kept: the source, where it teaches at all, is not moved by it."""
        assert self.compact_optimizer is not None
        compact = self._encode(self._compact(), batch)
        if self.config.train.objective == "compact":
            loss, grad_query, gradients = self._cross_entropy(compact)
        else:
            teacher = self._encode(self._teacher(batch), batch, tails=False)
            loss, grad_query, gradients = self._distilled(teacher, compact)
        loss = loss + self._supervised(compact, grad_query, gradients)
        self._apply(self.compact_optimizer, gradients, batch)
        return loss

    # The tables of both models, and what a batch reads and writes of them

    def _source(self) -> ScoredTables:
        return ScoredTables(self.model.entities, self.model.relations)

    def _teacher(self, batch: Batch) -> ScoredTables:
        """The source or one of the other teachers, by chance.

        The gradient of the divergence from teacher to compact model is linear in the teacher's
        probabilities: on average over steps it is that of their mean.
        """
        which = sampling.key(batch.key, len(Loss)) % (1 + len(self.teachers))
        return ScoredTables(*self.teachers[which - 1]) if which else self._source()

    def _compact(self) -> ScoredTables:
        """Shared weights are masked on the way; rounded or separate ones are written out."""
        compact = self.model.compact
        if compact.weight_format == "fp32" and not self.model.separate:
            return ScoredTables(*compact.weights, compact.masks)
        return ScoredTables(compact.entities, compact.relations, compact.masks, whole=True)

    def _whole_candidates(self, tables: ScoredTables) -> Tensor | None:
        """The table that is scored in place of `mask * entities`, where it is more than that."""
        return self.model.candidates(tables.entities) if tables.whole else None

    def _candidate_mask(self) -> Tensor:
        assert self.model.masks is not None, "the trainer draws the masks before the first batch"
        return self.model.candidates(self.model.masks[0])

    def _gather(self, tables: ScoredTables, batch: Batch, tails: bool = True) -> Rows:
        entity_mask, relation_mask = tables.masks or (None, None)
        rows = Rows(
            batch.heads.gather(tables.entities, entity_mask),
            batch.relations.gather(tables.relations, relation_mask),
            batch.tails.gather(tables.entities, entity_mask) if tails else None,
        )
        for leaf in (rows.head, rows.relation, rows.tail):
            if leaf is not None:
                leaf.requires_grad_()
        return rows

    def _encode(self, tables: ScoredTables, batch: Batch, tails: bool = True) -> Encoded:
        rows = self._gather(tables, batch, tails)
        query = self.model.scoring.query(rows.head, rows.relation)
        return Encoded(tables, batch, rows, query, self._shared(query.detach(), batch))

    def _cross_entropy(
        self, model: Encoded, loss_of: Loss = Loss.SOURCE
    ) -> tuple[Tensor, Tensor, Gradients]:
        """Cross entropy over entities: (loss, gradient of the queries, gradients of the tables)."""
        loss, grad_query, grad_entities = kernels.entity_cross_entropy_gradients(
            model.queries,
            self.model.candidates(model.tables.entities),
            model.batch.targets,
            self.model.candidates(model.tables.masks[0]) if model.tables.masks else None,
            weight=self.entity_weights,
            query_of=model.batch.query_of,
            **self._streaming(model.batch, loss_of),
        )
        loss = loss / self.model.processes.shards
        return loss, self._returned(grad_query, model.batch), self._new_gradients(grad_entities)

    def _regularizer(self, model: Encoded) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The penalty, and its gradients with respect to the rows."""
        settings, scoring, rows = self.config.regularizer, self.model.scoring, model.rows
        assert rows.tail is not None
        if settings.name == "none" or (settings.weight == 0 and settings.name != "ivr"):
            return rows.head.new_zeros(()), ()
        batch = max(len(model.batch.targets), 1)
        weights = [settings.weight / batch]
        if settings.name == "ivr":
            weights += [settings.product_weight / batch, settings.power]
        with torch.no_grad():
            return PENALTIES[settings.name](scoring, rows.head, rows.relation, rows.tail, *weights)

    def _supervised(self, model: Encoded, grad_query: Tensor, gradients: Gradients) -> Tensor:
        """Adds the gradients of a model's query, regulariser and relation prediction."""
        tables, batch, rows = model.tables, model.batch, model.rows
        loss, added = self._regularizer(model)
        outputs = [(model.query, grad_query)]
        weight = self.config.relation_prediction.weight
        if weight > 0:
            weight *= len(rows.head) / max(len(batch.targets), 1)  # losses are of the whole batch
            assert rows.tail is not None
            relation_query = self.model.scoring.relation_query(rows.head, rows.tail)
            relation_mask = tables.masks[1] if tables.masks and not tables.whole else None
            relation_loss, grad_relation_query, grad_relations = (
                kernels.entity_cross_entropy_gradients(
                    relation_query.detach(),
                    tables.relations,
                    batch.relations.index,
                    relation_mask,
                    precision=self.config.train.precision,
                    score_memory=self.config.train.score_memory,
                )
            )
            if tables.masks and relation_mask is None:
                grad_relations = kernels.apply_mask(grad_relations, tables.masks[1])
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
        tables, batch, rows = model.tables, model.batch, model.rows
        leaves = [row for row in (rows.head, rows.relation, rows.tail) if row is not None]
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            [output for output, _ in outputs],
            leaves,
            [grad for _, grad in outputs],
            allow_unused=True,
        )
        entity_mask, relation_mask = tables.masks or (None, None)
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
        """Starts from the gradient of the scored rows (N, d); that of rows before them is zero."""
        if offset := self.model.tail_offset:
            heads = grad_candidates.new_zeros(offset, grad_candidates.shape[1])
            grad_candidates = torch.cat([heads, grad_candidates])
        return Gradients(grad_candidates, torch.zeros_like(self.model.relations))

    def _shared(self, query: Tensor, batch: Batch) -> Tensor:
        queries = self.model.processes.all_gather(query, len(batch.targets))
        return queries if batch.first_of is None else queries[batch.first_of]

    def _returned(self, grad_query: Tensor, batch: Batch) -> Tensor:
        """The gradient of this process's queries; that of a shared one goes to its first triple."""
        if batch.first_of is not None:
            shared = grad_query
            grad_query = shared.new_zeros(len(batch.targets), shared.shape[1])
            grad_query[batch.first_of] = shared
        return self.model.processes.reduce_scatter(grad_query)

    def _sum(self, gradients: Gradients, batch: Batch) -> None:
        self.model.processes.sum_gradients(gradients.entities, gradients.relations, batch.share)

    def _apply(self, optimizer: torch.optim.Optimizer, gradients: Gradients, batch: Batch) -> None:
        self._sum(gradients, batch)
        tables: list[Tensor] = optimizer.param_groups[0]["params"]
        tables[0].grad, tables[1].grad = gradients.entities, gradients.relations
        optimizer.step()
        tables[0].grad = tables[1].grad = None
        self.model.changed()

    def _distillation(self) -> tuple[float, float, float]:
        settings = self.config.distill
        if self.config.train.objective == "compact":
            return settings.temperature, 0.0, 0.0
        return settings.temperature, settings.forward_weight, settings.backward_weight

    def _streaming(self, batch: Batch, loss: Loss) -> Streaming:
        settings, processes = self.config.train, self.model.processes
        drawn = sampling.key(batch.key, loss.value)
        return {
            "precision": settings.precision,
            "score_memory": settings.score_memory,
            "group": processes.group,
            "sampling": kernels.Sampling(batch.threshold, drawn, batch.first, self.first_entity),
            "multiplicity": self.multiplicity,
        }
