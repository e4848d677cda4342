"""The kernels in a plain PyTorch loop: an `nn.Embedding`, an optimiser of PyTorch's, no trainer.

    python examples/kernels_alone.py [--steps 200]

A tenth of an embedding table learns to answer for all of it. `entity_cross_entropy` scores every
row against all entities without a (rows, entities) matrix; `topk_mask` picks the weights to keep.
"""

import argparse

import torch
from torch import nn

from metasd import kernels


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps

    torch.manual_seed(0)
    entities, width, batch = 500, 64, 250
    table = nn.Embedding(entities, width)
    nn.init.normal_(table.weight, std=0.3)
    encoder = nn.Linear(width, width)
    optimizer = torch.optim.Adam([*table.parameters(), *encoder.parameters()], lr=0.01)
    successor = torch.randperm(entities)  # what is to be learned: which entity follows which

    mask = None  # dense at first
    for step in range(steps):
        if step == steps // 2:  # then the tenth of the weights that is largest in magnitude
            mask = kernels.topk_mask([table.weight.detach()], prune_fraction=0.9)[0]
        index = torch.randint(entities, (batch,))
        queries = encoder(kernels.masked_rows(table.weight, mask, index))
        loss = kernels.entity_cross_entropy(queries, table.weight, successor[index], mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % (steps // 4) == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}, {'dense' if mask is None else 'masked'}")

    with torch.no_grad():
        queries = encoder(kernels.masked_rows(table.weight, mask, torch.arange(entities)))
        _, best = kernels.topk_entities(queries, table.weight, 1, mask=mask)
    kept = kernels.unpack_mask(mask, width).float().mean().item()
    found = (best[:, 0] == successor).float().mean().item()
    print(f"{kept:.0%} of the weights find {found:.0%} of the successors")


if __name__ == "__main__":
    main()
