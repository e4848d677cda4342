"""A whole training step against the dense baseline, which shares no code with the package."""

import pytest
import torch
from torch import Tensor

import dense
from metasd import kernels
from metasd.config import preset
from metasd.models import Scoring
from metasd.models.model import Model
from metasd.training.parts import Gradients
from metasd.training.schedule import Phase
from metasd.training.step import Step

RANK, ENTITIES, RELATIONS, ROWS = 12, 97, 10, 17


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def both(
    dtype: torch.dtype, *settings: str, seed: int = 0
) -> tuple[Step, dense.DenseMetaSD, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def table(rows: int) -> Tensor:
        return (torch.randn(rows, 2 * RANK, generator=generator) * 0.3).to(dtype)

    def triples() -> Tensor:
        columns = [
            torch.randint(size, (ROWS,), generator=generator)
            for size in (ENTITIES, RELATIONS, ENTITIES)
        ]
        return torch.stack(columns, dim=1)

    config = preset("metasd").override(
        ["relation_prediction.weight=4", f"model.rank={RANK}", "train.precision=fp32", *settings]
    )
    entities, relations = table(ENTITIES), table(RELATIONS)
    weights = torch.rand(ENTITIES, generator=generator).to(dtype)
    entity_mask, relation_mask = kernels.topk_mask([entities, relations], 0.9)
    baseline = dense.DenseMetaSD(
        entities,
        relations,
        dense.Settings(
            RANK,
            regularizer=config.regularizer.name,
            regularizer_weight=config.regularizer.weight,
            temperature=config.distill.temperature,
            forward_weight=config.distill.forward_weight,
            backward_weight=config.distill.backward_weight,
        ),
        kernels.unpack_mask(entity_mask, 2 * RANK),
        kernels.unpack_mask(relation_mask, 2 * RANK),
        weights,
    )
    model = Model(
        Scoring.named("complex")(RANK),
        entities.clone(),
        relations.clone(),
        (entity_mask, relation_mask),
    )
    return Step(model, config, weights), baseline, triples(), triples()


SETTINGS = [
    (),
    ("regularizer.name=n3",),
    ("distill.temperature=0.7", "distill.forward_weight=0.5", "distill.backward_weight=2"),
    ("distill.forward_weight=0",),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: ",".join(s) or "published")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-6)])
def test_every_part_has_the_gradients_of_a_double_backward(
    dtype: torch.dtype, tolerance: float, settings: tuple[str, ...]
) -> None:
    step, baseline, triples, quiz_triples = both(dtype, *settings)
    batch, quiz = step.batch(*triples.T.contiguous()), step.batch(*quiz_triples.T.contiguous())

    def agree(found: Gradients, loss: Tensor, wanted: dict[str, Tensor]) -> None:
        assert relative(found.entities, wanted["entities"]) < tolerance
        assert relative(found.relations, wanted["relations"]) < tolerance
        assert relative(loss, wanted["loss"]) < tolerance

    loss, gradients = step.source_step(batch)
    agree(gradients, loss, baseline.source_step(triples))
    loss, gradients = step.inner_step(batch)
    agree(gradients, loss, baseline.inner_gradient(triples))
    _, loss, gradients = step.meta_step(batch, quiz)
    agree(gradients, loss, baseline.meta_step(triples, quiz_triples))
    source_loss, pruned_loss, gradients = step.mutual_step(batch)
    agree(gradients, source_loss + pruned_loss, baseline.mutual_step(triples))


def test_weights_follow_the_baseline_over_several_steps() -> None:
    step, baseline, triples, quiz = both(torch.float64)
    for shift in range(4):
        rows = (triples + torch.tensor([shift, 0, 2 * shift])) % torch.tensor(
            [ENTITIES, RELATIONS, ENTITIES]
        )
        losses = step(
            Phase.SHARED, step.batch(*rows.T.contiguous()), step.batch(*quiz.T.contiguous())
        )
        wanted = baseline.step(rows, quiz)
        assert float(losses["quiz"]) == pytest.approx(float(wanted["meta"]["loss"]), rel=1e-10)
    assert relative(step.model.entities, baseline.source.entities) < 1e-9
    assert relative(step.model.relations, baseline.source.relations) < 1e-9


def test_bf16_products_are_as_exact_as_eager_ones() -> None:
    exact, _, triples, quiz_triples = both(torch.float64)
    half, _, _, _ = both(torch.float32, "train.precision=bf16")
    eager = dense.DenseMetaSD(
        half.model.entities,
        half.model.relations,
        dense.Settings(
            RANK,
            product_dtype=torch.bfloat16,
            regularizer_weight=half.config.regularizer.weight,
        ),
        *(kernels.unpack_mask(m, 2 * RANK) for m in half.model.masks or ()),
        half.entity_weights,
    )
    batch, quiz = half.batch(*triples.T.contiguous()), half.batch(*quiz_triples.T.contiguous())
    wanted = exact.meta_step(batch, quiz)[2]
    found = half.meta_step(batch, quiz)[2]
    rival = eager.meta_step(triples, quiz_triples)
    assert relative(found.entities, wanted.entities) < 2 * relative(
        rival["entities"], wanted.entities
    )


@pytest.mark.parametrize("name", ["complex", "distmult", "cp", "rescal"])
@pytest.mark.parametrize("values", ["fp32", "int4", "ternary"])
def test_pruned_gradients_stay_inside_the_mask(name: str, values: str) -> None:
    config = preset("metasd").override(
        {"model.name": name, "model.rank": 6, "compact.weight_format": values}
    )
    model = Model.create(Scoring.named(name)(6), 31, 3, seed=0, weight_format=values)
    model.entities *= 300
    model.relations *= 300
    model.masks = tuple(kernels.topk_mask([model.entities, model.relations], 0.8))
    triples = torch.stack([torch.arange(20), torch.arange(20) % 6, torch.arange(20) + 3], dim=1)
    step = Step(model, config)
    _, g = step.inner_step(step.batch(*triples.T.contiguous()))
    for gradient, mask in zip((g.entities, g.relations), model.masks, strict=True):
        kept = kernels.unpack_mask(mask, gradient.shape[1])
        assert gradient[kept].abs().sum() > 0
        assert gradient[~kept].abs().sum() == 0


def test_compact_is_distill_without_teachers() -> None:
    def trained(*settings: str) -> Tensor:
        step, _, triples, _ = both(torch.float64, *settings)
        step(Phase.SHARED, step.batch(*triples.T.contiguous()), None)
        return step.model.entities

    alone = trained("train.objective=compact")
    silent = trained(
        "train.objective=distill", "distill.forward_weight=0", "distill.backward_weight=0"
    )
    taught = trained("train.objective=distill")
    assert torch.equal(alone, silent)
    assert not torch.equal(alone, taught)


SEPARATE = ("compact.weights=separate", "compact.warmup_epochs=1")


@pytest.mark.parametrize("state_of", ["fresh", "source"])
def test_separate_weights_take_the_inner_gradient_and_leave_the_source_alone(state_of: str) -> None:
    settings = (
        "relation_prediction.weight=0",
        "train.objective=distill",
        f"compact.optimizer_state={state_of}",
        *SEPARATE,
    )
    step, baseline, triples, _ = both(torch.float64, *settings)
    step.optimizer.state[step.model.entities]["sum"] += 0.3
    step.untie_weights()
    state = step.optimizer.state[step.model.entities]["sum"] * (state_of == "source")
    source, before = step.model.entities.clone(), step.model.compact_weights[0].clone()
    loss = step.compact_step(step.batch(*triples.T.contiguous()))
    wanted = baseline.inner_gradient(triples)
    assert relative(loss, wanted["loss"]) < 1e-9
    gradient = wanted["entities"]
    moved = before - 0.03 * gradient / ((state + gradient.square()).sqrt() + 1e-10)
    assert relative(step.model.compact_weights[0], moved) < 1e-9
    assert torch.equal(step.model.entities, source)


def test_on_average_several_teachers_are_the_mean_of_their_probabilities() -> None:
    settings = ("relation_prediction.weight=0", "train.objective=distill")
    only_forward = ("distill.backward_weight=0", "distill.temperature=2")
    step, _, triples, _ = both(torch.float64, *settings, *only_forward, *SEPARATE)
    step.untie_weights()
    step.entity_weights = None
    other = tuple(-2 * table for table in (step.model.entities, step.model.relations))
    step.teachers = [(other[0], other[1])]
    heads, relations, tails = triples.T.contiguous()
    keyed = [step.batch(heads, relations, tails, key) for key in range(8)]
    gradients = [
        step._distilled(
            step._encode(step._teacher(batch), batch, tails=False),
            step._encode(step._compact(), batch),
        )[2].entities
        for batch in keyed
    ]
    different = [gradients[0]]
    different += [g for g in gradients if not torch.equal(g, gradients[0])][:1]
    assert len(different) == 2

    rows = step._compact().entities.clone().requires_grad_()
    query = step.model.scoring.query(rows.detach()[heads], step._compact().relations[relations])
    scores = query @ rows.T
    mean = torch.zeros_like(scores)
    for entities, table in ((step.model.entities, step.model.relations), other):
        teaching = step.model.scoring.query(entities[heads], table[relations])
        mean += (teaching @ entities.T / 2).softmax(1)
    loss = torch.nn.functional.cross_entropy(scores, tails) + 3 * torch.nn.functional.kl_div(
        (scores / 2).log_softmax(1), mean / 2, reduction="batchmean"
    )
    (wanted,) = torch.autograd.grad(loss, rows)
    wanted = kernels.apply_mask(wanted, step._compact().masks[0])
    assert relative((different[0] + different[1]) / 2, wanted) < 1e-9


@pytest.mark.parametrize("values", ["fp32", "int2"])
@pytest.mark.parametrize("objective", ["compact", "distill", "metasd"])
def test_a_source_rests_while_separate_weights_train(objective: str, values: str) -> None:
    step, _, triples, quiz = both(torch.float64, f"train.objective={objective}", *SEPARATE)
    step.model.weight_format = values
    before = step.model.entities.clone()
    step.untie_weights()
    for shift in range(3):
        losses = step(
            Phase.SEPARATE,
            step.batch(*((triples + shift) % RELATIONS).T.contiguous()),
            step.batch(*quiz.T.contiguous()),
        )
        assert "compact" in losses
        assert "source" not in losses
    own, _ = step.model.compact_weights
    assert torch.equal(step.model.entities, before) == (objective != "metasd")  # it learns to teach
    assert not torch.equal(own, before)
    compact = step.model.compact
    kept = kernels.unpack_mask(step.model.masks[0], 2 * RANK)  # type: ignore[index]
    assert not compact.entities[~kept].any()
    assert torch.equal(compact.masked[0], own * kept)


@pytest.mark.parametrize("objective", ["dense", "compact", "distill"])
def test_triples_that_share_queries_train_like_those_that_do_not(objective: str) -> None:
    """The same batch, in which queries repeat: one step of the source, one of both models."""
    found = []
    for together in (1, 8):
        step, _, batch, _ = both(
            torch.float64,
            f"train.objective={objective}",
            f"train.triples_per_query={together}",
            *(["compact.weights=separate", "compact.warmup_epochs=1"] * (objective == "distill")),
        )
        batch[:, :2] = batch[torch.arange(ROWS) % 6, :2]
        if objective == "distill":
            step.untie_weights()
        rows = step.batch(*batch.T.contiguous())
        assert (rows.first_of is None) == (together == 1)
        losses = step(Phase.SOURCE, rows, None)
        if objective != "dense":
            phase = Phase.SEPARATE if objective == "distill" else Phase.SHARED
            losses |= step(phase, rows, None)
        model = step.model
        tables = [model.entities, model.relations, *(model.separate or ())]
        found.append([*(losses[name] for name in sorted(losses)), *tables])
    for one, several in zip(*found, strict=True):
        assert relative(several, one) < 1e-12
